//! Connecting and locking, which the two databases do differently.

use std::{path::PathBuf, str::FromStr, time::Duration};

use sea_orm_migration::{
    prelude::*,
    sea_orm::{
        ConnectOptions, Database, DatabaseConnection, SqliteTransactionMode, TransactionOptions, TransactionTrait,
        sqlx::{self, Connection, Executor, PgConnection, sqlite::SqliteConnectOptions},
    },
};

use crate::{MigrateError, Migrator};

/// How long a second process waits for the first one's run.
const LOCK_WAIT: Duration = Duration::from_secs(600);
/// Key of the PostgreSQL advisory lock.
const LOCK_KEY: i64 = 0x5359_4e52_5f4d_4947;

impl From<sqlx::Error> for MigrateError {
    fn from(error: sqlx::Error) -> Self {
        Self(error.to_string())
    }
}

pub fn is_sqlite(url: &str) -> bool {
    url.starts_with("sqlite:")
}

/// The file behind a `sqlite:` URL.
pub fn sqlite_path(url: &str) -> Result<PathBuf, MigrateError> {
    Ok(SqliteConnectOptions::from_str(url)?.get_filename().to_owned())
}

/// One connection. `create` makes a missing SQLite file.
pub async fn open(url: &str, create: bool) -> Result<DatabaseConnection, MigrateError> {
    let url = match url.strip_prefix("postgresql://") {
        Some(rest) => format!("postgres://{rest}"),
        None => url.to_owned(),
    };
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(1)
        .sqlx_logging(false)
        .set_application_name("synapse-rust migration");
    options.map_sqlx_sqlite_opts(move |o| {
        let o = o.create_if_missing(create).busy_timeout(LOCK_WAIT);
        if create {
            o.journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
        } else {
            o
        }
    });
    Ok(Database::connect(options).await?)
}

/// SQLite: one immediate transaction around the whole run is the lock.
pub async fn migrate_sqlite(url: &str, steps: Option<u32>) -> Result<(), MigrateError> {
    let path = sqlite_path(url)?;
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .map_err(|e| MigrateError(format!("cannot create {}: {e}", folder.display())))?;
    }
    let db = open(url, true).await?;
    let immediate = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..Default::default()
    };
    let tx = db.begin_with_options(immediate).await?;
    let result = Migrator::up(&tx, steps).await;
    match result {
        Ok(()) => tx.commit().await?,
        Err(_) => tx.rollback().await?,
    }
    db.close().await?;
    Ok(result?)
}

/// PostgreSQL: an advisory lock, held by a connection of its own for the whole run.
pub async fn migrate_postgres(url: &str, steps: Option<u32>) -> Result<(), MigrateError> {
    let mut lock = PgConnection::connect(url).await?;
    lock.execute(sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK_KEY))
        .await?;
    let result = async {
        let db = open(url, true).await?;
        let result = Migrator::up(&db, steps).await;
        db.close().await?;
        Ok(result?)
    }
    .await;
    // Ending the session would free it as well.
    lock.execute(sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK_KEY))
        .await?;
    lock.close().await?;
    result
}
