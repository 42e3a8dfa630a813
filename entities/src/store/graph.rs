//! Reads of the event graph, for other servers.

use super::{Run, Store, backend::Backend, params};
use crate::{error::StoreError, event};

impl Store {
    /// The given events, those that authorize them, theirs, and so on; at most `limit`, in no order.
    ///
    /// A short cut that spares a statement for each generation. What it leaves out (events that name their auth events in an
    /// unusual spelling) is still there to be asked for by id.
    pub async fn auth_ancestors<S: AsRef<str> + Sync>(
        &self,
        event_ids: &[S],
        limit: u32,
    ) -> Result<Vec<event::Model>, StoreError> {
        let db = self.backend();
        // An entry of `auth_events` is an id, or a pair of an id and hashes in the first room versions.
        let (given, named, edges) = match db {
            // Not as JSON: an event that holds U+0000 would make the whole statement fail. Stored events are canonical, so
            // the list comes first and looks the same in all of them.
            Backend::Postgres => (
                "UNNEST($1::text[]) AS given(id)",
                "named.id[1]",
                r#"CROSS JOIN LATERAL REGEXP_MATCHES(
                   SUBSTRING(e.json FROM '"auth_events":\[(.*?)\],"'), '"(\$[^"\\]+)"', 'g') AS named(id)"#,
            ),
            Backend::Sqlite => (
                "(SELECT value AS id FROM json_each($1)) AS given",
                "CASE named.type WHEN 'array' THEN named.value ->> 0 ELSE named.value END",
                "CROSS JOIN json_each(e.json, '$.auth_events') AS named",
            ),
        };
        let sql = format!(
            "WITH RECURSIVE chain (id) AS ( \
               SELECT given.id FROM {given} \
               UNION SELECT {named} FROM chain c JOIN event e ON e.event_id = c.id {edges} \
             ) SELECT e.* FROM (SELECT id FROM chain LIMIT $2) c JOIN event e ON e.event_id = c.id"
        );
        self.reader()
            .events(&sql, params![db.texts(event_ids), i64::from(limit)])
            .await
    }

    /// Whether events of a room's history are followed here and not known.
    pub async fn has_gaps(&self, room_nid: i64) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM backward_extremity WHERE room_nid = $1 LIMIT 1";
        Ok(self.reader().row(sql, params![room_nid]).await?.is_some())
    }

    /// Whether the members of a room are still being fetched.
    pub async fn is_partial_room(&self, room_nid: i64) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM partial_room WHERE room_nid = $1";
        Ok(self.reader().row(sql, params![room_nid]).await?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{partial_room, store::rows::Rows, testing::each_backend};

    /// An event whose number is its id.
    fn event(nid: i64, json: &str) -> event::Model {
        event::Model {
            nid,
            room_nid: 1,
            event_id: format!("${nid}"),
            pos: None,
            depth: nid,
            r#type: "m.room.member".to_owned(),
            state_key: Some("@a:hs".to_owned()),
            sender: "@a:hs".to_owned(),
            origin_server_ts: nid,
            state_group: None,
            status: 3,
            redacted_by: None,
            device_id: None,
            txn_id: None,
            relates_to: None,
            rel_type: None,
            unsigned: None,
            json: json.to_owned(),
        }
    }

    #[tokio::test]
    async fn ancestors_are_found_in_one_statement() {
        each_backend(|db| async move {
            let store = db.store().await;
            let rows = Rows {
                events: vec![
                    event(1, r#"{"auth_events":[],"content":{}}"#),
                    event(2, r#"{"auth_events":[["$1",{"sha256":"abc"}]],"content":{}}"#),
                    event(3, r#"{"auth_events":["$1","$2"],"content":{"x":"a\u0000b"}}"#),
                    event(4, r#"{"auth_events":["$3","$9"],"content":{}}"#),
                    event(5, r#"{"auth_events":["$1"],"content":{}}"#),
                ],
                ..Rows::default()
            };
            store.import(&rows).await.expect("imported");
            let found = async |ids: &[&str], limit| {
                let rows = store.auth_ancestors(ids, limit).await.expect("read");
                rows.iter().map(|row| row.nid).collect::<BTreeSet<i64>>()
            };
            assert_eq!(found(&["$4"], 100).await, BTreeSet::from([1, 2, 3, 4]));
            assert_eq!(found(&["$5", "$2"], 100).await, BTreeSet::from([1, 2, 5]));
            assert_eq!(found(&["$1", "$7"], 100).await, BTreeSet::from([1]));
            assert!(found(&["$4"], 2).await.len() <= 2);
            assert!(found(&[], 100).await.is_empty());
        })
        .await;
    }

    #[tokio::test]
    async fn rooms_can_be_partial() {
        each_backend(|db| async move {
            let store = db.store().await;
            let rows = Rows {
                partial_rooms: vec![partial_room::Model {
                    room_nid: 1,
                    event_id: "$j".to_owned(),
                    via: "b".to_owned(),
                    servers: "[]".to_owned(),
                    started_ts: 1,
                }],
                ..Rows::default()
            };
            store.import(&rows).await.expect("imported");
            assert_eq!(store.is_partial_room(1).await, Ok(true));
            assert_eq!(store.is_partial_room(2).await, Ok(false));
        })
        .await;
    }
}
