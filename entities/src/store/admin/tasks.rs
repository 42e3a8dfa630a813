//! Work that administrators asked for.

use super::{Run, Slice, Store, params};
use crate::{admin_task, error::StoreError};

impl Store {
    /// Notes work that begins.
    pub async fn begin_admin_task(&self, task: &admin_task::Model) -> Result<(), StoreError> {
        self.writer()
            .insert::<admin_task::Entity>(std::slice::from_ref(task))
            .await
            .map(|_| ())
    }

    /// Notes how far work has come, or that it has ended.
    pub async fn note_admin_task(&self, task: &admin_task::Model) -> Result<(), StoreError> {
        self.writer()
            .upsert::<admin_task::Entity>(std::slice::from_ref(task))
            .await
            .map(|_| ())
    }

    /// One piece of work.
    pub async fn admin_task(&self, id: &str) -> Result<Option<admin_task::Model>, StoreError> {
        let sql = "SELECT * FROM admin_task WHERE id = $1";
        self.reader().one(sql, params![id]).await
    }

    /// The newest pieces of work about a room or user.
    pub async fn admin_tasks_about(&self, subject: &str) -> Result<Vec<admin_task::Model>, StoreError> {
        let sql = "SELECT * FROM admin_task WHERE subject = $1 ORDER BY created_ts DESC, id LIMIT 100";
        self.reader().all(sql, params![subject]).await
    }

    /// A part of the list of all work, newest first; empty texts for any.
    pub async fn admin_tasks(
        &self,
        kind: &str,
        subject: &str,
        status: &str,
        slice: Slice,
    ) -> Result<Vec<admin_task::Model>, StoreError> {
        let sql = "SELECT * FROM admin_task WHERE ($1 = '' OR kind = $1) AND ($2 = '' OR subject = $2) \
                   AND ($3 = '' OR status = $3) ORDER BY created_ts DESC, id LIMIT $4 OFFSET $5";
        self.reader()
            .all(sql, params![kind, subject, status, slice.limit, slice.from])
            .await
    }

    /// Work that has not ended, oldest first.
    pub async fn unfinished_admin_tasks(&self) -> Result<Vec<admin_task::Model>, StoreError> {
        let sql = "SELECT * FROM admin_task WHERE status = 'active' ORDER BY created_ts, id";
        self.reader().all(sql, params![]).await
    }

    /// Forgets work that ended before a time, Unix milliseconds.
    pub async fn prune_admin_tasks(&self, before: i64) -> Result<u64, StoreError> {
        let sql = "DELETE FROM admin_task WHERE status <> 'active' AND updated_ts < $1";
        self.writer().exec(sql, params![before]).await
    }
}
