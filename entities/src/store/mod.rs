//! The store: the one way to the database.
//!
//! # How to write a store function
//! Each chapter has its own file with an `impl Store` block of `pub async fn`s that return `Result<_, StoreError>` and speak
//! in table models (`crate::device::Model`) and plain values; sea-orm types never appear in a public signature.
//! `use super::{Run, Store, params};` brings all that is needed:
//!
//! ```ignore
//! impl Store {
//!     /// A read: any number of calls on `self.reader()`, each one statement on the read pool.
//!     pub async fn device(&self, user: &str, device: &str) -> Result<Option<device::Model>, StoreError> {
//!         let sql = "SELECT * FROM device WHERE user_id = $1 AND device_id = $2";
//!         self.reader().one(sql, params![user, device]).await
//!     }
//!
//!     /// A list in ONE parameter, so that the text (and the prepared statement) is the same for every length.
//!     pub async fn devices_of(&self, users: &[String]) -> Result<Vec<device::Model>, StoreError> {
//!         let db = self.backend();
//!         let sql = format!("SELECT * FROM device WHERE user_id {}", db.any(1));
//!         self.reader().all(&sql, params![db.texts(users)]).await
//!     }
//!
//!     /// A write of one statement: `self.writer()`, which commits by itself.
//!     pub async fn rename(&self, user: &str, device: &str, name: &str) -> Result<(), StoreError> {
//!         let sql = "UPDATE device SET display_name = $3 WHERE user_id = $1 AND device_id = $2";
//!         self.writer().exec(sql, params![user, device, name]).await.map(|_| ())
//!     }
//!
//!     /// A write of several: a transaction. Dropped without `commit` (by `?`) it rolls back.
//!     pub async fn claim(&self, keys: &[one_time_key::Model]) -> Result<(), StoreError> {
//!         let tx = self.begin().await?;
//!         tx.upsert::<one_time_key::Entity>(keys).await?;
//!         tx.exec("DELETE FROM fallback_key WHERE user_id = $1", params!["@a:b"]).await?;
//!         tx.commit().await
//!     }
//! }
//! ```
//! Texts use `$1`, `$2` … on both databases (each may occur several times) and must stay constant apart from what `Backend`
//! inserts. `RETURNING`, `ON CONFLICT`, `UPDATE … FROM` and `WITH RECURSIVE` work on both. What differs goes to `backend.rs`.
//! A transaction holds one of very few write connections (on SQLite: the only one): await nothing but the database in it.

pub mod admin;
pub mod backend;
pub mod backup;
mod bulk;
mod connect;
mod data;
pub mod delayed;
mod directory;
pub mod e2ee;
mod email;
pub mod event;
mod event_rows;
mod fence;
mod friend;
mod graph;
pub mod history;
pub mod import;
mod inbound;
pub mod journal;
mod media;
pub mod peer;
pub mod relation;
pub mod remote_devices;
mod remote_join;
mod room;
pub mod rows;
mod run;
pub mod search;
mod server_key;
pub mod session;
mod state;
mod stream;
mod threads;
mod token;
mod unfinished;
pub mod voice;

use std::sync::Arc;

use sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

pub use backend::Backend;
pub use connect::StoreOptions;
use fence::Fence;
pub(crate) use run::{Pool, Run, Tx, params};

use crate::error::{StoreError, is_lost};

/// Connections tried where a lost one does no harm.
const ATTEMPTS: u32 = 8;

/// The database: cheap to clone, usable from any task of the shared runtime.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    read: DatabaseConnection,
    write: DatabaseConnection,
    /// The journal's own connections, so that nobody can keep it waiting. On SQLite the same as `write`.
    journal: DatabaseConnection,
    fence: Fence,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({:?})", self.inner.backend)
    }
}

impl Store {
    /// Opens the pools. The database must exist and be migrated.
    pub async fn connect(options: StoreOptions) -> Result<Self, StoreError> {
        Ok(Self {
            inner: Arc::new(connect::open(&options).await?),
        })
    }

    /// Which database this is.
    pub fn backend(&self) -> Backend {
        self.inner.backend
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.reader().row("SELECT 1", params![]).await.map(|_| ())
    }

    /// Closes all connections; waits for those in use. Whoever calls the store afterwards gets an error.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.inner.read.close_by_ref().await?;
        self.inner.journal.close_by_ref().await?;
        self.inner.write.close_by_ref().await?;
        Ok(())
    }

    /// The read pool; it cannot write.
    pub(crate) fn reader(&self) -> Pool<'_> {
        Pool::new(&self.inner.read, self.inner.backend).repeating(ATTEMPTS)
    }

    /// The write pool: every statement is a transaction of its own.
    pub(crate) fn writer(&self) -> Pool<'_> {
        Pool::new(&self.inner.write, self.inner.backend).fenced(&self.inner.fence)
    }

    /// A write transaction.
    pub(crate) async fn begin(&self) -> Result<Tx, StoreError> {
        let tx = begin_on(&self.inner.write, self.inner.backend).await?;
        self.inner.fence.check(tx.conn(), self.inner.backend, true).await?;
        Ok(tx)
    }

    /// Whether another process is known to have taken the database over: this one must not answer any more.
    pub fn is_fenced(&self) -> bool {
        self.inner.fence.is_lost()
    }

    /// Looks whether this process still owns the database.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if not.
    pub async fn check_owned(&self) -> Result<(), StoreError> {
        let Inner {
            read, backend, fence, ..
        } = &*self.inner;
        fence.check(read, *backend, false).await
    }

    /// A write transaction on the journal's connection.
    async fn begin_journal(&self) -> Result<Tx, StoreError> {
        begin_on(&self.inner.journal, self.inner.backend).await
    }

    fn journal_writer(&self) -> Pool<'_> {
        Pool::new(&self.inner.journal, self.inner.backend)
    }
}

/// BEGIN changes nothing, so a connection that turns out to be dead is replaced by another. After a restart of the database
/// every pooled one is.
async fn begin_on(pool: &DatabaseConnection, backend: Backend) -> Result<Tx, StoreError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match begin_once(pool, backend).await {
            Ok(tx) => return Ok(Tx::new(tx, backend)),
            Err(error) if attempts < ATTEMPTS && is_lost(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn begin_once(pool: &DatabaseConnection, backend: Backend) -> Result<DatabaseTransaction, DbErr> {
    match backend {
        Backend::Postgres => pool.begin().await,
        // Takes the write lock at once: no transaction can find later that it may not write.
        Backend::Sqlite => {
            let mode = Some(SqliteTransactionMode::Immediate);
            pool.begin_with_options(TransactionOptions {
                sqlite_transaction_mode: mode,
                ..Default::default()
            })
            .await
        }
    }
}

#[cfg(test)]
mod read_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod stream_tests;
