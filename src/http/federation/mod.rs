//! What other servers ask: the version, and the keys that this server signs with.

mod keys;
mod version;

use super::endpoint::Table;

/// Registers all chapters.
pub fn routes(table: &mut Table) {
    keys::routes(table);
    version::routes(table);
}
