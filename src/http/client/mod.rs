//! The client-server interface: one module a chapter of the specification, each with its `routes`.

mod account;
mod devices;
mod login;
mod openid;
mod register;
mod rooms;
mod sync;
pub mod tokens;
pub mod uia;
pub mod versions;

use super::endpoint::Table;

/// Registers all chapters.
pub fn routes(table: &mut Table) {
    account::routes(table);
    devices::routes(table);
    login::routes(table);
    openid::routes(table);
    register::routes(table);
    rooms::routes(table);
    sync::routes(table);
    versions::routes(table);
}
