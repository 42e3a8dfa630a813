//! Other servers: how it goes with them, and what is on its way to them.

use super::{
    Run, Store,
    backend::{Cells, Kind},
    event::VISIBLE,
    params,
};
use crate::{consumer_cursor, destination, destination_room, error::StoreError, event, membership, outbound_edu};

/// The name of the cursor up to which every event of ours was sent or is noted in `destination_room`.
const CURSOR: &str = "federation";

/// What is written together about other servers.
#[derive(Clone, Debug, Default)]
pub struct Settlement {
    /// Upserted.
    pub destinations: Vec<destination::Model>,
    /// Upserted.
    pub owed: Vec<destination_room::Model>,
    /// Deleted: server and room.
    pub paid: Vec<(String, i64)>,
    /// The cursor's new place.
    pub cursor: Option<i64>,
}

impl Settlement {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty() && self.owed.is_empty() && self.paid.is_empty() && self.cursor.is_none()
    }
}

/// What a list of servers is ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DestinationOrder {
    /// Its name.
    #[default]
    Name,
    /// The last try.
    LastTry,
    /// How long it is left alone.
    RetryInterval,
    /// The first failure since the last success.
    FailingSince,
    /// The newest of our events that it has answered for.
    LastSent,
}

impl DestinationOrder {
    fn column(self) -> &'static str {
        match self {
            Self::Name => "server_name",
            Self::LastTry => "last_try_ts",
            Self::RetryInterval => "retry_interval_ms",
            Self::FailingSince => "COALESCE(failing_since_ts, 0)",
            Self::LastSent => "last_sent_pos",
        }
    }
}

/// Matches events of a server's users, and those that this server passes on. `$1` is the pattern of its users.
const OURS: &str = "(sender LIKE $1 OR EXISTS (SELECT 1 FROM relayed_event r WHERE r.pos = event.pos))";

