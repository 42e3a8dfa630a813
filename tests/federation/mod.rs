//! Federation: two and more processes of the server that talk over TLS, and one with a peer that means no good.

use std::sync::Arc;

use crate::common::{
    authority::Authority,
    db::Backend,
    homeserver::{Ours, Town},
};

mod accounts;
mod context;
mod devices;
mod friends;
mod hostile;
mod hosting;
mod notary;
mod operator;
mod parents;
mod policy;
pub mod remote;
mod restart;
#[macro_use]
mod scenarios;
mod silence;
mod three;
mod versions;

/// The room version of scenarios that name none.
const VERSION: &str = "12";

/// Two servers of ours, of which one has a name and one an address, and the authority of their certificates.
async fn town(backend: Backend, version: &str) -> (Town, Authority) {
    let authority = Authority::create();
    let (here, there) = tokio::join!(
        Ours::start(backend, &authority, "127.0.0.1"),
        Ours::start(backend, &authority, "localhost"),
    );
    let town = Town {
        here: Arc::new(here),
        there: Arc::new(there),
        version: version.to_owned(),
    };
    (town, authority)
}

/// Declares functions that take a database as tests, `name::sqlite` and `name::postgres`.
macro_rules! both_backends {
    ($($name:ident)*) => {
        $(mod $name {
            use crate::common::db::Backend;

            #[tokio::test]
            async fn sqlite() {
                super::$name(Backend::Sqlite).await;
            }

            #[tokio::test]
            async fn postgres() {
                super::$name(Backend::Postgres).await;
            }
        })*
    };
}
pub(crate) use both_backends;

/// Declares each scenario as a test on both databases.
macro_rules! between_two {
    ($($module:ident { $(($name:ident $since:literal $how:ident))* })*) => {
        mod two {
            $(mod $module {
                $(mod $name {
                    use crate::{common::db::Backend, federation};

                    async fn run_on(backend: Backend) {
                        let (town, _authority) = federation::town(backend, federation::VERSION).await;
                        federation::scenarios::$module::$name(&town).await;
                    }

                    #[tokio::test]
                    async fn sqlite() {
                        run_on(Backend::Sqlite).await;
                    }

                    #[tokio::test]
                    async fn postgres() {
                        run_on(Backend::Postgres).await;
                    }
                })*
            })*
        }
    };
}

every_scenario!(between_two);
