//! What the integration tests share. The end-to-end crate includes these files as well, so they use nothing of
//! the server's own crates.

pub mod authority;
pub mod client;
pub mod db;
pub mod homeserver;
pub mod mail;
pub mod port;
pub mod server;

/// Declares a test that runs on both databases, as `name::sqlite` and `name::postgres`.
///
/// The body gets a fresh server. `config` changes its configuration before the start:
/// ```ignore
/// both_databases! {
///     async fn a_new_user_knows_their_id(server) {
///         let alice = server.register("alice").await;
///         assert_eq!(alice.user_id, "@alice:localhost");
///     }
///
///     config |table| { table.insert("default_room_version".into(), "11".into()); }
///     async fn another(server) { .. }
/// }
/// ```
#[macro_export]
macro_rules! both_databases {
    () => {};
    (
        $(#[doc = $doc:literal])*
        $(config |$table:ident| $change:block)?
        async fn $name:ident($server:ident) $body:block
        $($rest:tt)*
    ) => {
        $(#[doc = $doc])*
        mod $name {
            use super::*;

            async fn run($server: &$crate::common::server::TestServer) $body

            async fn run_on(backend: $crate::common::db::Backend) {
                let change = |_table: &mut toml::Table| { $(let $table = _table; $change)? };
                run(&$crate::common::server::TestServer::start(backend, change).await).await;
            }

            #[tokio::test]
            async fn sqlite() {
                run_on($crate::common::db::Backend::Sqlite).await;
            }

            #[tokio::test]
            async fn postgres() {
                run_on($crate::common::db::Backend::Postgres).await;
            }
        }

        $crate::both_databases! { $($rest)* }
    };
}
