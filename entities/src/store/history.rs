//! Where what is known of a room's history ends, and redactions that came before what they prune.

use super::{Run, Store, params};
use crate::{backward_extremity, early_redaction, error::StoreError, history_hole};

/// The ends of the known history of some rooms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Missing events that others follow.
    pub gaps: Vec<backward_extremity::Model>,
    /// Where in the timeline they belong.
    pub holes: Vec<history_hole::Model>,
    /// The rooms with redactions whose target has not arrived.
    pub early: Vec<i64>,
}

impl Store {
    /// The ends of the known history of rooms, in no order.
    pub async fn history_ends(&self, room_nids: &[i64]) -> Result<Ends, StoreError> {
        let db = self.backend();
        // Most rooms have none of it: one statement finds that out.
        let sql = format!(
            "SELECT room_nid, event_id, depth, hole FROM backward_extremity WHERE room_nid {any} \
             UNION ALL SELECT nid, '', 0, NULL FROM room WHERE nid {any} \
             AND EXISTS (SELECT 1 FROM early_redaction e WHERE e.room_nid = room.nid)",
            any = db.any(1)
        );
        let rows: Vec<backward_extremity::Model> = self.reader().all(&sql, params![db.ints(room_nids)]).await?;
        let (early, gaps): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.event_id.is_empty());
        let holes = if gaps.iter().any(|gap| gap.hole.is_some()) {
            let sql = format!("SELECT * FROM history_hole WHERE room_nid {}", db.any(1));
            self.reader().all(&sql, params![db.ints(room_nids)]).await?
        } else {
            Vec::new()
        };
        Ok(Ends {
            gaps,
            holes,
            early: early.into_iter().map(|row| row.room_nid).collect(),
        })
    }

    /// The redactions that wait for any of these events, in no order.
    pub async fn early_redactions<S: AsRef<str> + Sync>(
        &self,
        room_nid: i64,
        target_event_ids: &[S],
    ) -> Result<Vec<early_redaction::Model>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT * FROM early_redaction WHERE room_nid = $1 AND target_event_id {}",
            db.any(2)
        );
        self.reader()
            .all(&sql, params![room_nid, db.texts(target_event_ids)])
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{room, store::rows::Rows, testing::each_backend};

    fn gap(room_nid: i64, event_id: &str, hole: Option<i64>) -> backward_extremity::Model {
        backward_extremity::Model {
            room_nid,
            event_id: event_id.to_owned(),
            depth: 3,
            hole,
        }
    }

    fn rooms() -> Vec<room::Model> {
        let room = |nid| room::Model {
            nid,
            room_id: format!("!{nid}:hs"),
            version: "11".to_owned(),
            creator: "@a:hs".to_owned(),
            created_ts: 1,
        };
        (1..=3).map(room).collect()
    }

    #[tokio::test]
    async fn ends_are_told_by_room() {
        each_backend(|db| async move {
            let store = db.store().await;
            let early = early_redaction::Model {
                room_nid: 2,
                target_event_id: "$t".to_owned(),
                redaction_nid: 9,
            };
            let hole = history_hole::Model {
                id: 7,
                room_nid: 1,
                low: 0,
                next: 10,
            };
            let mut rows = Rows {
                rooms: rooms(),
                backward_extremities: vec![gap(1, "$a", None), gap(1, "$b", Some(7)), gap(3, "$c", None)],
                history_holes: vec![hole.clone()],
                early_redactions: vec![early.clone()],
                ..Rows::default()
            };
            rows.shift(100);
            store.import(&rows).await.expect("written");
            let ends = store.history_ends(&[1, 2]).await.expect("read");
            let mut gaps = ends.gaps.clone();
            gaps.sort_by(|a, b| a.event_id.cmp(&b.event_id));
            assert_eq!(gaps, [gap(1, "$a", None), gap(1, "$b", Some(7))]);
            let shifted = history_hole::Model {
                low: 100,
                next: 110,
                ..hole
            };
            assert_eq!((ends.holes, ends.early), (vec![shifted.clone()], vec![2]));
            assert_eq!(store.history_ends(&[3]).await.expect("read").holes, []);
            assert_eq!(store.early_redactions(2, &["$t", "$u"]).await.expect("read"), [early]);
            assert_eq!(store.early_redactions(1, &["$t"]).await.expect("read"), []);
            let left = Rows {
                backward_extremities_removed: vec![(1, "$a".to_owned())],
                history_holes_left: vec![(7, 105), (7, 103)],
                early_redactions_removed: vec![(2, "$t".to_owned())],
                ..Rows::default()
            };
            store.import(&left).await.expect("written");
            let ends = store.history_ends(&[1, 2]).await.expect("read");
            assert_eq!(ends.holes, [history_hole::Model { next: 103, ..shifted }]);
            assert_eq!((ends.gaps, ends.early), (vec![gap(1, "$b", Some(7))], vec![]));
        })
        .await;
    }
}
