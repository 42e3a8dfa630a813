//! Reads of events.
//!
//! A position token `p` stands *after* the event at `p`: going forwards from it begins above `p`, going backwards begins with
//! `p` itself. Unless said otherwise a function returns only accepted events (`status = 0`) that have a position.

use super::{Run, Store, params};
use crate::{
    error::StoreError,
    event,
    store::backend::{Backend, Cells, Kind},
};

/// What readers may see of a timeline. Dummy events hold the graph together and say nothing.
pub(super) const VISIBLE: &str = "pos IS NOT NULL AND status = 0 AND type <> 'org.matrix.dummy_event'";

/// Which relations of events to read.
#[derive(Clone, Debug)]
pub struct RelationQuery<'a> {
    /// The room all events are in.
    pub room_nid: i64,
    /// The events that others relate to.
    pub event_ids: &'a [String],
    /// Only this `rel_type`.
    pub rel_type: Option<&'a str>,
    /// Only this event type.
    pub event_type: Option<&'a str>,
    /// The token to begin at, as for [`Store::timeline_page`].
    pub from: Option<i64>,
    /// The token to stop at, as for [`Store::timeline_page`].
    pub to: Option<i64>,
    /// Newest first.
    pub backwards: bool,
    /// At most so many.
    pub limit: u32,
}

/// Which event a device has sent to a room: transaction ids belong to one room and event type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Txn {
    /// The room.
    pub room_nid: i64,
    /// The user.
    pub sender: String,
    /// Its device.
    pub device_id: String,
    /// What the device called the transaction.
    pub txn_id: String,
    /// The event type.
    pub kind: String,
}

