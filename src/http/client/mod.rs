//! The client-server interface: one module a chapter of the specification, each with its `routes`.

use super::endpoint::Table;

/// Registers all chapters.
pub fn routes(_table: &mut Table) {}
