//! The client-server interface: one module a chapter of the specification, each with its `routes`.

mod account;
mod account_data;
mod backup;
mod cross_signing;
mod data;
mod dehydrated;
mod delayed;
pub mod devices;
mod emails;
mod fallback;
mod filter;
mod friends;
pub mod keys;
mod login;
mod openid;
mod presence;
mod profile;
mod push_rules;
mod pushers;
mod receipts;
mod register;
mod rendezvous;
pub mod rooms;
pub mod rtc;
mod sync;
mod tags;
mod third_party;
mod threads;
mod to_device;
pub mod tokens;
mod typing;
pub mod uia;
pub mod versions;
mod voice;
mod voip;

use super::endpoint::Table;
use crate::config::Config;

/// Registers all chapters.
pub fn routes(table: &mut Table, config: &Config) {
    account::routes(table);
    emails::routes(table);
    account_data::routes(table);
    backup::routes(table);
    cross_signing::routes(table);
    dehydrated::routes(table);
    delayed::routes(table);
    devices::routes(table);
    fallback::routes(table);
    filter::routes(table);
    friends::routes(table);
    keys::routes(table);
    login::routes(table);
    openid::routes(table);
    presence::routes(table);
    profile::routes(table);
    push_rules::routes(table);
    pushers::routes(table);
    receipts::routes(table);
    register::routes(table);
    rendezvous::routes(table);
    rooms::routes(table);
    rtc::routes(table);
    sync::routes(table);
    tags::routes(table);
    third_party::routes(table);
    threads::routes(table);
    to_device::routes(table);
    typing::routes(table);
    versions::routes(table);
    voice::routes(table, config);
    voip::routes(table);
}