/// No server's name holds what is special in a pattern.
fn users_of(server: &str) -> String {
    format!("%:{server}")
}

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

    /// A page of all servers whose names hold `part`, and how many there are.
    pub async fn destinations_page(
        &self,
        part: &str,
        order: DestinationOrder,
        backwards: bool,
        from: i64,
        limit: i64,
    ) -> Result<(Vec<destination::Model>, i64), StoreError> {
        let pattern = format!("%{}%", part.replace(['%', '_'], ""));
        let count = "SELECT COUNT(*) FROM destination WHERE server_name LIKE $1";
        let total: Option<i64> = self.reader().scalar(count, params![pattern.as_str()]).await?;
        let (column, direction) = (order.column(), if backwards { "DESC" } else { "ASC" });
        let sql = format!(
            "SELECT * FROM destination WHERE server_name LIKE $1 ORDER BY {column} {direction}, server_name {direction} \
             LIMIT $2 OFFSET $3"
        );
        let rows = self.reader().all(&sql, params![pattern.as_str(), limit, from]).await?;
        Ok((rows, total.unwrap_or(0)))
    }

    /// What servers still have to get.
    pub async fn destination_rooms<S: AsRef<str> + Sync>(
        &self,
        servers: &[S],
    ) -> Result<Vec<destination_room::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM destination_room WHERE server_name {}", db.any(1));
        self.reader().all(&sql, params![db.texts(servers)]).await
    }

    /// Writes what has changed about servers, in one transaction.
    pub async fn settle(&self, settlement: &Settlement) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        tx.upsert::<destination::Entity>(&settlement.destinations).await?;
        if !settlement.paid.is_empty() {
            let db = tx.backend();
            let table = db.tuples_table(1, &[("s", Kind::Text), ("r", Kind::Int)]);
            let sql =
                format!("DELETE FROM destination_room WHERE (server_name, room_nid) IN (SELECT s, r FROM {table})");
            let servers = settlement.paid.iter().map(|(server, _)| server.clone()).collect();
            let rooms = settlement.paid.iter().map(|(_, room)| *room).collect();
            tx.exec(&sql, db.tuples(vec![Cells::Texts(servers), Cells::Ints(rooms)]))
                .await?;
        }
        tx.upsert::<destination_room::Entity>(&settlement.owed).await?;
        if let Some(pos) = settlement.cursor {
            let name = CURSOR.to_owned();
            tx.upsert::<consumer_cursor::Entity>(&[consumer_cursor::Model { name, pos }])
                .await?;
        }
        tx.commit().await
    }

    /// Up to where every event of ours was sent or is noted; `None` before the first time.
    pub async fn outbound_cursor(&self) -> Result<Option<i64>, StoreError> {
        self.consumer_cursor(CURSOR).await
    }

    /// Servers for which something waits.
    pub async fn servers_waiting(&self) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT server_name FROM destination_room UNION SELECT server_name FROM outbound_edu";
        self.reader().column(sql, params![]).await
    }

    /// Events that `server`, this one, has to send, of all rooms: `from < pos ≤ to`, oldest first.
    pub async fn events_to_send(
        &self,
        server: &str,
        from: i64,
        to: i64,
        limit: u32,
    ) -> Result<Vec<event::Model>, StoreError> {
        let sql =
            format!("SELECT * FROM event WHERE {OURS} AND pos > $2 AND pos <= $3 AND {VISIBLE} ORDER BY pos LIMIT $4");
        let values = params![users_of(server), from, to, i64::from(limit)];
        self.reader().events(&sql, values).await
    }

    /// The same of one room: `first ≤ pos ≤ last`, oldest or newest first.
    pub async fn events_to_send_in_room(
        &self,
        server: &str,
        room_nid: i64,
        (first, last): (i64, i64),
        newest_first: bool,
        limit: u32,
    ) -> Result<Vec<event::Model>, StoreError> {
        let order = if newest_first { "DESC" } else { "ASC" };
        let sql = format!(
            "SELECT * FROM event WHERE {OURS} AND room_nid = $2 AND pos >= $3 AND pos <= $4 AND {VISIBLE} \
             ORDER BY pos {order} LIMIT $5"
        );
        let values = params![users_of(server), room_nid, first, last, i64::from(limit)];
        self.reader().events(&sql, values).await
    }

    /// Whether this server passes the event at a position on, though it is of another's user.
    pub async fn is_relayed(&self, pos: i64) -> Result<bool, StoreError> {
        let sql = "SELECT pos FROM relayed_event WHERE pos = $1";
        let found: Option<i64> = self.reader().scalar(sql, params![pos]).await?;
        Ok(found.is_some())
    }

    /// Memberships in these rooms that changed after a position.
    pub async fn memberships_since(&self, room_nids: &[i64], since: i64) -> Result<Vec<membership::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM membership WHERE room_nid {} AND pos > $2", db.any(1));
        self.reader().all(&sql, params![db.ints(room_nids), since]).await
    }

    /// Servers with users joined to a room that the user is joined to.
    pub async fn servers_sharing_rooms(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        let sql = format!(
            "SELECT DISTINCT {} FROM membership m JOIN membership o ON o.room_nid = m.room_nid AND o.membership = 'join' \
             WHERE m.user_id = $1 AND m.membership = 'join'",
            self.backend().server_of("o.user_id")
        );
        self.reader().column(&sql, params![user_id]).await
    }

    /// The oldest durable EDUs for a server.
    pub async fn outbound_edus(&self, server: &str, limit: u32) -> Result<Vec<outbound_edu::Model>, StoreError> {
        let sql = "SELECT * FROM outbound_edu WHERE server_name = $1 ORDER BY pos LIMIT $2";
        self.reader().all(sql, params![server, i64::from(limit)]).await
    }

    /// Forgets durable EDUs that the server has got.
    pub async fn delete_outbound_edus(&self, server: &str, positions: &[i64]) -> Result<(), StoreError> {
        let db = self.backend();
        let sql = format!("DELETE FROM outbound_edu WHERE server_name = $1 AND pos {}", db.any(2));
        self.writer()
            .exec(&sql, params![server, db.ints(positions)])
            .await
            .map(|_| ())
    }

    /// Forgets the oldest durable EDUs for a server: device-list updates where there are more than `keep`, anything where
    /// there are more than twice as many. Tells how many of either.
    pub async fn trim_outbound_edus(&self, server: &str, keep: u32) -> Result<(u64, u64), StoreError> {
        let older = "pos <= (SELECT pos FROM outbound_edu WHERE server_name = $1 ORDER BY pos DESC LIMIT 1 OFFSET $2)";
        let sql = format!(
            "DELETE FROM outbound_edu WHERE server_name = $1 AND edu_type = 'm.device_list_update' AND {older}"
        );
        let keep = i64::from(keep);
        let updates = self.writer().exec(&sql, params![server, keep]).await?;
        let sql = format!("DELETE FROM outbound_edu WHERE server_name = $1 AND {older}");
        let others = self.writer().exec(&sql, params![server, keep * 2]).await?;
        Ok((updates, others))
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
