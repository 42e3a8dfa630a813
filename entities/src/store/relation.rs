//! Reads of relations between events: pages of them, and what is bundled with the event they point to.
//!
//! Only accepted events that have a position count. (The `+` in the statements keeps the planners from walking the
//! whole room's timeline.)

use super::event::{RelationQuery, VISIBLE, bounds};
use super::{Backend, Run, Store, params};
use crate::{error::StoreError, event};

/// All events of one kind that relate to one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationCount {
    /// The event that they relate to.
    pub relates_to: String,
    /// `rel_type`
    pub rel_type: String,
    /// How many they are.
    pub count: i64,
    /// The newest one's position.
    pub newest: i64,
    /// Whether one of them is the reader's.
    pub own: bool,
}

/// Which relations to count.
#[derive(Clone, Debug)]
pub struct Targets<'a> {
    /// The room all events are in.
    pub room_nid: i64,
    /// The events that others relate to.
    pub event_ids: &'a [String],
    /// Up to this position.
    pub upto: i64,
    /// Whose events do not count.
    pub ignored: &'a [String],
}

impl Targets<'_> {
    /// `$1` to `$4` of the statements.
    fn params(&self, db: Backend) -> Vec<sea_orm::Value> {
        params![
            db.texts(self.event_ids),
            self.room_nid,
            self.upto,
            db.texts(self.ignored)
        ]
    }
}

impl Store {
    /// A page of the events that relate to any of some events.
    pub async fn relations(&self, query: &RelationQuery<'_>) -> Result<Vec<event::Model>, StoreError> {
        let db = self.backend();
        let (above, upto, order) = bounds(query.from, query.to, query.backwards);
        let sql = format!(
            "SELECT * FROM event WHERE relates_to {} AND +room_nid = $2 AND ($3 IS NULL OR rel_type = $3) \
             AND ($4 IS NULL OR type = $4) AND +pos > $5 AND +pos <= $6 AND {VISIBLE} ORDER BY pos {order} LIMIT $7",
            db.any(1)
        );
        let values = params![
            db.texts(query.event_ids),
            query.room_nid,
            query.rel_type,
            query.event_type,
            above,
            upto,
            i64::from(query.limit)
        ];
        self.reader().events(&sql, values).await
    }

    /// The ids of events that relate to any of some events, at most `limit`.
    pub async fn related_ids(
        &self,
        room_nid: i64,
        event_ids: &[String],
        upto: i64,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT event_id FROM event WHERE relates_to {} AND +room_nid = $2 AND +pos <= $3 AND {VISIBLE} \
             ORDER BY pos LIMIT $4",
            db.any(1)
        );
        let values = params![db.texts(event_ids), room_nid, upto, i64::from(limit)];
        self.reader().column(&sql, values).await
    }

    /// How many edits, thread events and references the targets have; `reader` is the user who asks.
    pub async fn relation_counts(&self, targets: &Targets<'_>, reader: &str) -> Result<Vec<RelationCount>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT relates_to, rel_type, COUNT(*), MAX(pos), CAST(MAX(CASE WHEN sender = $5 THEN 1 ELSE 0 END) AS BIGINT) \
             FROM event WHERE relates_to {} AND +room_nid = $2 AND +pos <= $3 AND {VISIBLE} \
             AND rel_type IN ('m.replace', 'm.thread', 'm.reference') AND NOT (sender {}) GROUP BY relates_to, rel_type",
            db.any(1),
            db.any(4)
        );
        let mut values = targets.params(db);
        values.push(reader.into());
        let rows = self.reader().rows(&sql, values).await?;
        rows.iter()
            .map(|row| {
                Ok(RelationCount {
                    relates_to: row.try_get_by_index(0)?,
                    rel_type: row.try_get_by_index(1)?,
                    count: row.try_get_by_index(2)?,
                    newest: row.try_get_by_index(3)?,
                    own: row.try_get_by_index::<i64>(4)? > 0,
                })
            })
            .collect()
    }

    /// The newest edit (`m.replace`, no state) of each target by each sender and of each type.
    pub async fn newest_edits(&self, targets: &Targets<'_>) -> Result<Vec<event::Model>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT * FROM (SELECT e.*, ROW_NUMBER() OVER (PARTITION BY relates_to, sender, type \
             ORDER BY origin_server_ts DESC, event_id DESC) AS place FROM event e \
             WHERE relates_to {} AND +room_nid = $2 AND +pos <= $3 AND {VISIBLE} AND rel_type = 'm.replace' \
             AND state_key IS NULL AND NOT (sender {})) AS edits WHERE place = 1",
            db.any(1),
            db.any(4)
        );
        self.reader().events(&sql, targets.params(db)).await
    }

    /// The ids of the events that refer to the targets (`m.reference`), `(target, event)`, oldest first.
    pub async fn references(&self, targets: &Targets<'_>, limit: u32) -> Result<Vec<(String, String)>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT relates_to, event_id FROM event WHERE relates_to {} AND +room_nid = $2 AND +pos <= $3 AND {VISIBLE} \
             AND rel_type = 'm.reference' AND NOT (sender {}) ORDER BY pos LIMIT $5",
            db.any(1),
            db.any(4)
        );
        let mut values = targets.params(db);
        values.push(i64::from(limit).into());
        let rows = self.reader().rows(&sql, values).await?;
        rows.iter()
            .map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)))
            .collect()
    }

    /// The events at the given positions, in no order.
    pub async fn events_at(&self, positions: &[i64]) -> Result<Vec<event::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM event WHERE pos {} AND {VISIBLE}", db.any(1));
        self.reader().events(&sql, params![db.ints(positions)]).await
    }

    /// The ids of a sender's reactions (`m.annotation`) of one type to an event, newest first, with their JSON.
    pub async fn own_annotations(
        &self,
        room_nid: i64,
        event_id: &str,
        kind: &str,
        sender: &str,
    ) -> Result<Vec<event::Model>, StoreError> {
        let sql = format!(
            "SELECT * FROM event WHERE relates_to = $1 AND +room_nid = $2 AND sender = $3 AND type = $4 \
             AND rel_type = 'm.annotation' AND {VISIBLE} ORDER BY pos DESC LIMIT 200"
        );
        self.reader()
            .events(&sql, params![event_id, room_nid, sender, kind])
            .await
    }

    /// The roots of a room's threads with the position of their newest event, newest first: those whose newest event is
    /// at or below `from`. `participant`: only threads with an event of this user, the root included.
    pub async fn threads(
        &self,
        room_nid: i64,
        from: i64,
        upto: i64,
        participant: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, i64)>, StoreError> {
        let sql = format!(
            "SELECT e.relates_to, MAX(e.pos) FROM event e WHERE e.room_nid = $1 AND e.rel_type = 'm.thread' \
             AND e.pos <= $2 AND e.{VISIBLE} GROUP BY e.relates_to HAVING MAX(e.pos) <= $3 \
             AND ($4 IS NULL OR MAX(CASE WHEN e.sender = $4 THEN 1 ELSE 0 END) > 0 OR EXISTS ( \
               SELECT 1 FROM event r WHERE r.event_id = e.relates_to AND r.sender = $4)) \
             ORDER BY 2 DESC LIMIT $5"
        );
        let values = params![room_nid, upto, from, participant, i64::from(limit)];
        let rows = self.reader().rows(&sql, values).await?;
        rows.iter()
            .map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)))
            .collect()
    }
}
