//! What can go wrong below the actors.

use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr, SqlErr, sqlx};

/// Why a store function did not do what it was asked. Except for [`StoreError::Unknown`] nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database or the connection to it failed.
    #[error("database: {0}")]
    Driver(String),
    /// No connection was free in time, a statement took too long, or another transaction was in the way: worth trying again.
    #[error("database is busy: {0}")]
    Busy(String),
    /// A stored value does not mean what it must mean.
    #[error("inconsistent {table}.{column} for {key}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// Which row.
        key: String,
    },
    /// A statement met more or fewer rows than it must.
    #[error("{table}: {actual} rows affected instead of {expected}")]
    RowsAffected {
        /// The table.
        table: &'static str,
        /// How many rows had to be there.
        expected: u64,
        /// How many were.
        actual: u64,
    },
    /// Another process has taken over: this one must not write any more.
    #[error("another process has taken over the database")]
    Fenced,
    /// A row with this key is there already, in the named table.
    #[error("duplicate key in {0}")]
    Duplicate(String),
    /// A text holds U+0000, which no database column can store: bad input, not a failure.
    #[error("a text holds U+0000")]
    Nul,
    /// The connection was lost during COMMIT: written or not, read it back to know.
    #[error("outcome of the commit is unknown: {0}")]
    Unknown(String),
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        if let Some(SqlErr::UniqueConstraintViolation(message)) = error.sql_err() {
            return Self::Duplicate(duplicate_table(&error, &message));
        }
        match &error {
            DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) => Self::Busy(error.to_string()),
            _ if database_code(&error).is_some_and(|code| is_busy(&code)) => Self::Busy(error.to_string()),
            _ => Self::Driver(error.to_string()),
        }
    }
}

impl StoreError {
    /// The error of a COMMIT: only what the server itself has refused is known not to be written.
    pub(crate) fn of_commit(error: DbErr) -> Self {
        let refused_by_postgres = sqlx_error(&error)
            .and_then(sqlx::Error::as_database_error)
            .is_some_and(|e| e.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some());
        if refused_by_postgres {
            error.into()
        } else {
            Self::Unknown(error.to_string())
        }
    }
}

/// Whether the connection itself was lost: another one may do. What was asked has then not been answered, but may have run.
pub(crate) fn is_lost(error: &DbErr) -> bool {
    match sqlx_error(error) {
        Some(sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::WorkerCrashed) => true,
        // admin_shutdown, crash_shutdown and the connection exceptions of PostgreSQL.
        Some(sqlx::Error::Database(e)) => e.code().is_some_and(|code| {
            matches!(code.as_ref(), "57P01" | "57P02") || (code.len() == 5 && code.starts_with("08"))
        }),
        _ => false,
    }
}

fn sqlx_error(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(e))
        | DbErr::Exec(RuntimeErr::SqlxError(e))
        | DbErr::Query(RuntimeErr::SqlxError(e)) => Some(e),
        _ => None,
    }
}

fn database_code(error: &DbErr) -> Option<String> {
    sqlx_error(error)?
        .as_database_error()?
        .code()
        .map(|code| code.into_owned())
}

/// PostgreSQL: query_canceled, deadlock_detected, serialization_failure, lock_not_available, too_many_connections.
/// SQLite: BUSY and its extended codes, LOCKED.
fn is_busy(code: &str) -> bool {
    matches!(
        code,
        "57014" | "40P01" | "40001" | "55P03" | "53300" | "5" | "261" | "517" | "6"
    )
}

/// PostgreSQL names the table; SQLite says "UNIQUE constraint failed: table.column, …".
fn duplicate_table(error: &DbErr, message: &str) -> String {
    let named = sqlx_error(error)
        .and_then(sqlx::Error::as_database_error)
        .and_then(|e| e.table());
    match named {
        Some(table) => table.to_owned(),
        None => {
            let columns = message.rsplit(": ").next().unwrap_or(message);
            columns.split('.').next().unwrap_or(columns).to_owned()
        }
    }
}
