//! Keeps account of which endpoints of the reference were asked, and writes it down as a table.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::Path};

use super::shapes::{ROWS, Row, SHAPES};

/// The table in the documentation, from the project's folder.
const TABLE: &str = "docs/reference-endpoints.md";

/// What was seen: by method and path as the reference writes them, the sections and the behaviour in words.
#[derive(Debug, Default)]
pub struct Book {
    /// What was not as the reference has it.
    pub faults: Vec<String>,
    seen: BTreeMap<(String, String), Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    statuses: Vec<u16>,
    behaviour: String,
}

impl Book {
    pub fn note(&mut self, method: &str, path: &str, status: u16, behaviour: &str) {
        let entry = self.seen.entry((method.to_owned(), path.to_owned())).or_default();
        if !entry.statuses.contains(&status) {
            entry.statuses.push(status);
            entry.statuses.sort_unstable();
        }
        if !behaviour.is_empty() {
            entry.behaviour = behaviour.to_owned();
        }
    }

    /// Rows that nothing has asked.
    pub fn missing(&self) -> Vec<String> {
        let asked = |row: &&Row| self.seen.contains_key(&(row.method.to_owned(), row.path.to_owned()));
        let missing = ROWS.iter().filter(|row| !asked(row));
        missing.map(|row| format!("{} {}", row.method, row.path)).collect()
    }

    /// Compares the table in the documentation with what was seen, or with `UPDATE_DOCS=1` writes it.
    pub fn compare(&self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE);
        let table = self.table();
        if env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, &table).unwrap_or_else(|error| panic!("{TABLE}: {error}"));
        }
        let written = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{TABLE}: {error}"));
        assert!(
            written == table,
            "{TABLE} is not what was seen; UPDATE_DOCS=1 writes it again"
        );
    }

    fn table(&self) -> String {
        let mut text = String::from(HEAD);
        for row in ROWS.iter() {
            let entry = self.seen.get(&(row.method.to_owned(), row.path.to_owned()));
            let statuses = entry.map_or_else(String::new, |entry| {
                let statuses: Vec<String> = entry.statuses.iter().map(u16::to_string).collect();
                statuses.join(", ")
            });
            let sections = SHAPES
                .iter()
                .filter(|shape| shape.method == row.method && shape.path == row.path);
            let sections: Vec<&str> = sections.map(|shape| shape.section.as_str()).collect();
            let behaviour = match entry.map(|entry| entry.behaviour.as_str()) {
                None => "not asked",
                Some("") => "every documented field, of the documented type",
                Some(behaviour) => behaviour,
            };
            let sections = sections.join(", ");
            writeln!(
                text,
                "| {} | {} | `{}` | {sections} | {statuses} | {behaviour} |",
                row.category, row.method, row.path
            )
            .expect("writing to a string succeeds");
        }
        text
    }
}

const HEAD: &str = "# The 177 endpoints of the API reference

Each row is asked by the test `reference::every_endpoint` on SQLite and on PostgreSQL, and this table is what the test saw;
it fails where a documented field is missing or has another type, and where the table differs from what it sees.
`UPDATE_DOCS=1` writes the table again. Section: where the reference writes the endpoint out; 44 it only counts, and what
they do here is told in the last column. On `/_matrix/client/v3` the same operations follow the Matrix specification.

| area | method | path | section | answered | seen |
|---|---|---|---|---|---|
";
