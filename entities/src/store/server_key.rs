//! Keys of other servers.

use super::{Run, Store, params};
use crate::{error::StoreError, server_key, server_key_document};

/// Keys that are kept of one server: those that are good for the longest.
const KEYS_KEPT: i64 = 256;

impl Store {
    /// The keys of some servers.
    pub async fn server_keys(&self, servers: &[String]) -> Result<Vec<server_key::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM server_key WHERE server_name {}", db.any(1));
        self.reader().all(&sql, params![db.texts(servers)]).await
    }

    /// The documents that some servers published last.
    pub async fn server_key_documents(
        &self,
        servers: &[String],
    ) -> Result<Vec<server_key_document::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM server_key_document WHERE server_name {}", db.any(1));
        self.reader().all(&sql, params![db.texts(servers)]).await
    }

    /// Adds or replaces a server's document, if there is a newer one, and keys of it.
    pub async fn save_server_keys(
        &self,
        server: &str,
        document: Option<&server_key_document::Model>,
        keys: &[server_key::Model],
    ) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        if let Some(document) = document {
            tx.upsert::<server_key_document::Entity>(std::slice::from_ref(document))
                .await?;
        }
        tx.upsert::<server_key::Entity>(keys).await?;
        let prune = "DELETE FROM server_key WHERE server_name = $1 AND key_id NOT IN (SELECT key_id FROM server_key \
                     WHERE server_name = $1 ORDER BY valid_until_ts DESC, key_id LIMIT $2)";
        tx.exec(prune, params![server, KEYS_KEPT]).await?;
        tx.commit().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_backend;

    fn key(server: &str, id: &str, until: i64) -> server_key::Model {
        server_key::Model {
            server_name: server.to_owned(),
            key_id: id.to_owned(),
            public_key: vec![7; 32],
            valid_until_ts: until,
            expired: false,
            fetched_ts: 1,
        }
    }

    fn document(server: &str, json: &str) -> server_key_document::Model {
        server_key_document::Model {
            server_name: server.to_owned(),
            json: json.to_owned(),
            valid_until_ts: 5,
            fetched_ts: 1,
        }
    }

    #[tokio::test]
    async fn keys_are_replaced_and_the_longest_lived_are_kept() {
        each_backend(|db| async move {
            let store = db.store().await;
            let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            let many: Vec<_> = (0..300).map(|n| key("a", &format!("ed25519:{n}"), n)).collect();
            store
                .save_server_keys("a", Some(&document("a", "{}")), &many)
                .await
                .expect("saved");
            store
                .save_server_keys("b", None, &[key("b", "ed25519:1", 9)])
                .await
                .expect("saved");
            let kept = store.server_keys(&names(&["a"])).await.expect("read");
            assert_eq!(kept.len(), 256);
            assert_eq!(kept.iter().map(|key| key.valid_until_ts).min(), Some(44));

            let newer = server_key::Model {
                expired: true,
                ..key("a", "ed25519:299", 400)
            };
            store
                .save_server_keys("a", Some(&document("a", "{\"x\":1}")), std::slice::from_ref(&newer))
                .await
                .expect("saved");
            let found = store.server_keys(&names(&["a", "b", "c"])).await.expect("read");
            assert_eq!(found.len(), 257);
            assert!(found.contains(&newer) && found.contains(&key("b", "ed25519:1", 9)));
            let documents = store.server_key_documents(&names(&["a", "b"])).await.expect("read");
            assert_eq!(documents, [document("a", "{\"x\":1}")]);
        })
        .await;
    }
}
