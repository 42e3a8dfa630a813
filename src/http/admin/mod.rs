//! The administration interface.

pub mod actors;
mod doctor;
mod federation;
mod register;
mod registration_tokens;

use super::endpoint::Table;

/// Registers all chapters.
pub fn routes(table: &mut Table) {
    actors::routes(table);
    doctor::routes(table);
    federation::routes(table);
    register::routes(table);
    registration_tokens::routes(table);
}
