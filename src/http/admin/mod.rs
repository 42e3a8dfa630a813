//! The administration interface.

mod about_user;
mod account;
pub mod actors;
mod devices;
mod doctor;
mod federation;
mod media;
mod params;
mod redact;
mod register;
mod registration_tokens;
mod reports;
mod room_change;
mod room_history;
mod rooms;
mod security;
mod server;
mod statistics;
mod users;

use std::sync::Arc;

use super::endpoint::Table;
use crate::log_ring::LogRing;

/// Registers all chapters.
pub fn routes(table: &mut Table, logs: &Arc<LogRing>) {
    about_user::routes(table);
    account::routes(table);
    actors::routes(table);
    devices::routes(table);
    doctor::routes(table);
    federation::routes(table);
    media::routes(table);
    redact::routes(table);
    register::routes(table);
    registration_tokens::routes(table);
    reports::routes(table);
    room_change::routes(table);
    room_history::routes(table);
    rooms::routes(table);
    security::routes(table);
    server::routes(table, logs.clone());
    statistics::routes(table);
    users::routes(table);
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::http::auth::Policy;
    use crate::http::trie::Lookup;

    /// Registration guards itself, by nonces and a shared secret.
    const OPEN: [(&str, Method); 2] = [
        ("/_synapse/admin/v1/register", Method::GET),
        ("/_synapse/admin/v1/register", Method::POST),
    ];

    #[test]
    fn every_endpoint_is_for_administrators() {
        let mut table = Table::default();
        routes(&mut table, &Arc::default());
        assert!(table.conflicts().is_empty(), "{:?}", table.conflicts());
        let mut seen = 0;
        for (method, path) in table.paths() {
            let own = path.contains("/admin/whois/") && path.starts_with("/_matrix/");
            if own || OPEN.contains(&(path, method.clone())) {
                continue;
            }
            let Lookup::Found(route, _) = table.lookup(&method, path) else {
                panic!("{method} {path} does not find itself");
            };
            assert_eq!(table.endpoint(route.value.0).policy, Policy::Admin, "{method} {path}");
            seen += 1;
        }
        assert!(seen > 120, "{seen}");
    }
}
