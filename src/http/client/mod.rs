//! The client-server interface: one module a chapter of the specification, each with its `routes`.

pub mod versions;

use super::endpoint::Table;

/// Registers all chapters.
pub fn routes(table: &mut Table) {
    versions::routes(table);
}
