//! A database for each test, of both kinds.
//!
//! `SYNAPSE_RUST_TEST_POSTGRES` is the URL of a maintenance database on a cluster where databases may be created, such as
//! `postgres://postgres@127.0.0.1:54329/postgres`. Unset it fails the test: half of the suite must not go missing by accident.
//! `SYNAPSE_RUST_TEST_POSTGRES=skip` leaves that half out on purpose.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use sea_orm::sqlx::{self, AssertSqlSafe, Connection, Executor, PgConnection};

use crate::store::{Backend, Store, StoreOptions};

/// The variable that says where PostgreSQL is.
pub const POSTGRES_VAR: &str = "SYNAPSE_RUST_TEST_POSTGRES";
/// Key of the advisory lock under which the template is made.
const TEMPLATE_LOCK: i64 = 0x5359_4e52_5f54_4553;

/// A migrated database that is removed with this value.
#[derive(Debug)]
pub struct TestDb {
    url: String,
    backend: Backend,
    cleanup: Cleanup,
}

#[derive(Debug)]
enum Cleanup {
    Folder(PathBuf),
    Database { maintenance: String, name: String },
}

impl TestDb {
    /// A fresh SQLite file in a folder of its own.
    pub async fn sqlite() -> Self {
        let folder = std::env::temp_dir().join(unique("synapse_rust_test"));
        let url = format!("sqlite://{}", folder.join("homeserver.db").display());
        migration::run(&url).await.expect("the migrations run on an empty file");
        Self {
            url,
            backend: Backend::Sqlite,
            cleanup: Cleanup::Folder(folder),
        }
    }

    /// A fresh PostgreSQL database; `None` if they are to be skipped. Panics if it is not said where PostgreSQL is.
    pub async fn postgres() -> Option<Self> {
        let maintenance = maintenance_url()?;
        let mut admin = PgConnection::connect(&maintenance)
            .await
            .expect("the test cluster answers");
        let template = template(&mut admin, &maintenance).await;
        let name = unique("synapse_rust_test");
        run(&mut admin, format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        let url = with_database(&maintenance, &name);
        Some(Self {
            url,
            backend: Backend::Postgres,
            cleanup: Cleanup::Database { maintenance, name },
        })
    }

    /// What [`StoreOptions`] take.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Which kind this is.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// A store on it, with few connections.
    pub async fn store(&self) -> Store {
        let options = StoreOptions {
            max_connections: 4,
            write_connections: 2,
            acquire_timeout_ms: 30_000,
            statement_timeout_ms: 30_000,
            ..StoreOptions::new(&self.url)
        };
        Store::connect(options)
            .await
            .expect("a migrated database can be opened")
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let result = match &self.cleanup {
            Cleanup::Folder(folder) => std::fs::remove_dir_all(folder).map_err(|e| e.to_string()),
            Cleanup::Database { maintenance, name } => drop_database(maintenance.clone(), name.clone()),
        };
        // A panic here, while a failed test unwinds, would hide the failure.
        if let Err(error) = result {
            eprintln!("cannot remove {}: {error}", self.url);
        }
    }
}

/// Runs a test on a database of each kind, one after the other.
pub async fn each_backend<F, Fut>(test: F)
where
    F: Fn(std::sync::Arc<TestDb>) -> Fut,
    Fut: Future<Output = ()>,
{
    for db in [Some(TestDb::sqlite().await), TestDb::postgres().await]
        .into_iter()
        .flatten()
    {
        eprintln!("on {:?}", db.backend);
        test(std::sync::Arc::new(db)).await;
    }
}

fn maintenance_url() -> Option<String> {
    match std::env::var(POSTGRES_VAR).as_deref() {
        Ok("skip") => None,
        Ok(url) => Some(url.to_owned()),
        Err(_) => {
            panic!("set {POSTGRES_VAR} to the URL of a test cluster (scripts/postgres-test starts one), or to skip")
        }
    }
}

/// The same server, another database.
fn with_database(url: &str, name: &str) -> String {
    let (server, query) = url
        .split_once('?')
        .map_or((url, String::new()), |(url, query)| (url, format!("?{query}")));
    let (server, _) = server
        .rsplit_once('/')
        .expect("a PostgreSQL URL names its database after the last slash");
    format!("{server}/{name}{query}")
}

/// A name no other test of this machine has.
fn unique(prefix: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!(
        "{prefix}_{}_{}",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    )
}

/// The name of the migrated database all others are copied from; makes it if this history has none yet.
async fn template(admin: &mut PgConnection, maintenance: &str) -> String {
    let name = format!("synapse_rust_template_{:016x}", migration::fingerprint());
    // It accepts connections only until it is complete.
    let complete = format!("SELECT 1 FROM pg_database WHERE datname = '{name}' AND NOT datallowconn");
    admin
        .execute(sqlx::query("SELECT pg_advisory_lock($1)").bind(TEMPLATE_LOCK))
        .await
        .expect("the lock is granted");
    let found = admin
        .fetch_optional(AssertSqlSafe(complete))
        .await
        .expect("the catalogue can be read");
    if found.is_none() {
        run(admin, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        run(admin, format!("CREATE DATABASE {name}")).await;
        migration::run(&with_database(maintenance, &name))
            .await
            .expect("the migrations run on an empty database");
        run(admin, format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    }
    admin
        .execute(sqlx::query("SELECT pg_advisory_unlock($1)").bind(TEMPLATE_LOCK))
        .await
        .expect("the lock was held");
    name
}

/// The migration's connection may need a moment to end on the server, hence the second attempt.
async fn run(admin: &mut PgConnection, sql: String) {
    for _ in 0..50 {
        match admin.execute(AssertSqlSafe(sql.clone())).await {
            Ok(_) => return,
            Err(error) if error.to_string().contains("being accessed by other users") => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("{sql}: {error}"),
        }
    }
    panic!("{sql}: the database stays in use");
}

/// `Drop` cannot wait for a future: a thread with a runtime of its own can.
fn drop_database(maintenance: String, name: String) -> Result<(), String> {
    let work = move || -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        runtime.block_on(async {
            let mut admin = PgConnection::connect(&maintenance).await.map_err(|e| e.to_string())?;
            let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            admin.execute(AssertSqlSafe(sql)).await.map_err(|e| e.to_string())?;
            admin.close().await.map_err(|e| e.to_string())
        })
    };
    std::thread::spawn(work)
        .join()
        .map_err(|_| "the thread panicked".to_owned())?
}
