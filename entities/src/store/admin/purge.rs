//! What is deleted for good: rooms, and the messages of their past.

use super::{Run, Store, params};
use crate::error::StoreError;

/// Rows that one statement deletes.
const AT_ONCE: i64 = 2_000;

/// What makes a room one that readers see. Deleted together, before everything else.
const STANDING: [&str; 9] = [
    "room_head",
    "current_state",
    "membership",
    "stripped_state",
    "receipt",
    "backward_extremity",
    "early_redaction",
    "history_hole",
    "partial_room",
];

impl Store {
    /// Takes a room away from its readers: its head, its state, its members, its aliases. What is left of it is deleted by
    /// [`Store::delete_room_rest`].
    pub async fn delete_room_standing(&self, room_nid: i64, room_id: &str) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        for table in STANDING {
            tx.exec(&format!("DELETE FROM {table} WHERE room_nid = $1"), params![room_nid])
                .await?;
        }
        tx.exec("DELETE FROM destination_room WHERE room_nid = $1", params![room_nid])
            .await?;
        for table in [
            "room_alias",
            "public_room",
            "event_report",
            "inbound_pdu",
            "account_data",
            "thread_subscription",
            "delayed_event",
            "remote_join",
        ] {
            tx.exec(&format!("DELETE FROM {table} WHERE room_id = $1"), params![room_id])
                .await?;
        }
        tx.exec("DELETE FROM room_upgrade WHERE old_room_id = $1", params![room_id])
            .await?;
        tx.commit().await
    }

    /// Deletes a part of what is left of a room; false once nothing is.
    pub async fn delete_room_rest(&self, room_nid: i64) -> Result<bool, StoreError> {
        // What has no position is found by looking through the whole table: not often.
        for (table, key, condition, at_once) in [
            ("event", "nid", "AND pos IS NOT NULL", AT_ONCE),
            ("event", "nid", "", 50 * AT_ONCE),
            ("state_group", "id", "", AT_ONCE),
        ] {
            let sql = format!(
                "DELETE FROM {table} WHERE {key} IN \
                 (SELECT {key} FROM {table} WHERE room_nid = $1 {condition} LIMIT $2)"
            );
            if self.writer().exec(&sql, params![room_nid, at_once]).await? > 0 {
                return Ok(true);
            }
        }
        let sql = "DELETE FROM room WHERE nid = $1";
        self.writer().exec(sql, params![room_nid]).await?;
        Ok(false)
    }

    /// The next events of a room's timeline behind position `above` and below `before`, oldest first: position, number, and
    /// whether it is a message that a purge deletes, with `local` those of this server's users too.
    pub async fn history_to_purge(
        &self,
        room_nid: i64,
        (above, before): (i64, i64),
        server: &str,
        local: bool,
    ) -> Result<Vec<(i64, i64, bool)>, StoreError> {
        let sql = "SELECT pos, nid, (state_key IS NULL AND ($4 = 1 OR sender NOT LIKE $5)) FROM event \
                   WHERE room_nid = $1 AND pos > $2 AND pos < $3 ORDER BY pos LIMIT $6";
        let values = params![
            room_nid,
            above,
            before,
            i64::from(local),
            format!("%:{server}"),
            AT_ONCE
        ];
        let rows = self.reader().rows(sql, values).await?;
        rows.iter()
            .map(|row| {
                Ok((
                    row.try_get_by_index(0)?,
                    row.try_get_by_index(1)?,
                    row.try_get_by_index(2)?,
                ))
            })
            .collect()
    }

    /// Deletes events. Answers how many there were.
    pub async fn delete_events(&self, nids: &[i64]) -> Result<u64, StoreError> {
        let db = self.backend();
        let sql = format!("DELETE FROM event WHERE nid {}", db.any(1));
        self.writer().exec(&sql, params![db.ints(nids)]).await
    }

    /// The position of the newest event of a room from before a time, Unix milliseconds, plus one.
    pub async fn history_before_ts(&self, room_nid: i64, ts: i64) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT MAX(pos) + 1 FROM event WHERE room_nid = $1 AND pos IS NOT NULL AND origin_server_ts < $2";
        let found: Option<Option<i64>> = self.reader().scalar(sql, params![room_nid, ts]).await?;
        Ok(found.flatten())
    }
}
