//! What other servers sent: answered transactions, and events that wait for their place in a room.

use super::{
    Run, Store,
    backend::{Cells, Kind},
    params,
};
use crate::{error::StoreError, inbound_pdu, inbound_txn};

impl Store {
    /// The answer that a transaction got, if it was here before, and how many events of its server are staged, counted no
    /// further than `most`.
    pub async fn inbound_standing(
        &self,
        origin: &str,
        txn_id: &str,
        most: u32,
    ) -> Result<(Option<String>, u64), StoreError> {
        let sql = "SELECT (SELECT response FROM inbound_txn WHERE origin = $1 AND txn_id = $2), \
                   (SELECT COUNT(*) FROM (SELECT 1 AS one FROM inbound_pdu WHERE origin = $1 LIMIT $3) AS staged)";
        let row = self.reader().row(sql, params![origin, txn_id, i64::from(most)]).await?;
        let Some(row) = row else { return Ok((None, 0)) };
        let staged: i64 = row.try_get_by_index(1)?;
        Ok((row.try_get_by_index(0)?, u64::try_from(staged).unwrap_or(0)))
    }

    /// Notes a transaction as answered and stages its events, in one transaction. Events that are staged already stay as they
    /// are, and so does the answer of a transaction that has one.
    pub async fn stage(&self, txn: &inbound_txn::Model, pdus: &[inbound_pdu::Model]) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        tx.insert_new::<inbound_txn::Entity>(std::slice::from_ref(txn)).await?;
        if !pdus.is_empty() {
            let db = self.backend();
            let columns = [
                ("nid", Kind::Int),
                ("origin", Kind::Text),
                ("room_id", Kind::Text),
                ("event_id", Kind::Text),
                ("json", Kind::Text),
                ("received_ts", Kind::Int),
            ];
            let names = columns.map(|(name, _)| name).join(", ");
            let sql = format!(
                "INSERT INTO inbound_pdu ({names}) SELECT {names} FROM {} WHERE TRUE \
                 ON CONFLICT (room_id, event_id) DO NOTHING",
                db.tuples_table(1, &columns)
            );
            let ints = |cell: fn(&inbound_pdu::Model) -> i64| Cells::Ints(pdus.iter().map(cell).collect());
            let texts =
                |cell: fn(&inbound_pdu::Model) -> &String| Cells::Texts(pdus.iter().map(cell).cloned().collect());
            let values = db.tuples(vec![
                ints(|row| row.nid),
                texts(|row| &row.origin),
                texts(|row| &row.room_id),
                texts(|row| &row.event_id),
                texts(|row| &row.json),
                ints(|row| row.received_ts),
            ]);
            tx.exec(&sql, values).await?;
        }
        tx.commit().await
    }

    /// The rooms that events are staged for.
    pub async fn staged_rooms(&self) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT DISTINCT room_id FROM inbound_pdu ORDER BY room_id";
        self.reader().column(sql, params![]).await
    }

    /// The staged events of a room, by row, oldest first.
    pub async fn staged_in(&self, room_id: &str, limit: u32) -> Result<Vec<i64>, StoreError> {
        let sql = "SELECT nid FROM inbound_pdu WHERE room_id = $1 ORDER BY nid LIMIT $2";
        self.reader().column(sql, params![room_id, i64::from(limit)]).await
    }

    /// Staged events by row, oldest first; those that are gone are left out.
    pub async fn staged(&self, nids: &[i64]) -> Result<Vec<inbound_pdu::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM inbound_pdu WHERE nid {} ORDER BY nid", db.any(1));
        self.reader().all(&sql, params![db.ints(nids)]).await
    }

    /// Gives staged events up.
    pub async fn discard_staged(&self, nids: &[i64]) -> Result<u64, StoreError> {
        let sql = format!("DELETE FROM inbound_pdu WHERE nid {}", self.backend().any(1));
        self.writer().exec(&sql, params![self.backend().ints(nids)]).await
    }

    /// Which of these events a room has, and whether each has a place in the graph, with a state of its own; of outliers only
    /// the event itself is there.
    pub async fn standing_of<S: AsRef<str> + Sync>(
        &self,
        room_nid: i64,
        event_ids: &[S],
    ) -> Result<Vec<(String, bool)>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT event_id, state_group FROM event WHERE room_nid = $2 AND event_id {}",
            db.any(1)
        );
        let rows = self.reader().rows(&sql, params![db.texts(event_ids), room_nid]).await?;
        let standing = |row: &sea_orm::QueryResult| {
            let group: Option<i64> = row.try_get_by_index(1)?;
            Ok((row.try_get_by_index(0)?, group.is_some()))
        };
        rows.iter().map(standing).collect()
    }

    /// Forgets transactions that were answered before `before`.
    pub async fn prune_inbound_txns(&self, before: i64) -> Result<u64, StoreError> {
        let sql = "DELETE FROM inbound_txn WHERE received_ts < $1";
        self.writer().exec(sql, params![before]).await
    }
}

#[cfg(test)]
#[path = "inbound_tests.rs"]
mod tests;
