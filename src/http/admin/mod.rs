//! The administration interface.

mod register;

use super::endpoint::Table;

/// Registers all chapters.
pub fn routes(t: &mut Table) {
    register::routes(t);
}
