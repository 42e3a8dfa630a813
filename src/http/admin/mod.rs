//! The administration interface.

pub mod actors;

use super::endpoint::Table;

/// Registers all chapters.
pub fn routes(table: &mut Table) {
    actors::routes(table);
}