impl Store {
    /// Events by number, of any status, in no order; unknown ones are left out.
    pub async fn events_by_nid(&self, nids: &[i64]) -> Result<Vec<event::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM event WHERE nid {}", db.any(1));
        self.reader().events(&sql, params![db.ints(nids)]).await
    }

    /// Events by Matrix id, of any status, in no order; unknown ones are left out.
    pub async fn events_by_id<S: AsRef<str> + Sync>(&self, event_ids: &[S]) -> Result<Vec<event::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM event WHERE event_id {}", db.any(1));
        self.reader().events(&sql, params![db.texts(event_ids)]).await
    }

    /// An event by Matrix id, of any status.
    pub async fn event_by_id(&self, event_id: &str) -> Result<Option<event::Model>, StoreError> {
        self.reader()
            .one("SELECT * FROM event WHERE event_id = $1", params![event_id])
            .await
    }

    /// The ids of the events that transactions have made, in their order.
    pub async fn events_by_txn(&self, txns: &[Txn]) -> Result<Vec<Option<String>>, StoreError> {
        let db = self.backend();
        let columns = [
            ("n", Kind::Int),
            ("room", Kind::Int),
            ("sender", Kind::Text),
            ("device", Kind::Text),
            ("txn", Kind::Text),
            ("kind", Kind::Text),
        ];
        // One probe of the index for each, whatever the planner believes about the table.
        let sql = format!(
            "SELECT v.n, (SELECT e.event_id FROM event e WHERE e.room_nid = v.room AND e.sender = v.sender \
             AND e.device_id = v.device AND e.txn_id = v.txn AND e.type = v.kind AND e.txn_id IS NOT NULL) FROM {}",
            db.tuples_table(1, &columns)
        );
        let texts = |text: fn(&Txn) -> &String| Cells::Texts(txns.iter().map(text).cloned().collect());
        let values = db.tuples(vec![
            Cells::Ints((0..).take(txns.len()).collect()),
            Cells::Ints(txns.iter().map(|txn| txn.room_nid).collect()),
            texts(|txn| &txn.sender),
            texts(|txn| &txn.device_id),
            texts(|txn| &txn.txn_id),
            texts(|txn| &txn.kind),
        ]);
        let mut found = vec![None; txns.len()];
        for row in self.reader().rows(&sql, values).await? {
            let n: i64 = row.try_get_by_index(0)?;
            if let Some(slot) = usize::try_from(n).ok().and_then(|n| found.get_mut(n)) {
                *slot = row.try_get_by_index(1)?;
            }
        }
        Ok(found)
    }

    /// The state events of one key after a position, oldest first.
    pub async fn state_events_after(
        &self,
        room_nid: i64,
        kind: &str,
        state_key: &str,
        pos: i64,
        limit: u32,
    ) -> Result<Vec<event::Model>, StoreError> {
        let sql = format!(
            "SELECT * FROM event WHERE room_nid = $1 AND pos > $2 AND type = $3 AND state_key = $4 AND {VISIBLE} \
             ORDER BY pos LIMIT $5"
        );
        self.reader()
            .events(&sql, params![room_nid, pos, kind, state_key, i64::from(limit)])
            .await
    }

    /// A page of a room's timeline.
    ///
    /// Backwards: `to < pos ≤ from`, newest first. Forwards: `from < pos ≤ to`, oldest first. `None` is no bound; whoever
    /// answers a client bounds the newer end by the visible position.
    pub async fn timeline_page(
        &self,
        room_nid: i64,
        from: Option<i64>,
        to: Option<i64>,
        backwards: bool,
        limit: u32,
    ) -> Result<Vec<event::Model>, StoreError> {
        let (above, upto, order) = bounds(from, to, backwards);
        let sql = format!(
            "SELECT * FROM event WHERE room_nid = $1 AND pos > $2 AND pos <= $3 AND {VISIBLE} ORDER BY pos {order} LIMIT $4"
        );
        self.reader()
            .events(&sql, params![room_nid, above, upto, i64::from(limit)])
            .await
    }

    /// The newest `limit_each` events of each room at or below `upto`; oldest first within a room, rooms in no order.
    pub async fn timelines_tail(
        &self,
        room_nids: &[i64],
        upto: i64,
        limit_each: u32,
    ) -> Result<Vec<event::Model>, StoreError> {
        self.timelines_between(room_nids, i64::MIN, upto, limit_each).await
    }

    /// The newest `limit_each` events of each room with `since < pos ≤ upto`; oldest first within a room, rooms in no order.
    pub async fn timelines_between(
        &self,
        room_nids: &[i64],
        since: i64,
        upto: i64,
        limit_each: u32,
    ) -> Result<Vec<event::Model>, StoreError> {
        let db = self.backend();
        let tail = |columns: &str, room: &str| {
            format!(
                "SELECT {columns} FROM event WHERE room_nid = {room} AND pos > $2 AND pos <= $3 AND {VISIBLE} \
                 ORDER BY pos DESC LIMIT $4"
            )
        };
        let sql = match db {
            Backend::Postgres => format!(
                "SELECT e.* FROM UNNEST($1::bigint[]) AS r(room) CROSS JOIN LATERAL ({}) AS e ORDER BY e.pos",
                tail("*", "r.room")
            ),
            Backend::Sqlite => format!(
                "SELECT e.* FROM json_each($1) AS r CROSS JOIN event e ON e.nid IN ({}) ORDER BY e.pos",
                tail("nid", "r.value")
            ),
        };
        self.reader()
            .events(&sql, params![db.ints(room_nids), since, upto, i64::from(limit_each)])
            .await
    }

    /// The changes of a user's memberships with `since < pos ≤ upto`, oldest first.
    pub async fn member_changes_of_user(
        &self,
        user_id: &str,
        since: i64,
        upto: i64,
    ) -> Result<Vec<event::Model>, StoreError> {
        let sql = format!(
            "SELECT * FROM event WHERE type = 'm.room.member' AND state_key = $1 AND pos > $2 AND pos <= $3 \
             AND {VISIBLE} ORDER BY pos"
        );
        self.reader().events(&sql, params![user_id, since, upto]).await
    }

    /// All changes of one user's membership in one room, oldest first.
    pub async fn member_events(&self, room_nid: i64, user_id: &str) -> Result<Vec<event::Model>, StoreError> {
        let sql = format!(
            "SELECT * FROM event WHERE type = 'm.room.member' AND state_key = $1 AND room_nid = $2 AND {VISIBLE} \
             ORDER BY pos"
        );
        self.reader().all(&sql, params![user_id, room_nid]).await
    }

    /// The rooms with an event at `since < pos ≤ upto`, each with its newest position there.
    pub async fn rooms_changed_since(
        &self,
        room_nids: &[i64],
        since: i64,
        upto: i64,
    ) -> Result<Vec<(i64, i64)>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT room_nid, MAX(pos) FROM event WHERE room_nid {} AND pos > $2 AND pos <= $3 AND {VISIBLE} GROUP BY room_nid",
            db.any(1)
        );
        let rows = self
            .reader()
            .rows(&sql, params![db.ints(room_nids), since, upto])
            .await?;
        rows.iter()
            .map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)))
            .collect()
    }

    /// The state events of a room with `since < pos ≤ upto`, oldest first.
    pub async fn state_changes(&self, room_nid: i64, since: i64, upto: i64) -> Result<Vec<event::Model>, StoreError> {
        let sql = format!(
            "SELECT * FROM event WHERE room_nid = $1 AND pos > $2 AND pos <= $3 AND state_key IS NOT NULL AND {VISIBLE} \
             ORDER BY pos"
        );
        self.reader().events(&sql, params![room_nid, since, upto]).await
    }

    /// For each `(room, type, sender)` the events that the sender has sent there, newest first, at most `limit` in all.
    pub async fn events_of_senders(
        &self,
        filters: &[(i64, String, String)],
        limit: u32,
    ) -> Result<Vec<event::Model>, StoreError> {
        let db = self.backend();
        let table = db.tuples_table(2, &[("r", Kind::Int), ("t", Kind::Text), ("s", Kind::Text)]);
        let sql = format!(
            "SELECT event.* FROM event JOIN {table} ON event.room_nid = v.r AND event.type = v.t AND event.sender = v.s \
             WHERE {VISIBLE} ORDER BY pos DESC LIMIT $1"
        );
        let mut values = params![i64::from(limit)];
        values.extend(db.tuples(vec![
            Cells::Ints(filters.iter().map(|(room, ..)| *room).collect()),
            Cells::Texts(filters.iter().map(|(_, kind, _)| kind.clone()).collect()),
            Cells::Texts(filters.iter().map(|(.., sender)| sender.clone()).collect()),
        ]));
        self.reader().events(&sql, values).await
    }

    /// The next events of the whole stream with `from < pos ≤ to`, oldest first: for consumers with a cursor.
    pub async fn events_in_range(&self, from: i64, to: i64, limit: u32) -> Result<Vec<event::Model>, StoreError> {
        let sql = format!("SELECT * FROM event WHERE pos > $1 AND pos <= $2 AND {VISIBLE} ORDER BY pos LIMIT $3");
        self.reader().events(&sql, params![from, to, i64::from(limit)]).await
    }

    /// The lowest position of a room's events: where its known history begins. Negative if history was fetched.
    pub async fn earliest_event_pos(&self, room_nid: i64) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT MIN(pos) FROM event WHERE room_nid = $1 AND pos IS NOT NULL";
        Ok(self
            .reader()
            .scalar::<Option<i64>>(sql, params![room_nid])
            .await?
            .flatten())
    }

    /// The highest position of a room's events at or below `upto`.
    pub async fn latest_event_pos(&self, room_nid: i64, upto: i64) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT MAX(pos) FROM event WHERE room_nid = $1 AND pos IS NOT NULL AND pos <= $2";
        Ok(self
            .reader()
            .scalar::<Option<i64>>(sql, params![room_nid, upto])
            .await?
            .flatten())
    }

    /// The event closest to a time, at or below position `upto`: the first at or after `ts` (milliseconds) forwards, the
    /// last at or before it backwards.
    pub async fn event_near_ts(
        &self,
        room_nid: i64,
        ts: i64,
        backwards: bool,
        upto: i64,
    ) -> Result<Option<event::Model>, StoreError> {
        let (side, order) = if backwards { ("<=", "DESC") } else { (">=", "ASC") };
        let sql = format!(
            "SELECT * FROM event WHERE room_nid = $1 AND origin_server_ts {side} $2 AND pos <= $3 AND {VISIBLE} \
             ORDER BY origin_server_ts {order}, pos {order} LIMIT 1"
        );
        self.reader().one(&sql, params![room_nid, ts, upto]).await
    }
}

/// Exclusive lower bound, inclusive upper bound and direction of a page.
pub(super) fn bounds(from: Option<i64>, to: Option<i64>, backwards: bool) -> (i64, i64, &'static str) {
    let (lower, upper, order) = if backwards {
        (to, from, "DESC")
    } else {
        (from, to, "ASC")
    };
    (lower.unwrap_or(i64::MIN), upper.unwrap_or(i64::MAX), order)
}
