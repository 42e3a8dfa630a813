//! Rules of the source text that the compiler does not check: which crate may be named where, how long files and
//! functions may be, where time and randomness come from, and no `unwrap` outside tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

mod text;

use text::{functions, is_test_file, mask, names, without_tests};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;
/// Files that may be longer, each with its reason beside it.
const LONG_FILES: [&str; 0] = [];

const CODE: [&str; 8] = [
    "src",
    "actors/src",
    "actors/audio/src",
    "actors/base/src",
    "actors/federation/src",
    "actors/rules/src",
    "entities/src",
    "migration/src",
];
const TESTS: [&str; 3] = ["tests", "actors/tests", "entities/tests"];

struct Source {
    /// From the workspace's folder, with `/`.
    path: String,
    lines: usize,
    /// Without comments and the contents of literals, and without unit tests; lines stay where they were.
    code: String,
}

/// Every source file that the server is built of, unit tests left out.
fn sources() -> Vec<Source> {
    let files = CODE.iter().flat_map(|folder| files_below(folder));
    files
        .filter(|(path, _)| !is_test_file(path))
        .map(|(path, text)| read(path, &text))
        .collect()
}

fn read(path: String, text: &str) -> Source {
    Source {
        path,
        lines: text.lines().count(),
        code: without_tests(&mask(text)),
    }
}

fn files_below(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    collect(&root.join(folder), &mut found);
    found.sort();
    let with_text = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let path = path.strip_prefix(root).expect("files are below the workspace");
        (path.to_string_lossy().replace('\\', "/"), text)
    };
    found.into_iter().map(with_text).collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("the workspace can be read").path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Fails with all of the complaints at once.
#[track_caller]
fn report(rule: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "{rule}:\n  {}", complaints.join("\n  "));
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// May a file name this crate? Crates without a rule may be named anywhere.
fn may_name(krate: &str, path: &str) -> bool {
    let below = |folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
    match krate {
        "actix" | "actix_rt" | "actix_web" | "actix_http" => {
            let actor = path.starts_with("actors/") && path.ends_with("/actor.rs");
            actor
                || below(&[
                    "src/http/",
                    "src/http.rs",
                    "src/boot",
                    "src/main.rs",
                    "actors/base/src/supervisor",
                ])
        }
        "sea_orm" | "sqlx" => below(&["entities/", "migration/"]),
        "sea_orm_migration" => below(&["migration/"]),
        "synapse_rust" | "actors" => below(&["src/"]),
        "migration" => below(&["src/", "entities/src/testing.rs"]),
        "audio" => below(&["actors/"]),
        "base" | "rules" | "entities" => below(&["src/", "actors/"]),
        _ => true,
    }
}

#[test]
fn crates_are_named_only_where_they_may_be() {
    const RULED: [&str; 14] = [
        "actix",
        "actix_rt",
        "actix_web",
        "actix_http",
        "sea_orm",
        "sqlx",
        "sea_orm_migration",
        "synapse_rust",
        "actors",
        "audio",
        "migration",
        "base",
        "rules",
        "entities",
    ];
    let mut complaints = Vec::new();
    for source in sources() {
        for krate in RULED {
            if may_name(krate, &source.path) {
                continue;
            }
            if let Some(at) = names(&source.code, krate).first() {
                complaints.push(format!("{}:{} names {krate}", source.path, line_of(&source.code, *at)));
            }
        }
    }
    report("a crate is named where it must not be", &complaints);
}

#[test]
fn files_are_short() {
    let mut complaints = Vec::new();
    for (path, text) in CODE.iter().chain(&TESTS).flat_map(|folder| files_below(folder)) {
        let lines = text.lines().count();
        if lines > MAX_FILE_LINES && !LONG_FILES.contains(&path.as_str()) {
            complaints.push(format!("{path}: {lines} lines"));
        }
    }
    report(&format!("files have at most {MAX_FILE_LINES} lines"), &complaints);
}

#[test]
fn functions_are_short() {
    let mut complaints = Vec::new();
    for source in sources() {
        for (name, first, last) in functions(&source.code) {
            let lines = last - first + 1;
            if lines > MAX_FUNCTION_LINES {
                complaints.push(format!("{}:{first} fn {name}: {lines} lines", source.path));
            }
        }
    }
    report(
        &format!("functions have at most {MAX_FUNCTION_LINES} lines"),
        &complaints,
    );
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    let mut complaints = Vec::new();
    for source in sources() {
        for (at, _) in source.code.match_indices(".unwrap()") {
            complaints.push(format!("{}:{}", source.path, line_of(&source.code, at)));
        }
    }
    report(
        "`expect` with the reason, or an error, instead of `unwrap`",
        &complaints,
    );
}

#[test]
fn time_and_randomness_are_injected() {
    const SOURCES: [&str; 5] = ["SystemTime::now", "Utc::now", "thread_rng", "rand::rng", "rand::random"];
    let mut complaints = Vec::new();
    for source in sources() {
        if ["actors/base/src/clock.rs", "actors/base/src/rng.rs"].contains(&source.path.as_str()) {
            continue;
        }
        for name in SOURCES {
            for (at, _) in source.code.match_indices(name) {
                complaints.push(format!("{}:{} {name}", source.path, line_of(&source.code, at)));
            }
        }
    }
    report(
        "time comes from the clock and randomness from the generator that are handed in",
        &complaints,
    );
}

#[test]
fn every_source_file_was_seen() {
    let seen = sources();
    for folder in CODE {
        assert!(
            seen.iter().any(|source| source.path.starts_with(folder)),
            "no sources in {folder}"
        );
    }
    assert!(
        seen.iter().all(|source| source.lines == source.code.lines().count()),
        "masking moves no line"
    );
}
