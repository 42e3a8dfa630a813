//! The administration interface.

use super::endpoint::Table;

/// Registers all chapters.
pub fn routes(_table: &mut Table) {}
