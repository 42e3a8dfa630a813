//! Rooms that are taken over from other servers: what is known of their events, and where their rows begin.

use super::{Run, Store, params};
use crate::{error::StoreError, room};

/// A stored event, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its Matrix id.
    pub event_id: String,
    /// Its number.
    pub nid: i64,
    /// Its room.
    pub room_nid: i64,
    /// How it stands.
    pub status: i16,
}

impl Store {
    /// Which of these events are stored, in no order.
    pub async fn stored_events<S: AsRef<str> + Sync>(&self, event_ids: &[S]) -> Result<Vec<Stored>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT event_id, nid, room_nid, status FROM event WHERE event_id {}",
            db.any(1)
        );
        let rows = self.reader().rows(&sql, params![db.texts(event_ids)]).await?;
        rows.iter()
            .map(|row| {
                Ok(Stored {
                    event_id: row.try_get_by_index(0)?,
                    nid: row.try_get_by_index(1)?,
                    room_nid: row.try_get_by_index(2)?,
                    status: row.try_get_by_index(3)?,
                })
            })
            .collect()
    }

    /// Prepares for the rows of a room that has no head, so that nobody sees them: its own row is there afterwards, with this
    /// version, and nothing of a current state that an earlier attempt may have left.
    pub async fn begin_import(&self, room: &room::Model) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let sql = "INSERT INTO room (nid, room_id, version, creator, created_ts) VALUES ($1, $2, $3, $4, $5) \
                   ON CONFLICT (nid) DO UPDATE SET version = excluded.version, creator = excluded.creator";
        let values = params![
            room.nid,
            room.room_id.as_str(),
            room.version.as_str(),
            room.creator.as_str(),
            room.created_ts
        ];
        tx.exec(sql, values).await?;
        tx.exec("DELETE FROM current_state WHERE room_nid = $1", params![room.nid])
            .await?;
        tx.commit().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{current_state, store::rows::Rows, testing::each_backend};

    #[tokio::test]
    async fn a_second_import_begins_anew() {
        each_backend(|db| async move {
            let store = db.store().await;
            let mut room = room::Model {
                nid: 1,
                room_id: "!r:hs".to_owned(),
                version: "10".to_owned(),
                creator: "@a:hs".to_owned(),
                created_ts: 5,
            };
            store.begin_import(&room).await.expect("written");
            let rows = Rows {
                current_state: vec![current_state::Model {
                    room_nid: 1,
                    r#type: "m.room.topic".to_owned(),
                    state_key: String::new(),
                    event_nid: 2,
                }],
                ..Rows::default()
            };
            store.import(&rows).await.expect("written");
            room.version = "11".to_owned();
            store.begin_import(&room).await.expect("written");
            assert_eq!(store.room_by_id("!r:hs").await.expect("read"), Some(room));
            store.import(&rows).await.expect("nothing is left of the first");
            assert_eq!(store.stored_events(&["$x"]).await.expect("read"), []);
        })
        .await;
    }
}
