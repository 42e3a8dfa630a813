//! What only administrators ask of the database.

pub mod media;
pub mod purge;
pub mod reports;
pub mod rooms;
pub mod security;
pub mod stats;
mod tasks;
pub mod users;

use super::{Run, Store, params};

/// A part of a list: from its `from`th entry on, at most `limit`.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// How many entries are left out.
    pub from: i64,
    /// At most so many.
    pub limit: i64,
    /// In reverse order.
    pub backwards: bool,
}

impl Slice {
    fn direction(self) -> &'static str {
        if self.backwards { "DESC" } else { "ASC" }
    }
}

/// A pattern for texts that hold `part`, whatever their case; empty for all texts.
fn holding(part: Option<&str>) -> String {
    let part = part.unwrap_or_default().to_lowercase();
    match part.is_empty() {
        true => part,
        false => format!("%{}%", super::search::escape(&part)),
    }
}

/// A flag as a parameter: -1 where it does not matter.
fn tristate(flag: Option<bool>) -> i64 {
    flag.map_or(-1, i64::from)
}

#[cfg(test)]
mod tests;
