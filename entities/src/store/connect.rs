//! Opening the pools.

use std::time::Duration;

use sea_orm::{
    ConnectOptions, Database, DatabaseConnection,
    sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{Backend, Fence, Inner};
use crate::error::StoreError;

/// Prepared statements kept per connection: more than this program has texts.
const STATEMENTS: usize = 512;
/// Every statement here is a lookup by index. Left alone, the planner sorts a room's whole timeline to find its newest events
/// (bitmap scan) as long as its statistics are old, and plans each statement anew five times per connection.
const PLANNER: [(&str, &str); 4] = [
    ("jit", "off"),
    ("enable_bitmapscan", "off"),
    ("random_page_cost", "1.1"),
    ("plan_cache_mode", "force_generic_plan"),
];
/// A connection that rested this long is pinged before use.
const PING_AFTER: Duration = Duration::from_secs(30);

/// How to reach the database.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// `sqlite://path/to/file.db` or `postgres://user:password@host/database`.
    pub url: String,
    /// Connections for reading.
    pub max_connections: u32,
    /// Connections for writing beside the journal's (PostgreSQL; SQLite has exactly one for all writes).
    pub write_connections: u32,
    /// How long to wait for a free connection.
    pub acquire_timeout_ms: u64,
    /// Longest a writing statement may take; on SQLite how long to wait for the file's lock.
    pub statement_timeout_ms: u64,
    /// Longest a reading statement may take (PostgreSQL).
    pub read_timeout_ms: u64,
}

impl StoreOptions {
    /// The defaults for `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_connections: 16,
            write_connections: 5,
            acquire_timeout_ms: 3_000,
            statement_timeout_ms: 5_000,
            read_timeout_ms: 15_000,
        }
    }
}

impl std::fmt::Debug for StoreOptions {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "StoreOptions(read {}, write {})",
            self.max_connections, self.write_connections
        )
    }
}

pub(super) async fn open(options: &StoreOptions) -> Result<Inner, StoreError> {
    if options.url.starts_with("sqlite:") {
        open_sqlite(options).await
    } else {
        open_postgres(options).await
    }
}

fn common(url: String, connections: u32, options: &StoreOptions) -> ConnectOptions {
    let mut connect = ConnectOptions::new(url);
    connect
        .max_connections(connections.max(1))
        .connect_timeout(Duration::from_secs(10))
        .acquire_timeout(Duration::from_millis(options.acquire_timeout_ms))
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire_if_idle_for(PING_AFTER)
        .sqlx_logging(false)
        .record_stmt_in_spans(false);
    connect
}

async fn open_sqlite(options: &StoreOptions) -> Result<Inner, StoreError> {
    if options.url.contains(":memory:") || options.url.contains("mode=memory") {
        return Err(StoreError::Driver("an SQLite database must be a file".to_owned()));
    }
    let busy = Duration::from_millis(options.statement_timeout_ms);
    let pool = async |connections: u32, read_only: bool| -> Result<DatabaseConnection, StoreError> {
        let mut connect = common(options.url.clone(), connections, options);
        connect.map_sqlx_sqlite_opts(move |o| sqlite_options(o, busy, read_only));
        Ok(Database::connect(connect).await?)
    };
    let write = pool(1, false).await?;
    let read = pool(options.max_connections, true).await?;
    Ok(Inner {
        backend: Backend::Sqlite,
        read,
        journal: write.clone(),
        write,
        fence: Fence::default(),
    })
}

fn sqlite_options(o: SqliteConnectOptions, busy: Duration, read_only: bool) -> SqliteConnectOptions {
    let o = o
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        // A commit that was reported survives a power failure.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(busy)
        .foreign_keys(false)
        .statement_cache_capacity(STATEMENTS)
        .pragma("cache_size", "-16000")
        .pragma("temp_store", "memory");
    if read_only { o.pragma("query_only", "on") } else { o }
}

async fn open_postgres(options: &StoreOptions) -> Result<Inner, StoreError> {
    let url = match options.url.strip_prefix("postgresql://") {
        Some(rest) => format!("postgres://{rest}"),
        None => options.url.clone(),
    };
    let pool = async |connections: u32, name: &str, timeout_ms: u64| -> Result<DatabaseConnection, StoreError> {
        let mut connect = common(url.clone(), connections, options);
        connect.set_application_name(format!("synapse-rust {name}"));
        connect.statement_timeout(Duration::from_millis(timeout_ms));
        let read_only = if name == "read" { "on" } else { "off" };
        connect.map_sqlx_postgres_opts(move |o| {
            o.statement_cache_capacity(STATEMENTS)
                .options([("default_transaction_read_only", read_only)])
                .options(PLANNER)
        });
        Ok(Database::connect(connect).await?)
    };
    let journal = pool(2, "journal", options.statement_timeout_ms).await?;
    let write = pool(options.write_connections, "write", options.statement_timeout_ms).await?;
    let read = pool(options.max_connections, "read", options.read_timeout_ms).await?;
    Ok(Inner {
        backend: Backend::Postgres,
        read,
        write,
        journal,
        fence: Fence::default(),
    })
}
