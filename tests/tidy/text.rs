//! Just enough of Rust's lexical rules to look at code without its comments, literals and unit tests.

/// Blanks comments and the contents of string and character literals; every other byte keeps its place.
pub fn mask(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut masked = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => find(bytes, at, b"\n"),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if !follows_identifier(bytes, at) => raw_string_end(bytes, at),
            b'\'' => character_end(bytes, at),
            _ => at,
        };
        for byte in &mut masked[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    // Whole literals and comments were replaced, so no character was cut.
    String::from_utf8(masked).expect("blanks take the place of whole characters")
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    bytes[from..]
        .windows(what.len())
        .position(|window| window == what)
        .map_or(bytes.len(), |found| from + found)
}

fn block_comment_end(bytes: &[u8], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// `from` itself if no raw string begins there.
fn raw_string_end(bytes: &[u8], from: usize) -> usize {
    let hashes = bytes[from + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = from + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return from;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    (find(bytes, open + 1, &close) + close.len()).min(bytes.len())
}

/// The end of a character literal; `from` itself if it is a lifetime.
fn character_end(bytes: &[u8], from: usize) -> usize {
    if bytes.get(from + 1) == Some(&b'\\') {
        return (find(bytes, from + 3, b"'") + 1).min(bytes.len());
    }
    let rest = String::from_utf8_lossy(&bytes[from + 1..bytes.len().min(from + 6)]).into_owned();
    let mut characters = rest.chars();
    match (characters.next(), characters.next()) {
        (Some(character), Some('\'')) => from + 1 + character.len_utf8() + 1,
        _ => from,
    }
}

fn is_identifier(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// A raw string may follow `b` or `c`, but an `r` inside a word begins nothing.
fn follows_identifier(bytes: &[u8], at: usize) -> bool {
    let before = &bytes[..at];
    let word = before.iter().rev().take_while(|byte| is_identifier(**byte)).count();
    word > 1 || (word == 1 && !matches!(before.last(), Some(b'b' | b'c')))
}

/// Blanks every item under `#[cfg(test)]` in masked code.
pub fn without_tests(code: &str) -> String {
    let mut kept = code.as_bytes().to_vec();
    for (at, attribute) in code.match_indices("#[cfg(test)]") {
        let end = item_end(code.as_bytes(), at + attribute.len());
        for byte in &mut kept[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8(kept).expect("blanks take the place of whole items")
}

/// Is this a file of unit tests, or of their helpers, beside the code?
pub fn is_test_file(path: &str) -> bool {
    let stem = path
        .rsplit('/')
        .next()
        .and_then(|name| name.strip_suffix(".rs"))
        .unwrap_or_default();
    ["tests", "testing"].contains(&stem) || stem.ends_with("_tests") || path.contains("/tests/")
}

/// One past the `;` or the closing brace of the item that begins at `from`.
fn item_end(code: &[u8], from: usize) -> usize {
    match body(code, from) {
        Body::Braces(end) | Body::None(end) => end,
    }
}

enum Body {
    /// One past the last brace.
    Braces(usize),
    /// One past the `;`.
    None(usize),
}

fn body(code: &[u8], from: usize) -> Body {
    let (mut at, mut nested, mut braces) = (from, 0_i32, 0_i32);
    while at < code.len() {
        match code[at] {
            b'(' | b'[' => nested += 1,
            b')' | b']' => nested -= 1,
            b'{' => braces += 1,
            b'}' => {
                braces -= 1;
                if braces == 0 && nested == 0 {
                    return Body::Braces(at + 1);
                }
            }
            b';' if nested == 0 && braces == 0 => return Body::None(at + 1),
            _ => {}
        }
        at += 1;
    }
    Body::None(code.len())
}

/// Name, first line and last line of every function with a body in masked code.
pub fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let line_of = |at: usize| code[..at].matches('\n').count() + 1;
    let mut found = Vec::new();
    for (at, keyword) in code.match_indices("fn ") {
        if at > 0 && is_identifier(code.as_bytes()[at - 1]) {
            continue;
        }
        let name: String = code[at + keyword.len()..]
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if let (false, Body::Braces(end)) = (name.is_empty(), body(code.as_bytes(), at)) {
            found.push((name, line_of(at), line_of(end - 1)));
        }
    }
    found
}

/// Where masked code names a crate: at the head of a path, or alone in a `use`.
pub fn names(code: &str, krate: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    for (at, _) in code.match_indices(krate) {
        let before = code[..at].trim_end();
        let after = code[at + krate.len()..].trim_start();
        let whole = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
            && !bytes.get(at + krate.len()).is_some_and(|byte| is_identifier(*byte));
        // `::actix::x` names the crate as well, `room::actors::x` does not.
        let head = match before.strip_suffix("::") {
            Some(outer) => !outer.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '>'),
            None => true,
        };
        let imported = before.ends_with("use") && (after.starts_with(';') || after.starts_with("as "));
        if whole && head && (after.starts_with("::") || imported) {
            found.push(at);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        for (source, expected) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("x \" y", 'z')"#, "f(        ,    )"),
            ("f(r#\"x \" y\"#, b'\\n')", "f(          , b    )"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("'é' 'ab", "     'ab"),
        ] {
            assert_eq!(mask(source), expected, "{source}");
        }
    }

    #[test]
    fn unit_tests_are_left_out() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { x() }\n}\nfn c() {}\n#[cfg(test)]\nmod d;\n";
        let names: Vec<_> = functions(&without_tests(code))
            .into_iter()
            .map(|(name, _, _)| name)
            .collect();
        assert_eq!(names, ["a", "c"]);
    }

    #[test]
    fn functions_have_lines() {
        let code = "trait T { fn a(); }\nfn b(\n  f: fn(u8) -> [u8; 3],\n) {\n  c();\n}\n";
        assert_eq!(functions(code), [("b".to_owned(), 2, 6)]);
    }

    #[test]
    fn crates_are_found_at_the_head_of_a_path() {
        for (code, named) in [
            ("use actix::Actor;", true),
            ("use actix as a;", true),
            ("#[actix::main]", true),
            ("let x = ::actix::y();", true),
            ("use actix_web::web;", false),
            ("crate::actix::x()", false),
            ("let actix = 3;", false),
        ] {
            assert_eq!(!names(code, "actix").is_empty(), named, "{code}");
        }
    }
}
