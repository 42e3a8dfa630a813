//! Reads of interned state keys and state groups.

use std::collections::HashMap;

use sea_orm::FromQueryResult;

use super::{
    Run, Store,
    backend::{Cells, Kind},
    params,
};
use crate::{error::StoreError, state_group, state_key};

impl Store {
    /// The interned ones among `(type, state_key)` pairs, in no order.
    pub async fn state_key_nids(&self, pairs: &[(String, String)]) -> Result<Vec<state_key::Model>, StoreError> {
        let db = self.backend();
        let table = db.tuples_table(1, &[("t", Kind::Text), ("k", Kind::Text)]);
        let sql = format!("SELECT s.* FROM {table} JOIN state_key s ON s.type = v.t AND s.state_key = v.k");
        let types = pairs.iter().map(|(kind, _)| kind.clone()).collect();
        let keys = pairs.iter().map(|(_, key)| key.clone()).collect();
        self.reader()
            .all(&sql, db.tuples(vec![Cells::Texts(types), Cells::Texts(keys)]))
            .await
    }

    /// Interned pairs by number, in no order.
    pub async fn state_keys_by_nid(&self, nids: &[i64]) -> Result<Vec<state_key::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM state_key WHERE nid {}", db.any(1));
        self.reader().all(&sql, params![db.ints(nids)]).await
    }

    /// One state group.
    pub async fn state_group(&self, id: i64) -> Result<Option<state_group::Model>, StoreError> {
        self.reader()
            .one("SELECT * FROM state_group WHERE id = $1", params![id])
            .await
    }

    /// A state group and its ancestors up to and including the full copy, which comes last. Empty if there is no such group;
    /// [`StoreError::Inconsistent`] if the chain breaks off.
    pub async fn state_group_chain(&self, id: i64) -> Result<Vec<state_group::Model>, StoreError> {
        Ok(self.state_group_chains(&[id]).await?.remove(&id).unwrap_or_default())
    }

    /// The chains of several groups, each as [`Store::state_group_chain`] answers it; unknown groups are left out.
    pub async fn state_group_chains(&self, ids: &[i64]) -> Result<HashMap<i64, Vec<state_group::Model>>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "WITH RECURSIVE chain (root, id, room_nid, parent, hops, hash, delta, step) AS ( \
               SELECT id, id, room_nid, parent, hops, hash, delta, 0 FROM state_group WHERE id {} \
               UNION ALL \
               SELECT c.root, g.id, g.room_nid, g.parent, g.hops, g.hash, g.delta, c.step + 1 \
               FROM chain c JOIN state_group g ON g.id = c.parent \
             ) SELECT * FROM chain ORDER BY root, step",
            db.any(1)
        );
        let mut chains: HashMap<i64, Vec<state_group::Model>> = HashMap::new();
        for row in self.reader().rows(&sql, params![db.ints(ids)]).await? {
            let chain = chains.entry(row.try_get("", "root")?).or_default();
            chain.push(state_group::Model::from_query_result(&row, "")?);
        }
        let broken = chains
            .values()
            .filter_map(|chain| chain.last())
            .find(|last| last.parent.is_some());
        match broken {
            Some(last) => Err(StoreError::Inconsistent {
                table: "state_group",
                column: "parent",
                key: last.id.to_string(),
            }),
            None => Ok(chains),
        }
    }

    /// The groups of a room with this content hash, oldest first; compare contents before use.
    pub async fn state_group_by_hash(&self, room_nid: i64, hash: &[u8]) -> Result<Vec<state_group::Model>, StoreError> {
        let sql = "SELECT * FROM state_group WHERE room_nid = $1 AND hash = $2 ORDER BY id";
        self.reader().all(sql, params![room_nid, hash]).await
    }
}
