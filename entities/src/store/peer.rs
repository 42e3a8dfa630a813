//! Other servers: how it goes with them.

use super::{Run, Store, params};
use crate::{destination, error::StoreError};

impl Store {
    /// What is stored about servers; those never heard of are left out.
    pub async fn destinations<S: AsRef<str> + Sync>(
        &self,
        servers: &[S],
    ) -> Result<Vec<destination::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM destination WHERE server_name {}", db.any(1));
        self.reader().all(&sql, params![db.texts(servers)]).await
    }

    /// Stores how it goes with servers.
    pub async fn put_destinations(&self, rows: &[destination::Model]) -> Result<(), StoreError> {
        self.writer().upsert::<destination::Entity>(rows).await.map(|_| ())
    }
}
