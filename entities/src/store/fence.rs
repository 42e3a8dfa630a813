//! Keeps a process from writing after another one has taken the database over.
//!
//! The journal checks the epoch in each of its transactions. Writes beside it check here: transactions hold the head's row
//! so that nobody can take over before their end; single statements look at it first.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use sea_orm::{ConnectionTrait, Value};

use super::{backend::Backend, params, run::statement};
use crate::error::StoreError;

/// The epoch this process writes in.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    /// 0 until it has taken the database over; then nothing is checked.
    epoch: AtomicI64,
    lost: AtomicBool,
}

impl Fence {
    /// This process owns the database now.
    pub(super) fn own(&self, epoch: i64) {
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Another process owns it.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Release);
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Whether the database's epoch is still this process's. With `hold` it stays so until the transaction `conn` ends.
    pub(super) async fn check<C: ConnectionTrait>(
        &self,
        conn: &C,
        backend: Backend,
        hold: bool,
    ) -> Result<(), StoreError> {
        let epoch = self.epoch.load(Ordering::Acquire);
        if self.is_lost() {
            return Err(StoreError::Fenced);
        }
        if epoch == 0 {
            return Ok(());
        }
        let sql = match backend {
            // Lets the journal's UPDATE through, but not `take_epoch`'s lock.
            Backend::Postgres if hold => "SELECT 1 FROM journal_head WHERE id = 1 AND epoch = $1 FOR KEY SHARE",
            // A SQLite write transaction is alone from its BEGIN on.
            _ => "SELECT 1 FROM journal_head WHERE id = 1 AND epoch = $1",
        };
        let values: Vec<Value> = params![epoch];
        let row = conn.query_one_raw(statement(backend, sql, values)?).await?;
        if row.is_some() {
            return Ok(());
        }
        self.lose();
        Err(StoreError::Fenced)
    }
}
