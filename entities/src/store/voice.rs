//! Voice messages, together with the media they are.

use sea_orm::FromQueryResult;

use super::{Run, Store, params};
use crate::error::StoreError;
use crate::{media, voice_message};

/// Messages whose file can be had; the rest of a condition follows.
const PRESENT: &str = "SELECT v.* FROM voice_message v WHERE EXISTS (SELECT 1 FROM media m WHERE m.origin = $1 \
                       AND m.media_id = v.media_id AND m.quarantined_by IS NULL)";
/// Newest first, after a message that was seen.
const PAGE: &str = "(v.created_ts < $3 OR (v.created_ts = $3 AND v.message_id < $4)) \
                    ORDER BY v.created_ts DESC, v.message_id DESC LIMIT $5";

/// Which messages: newest first, those after the one with this time and id.
#[derive(Clone, Copy, Debug)]
pub struct VoicePage<'a> {
    /// This server.
    pub origin: &'a str,
    /// Unix milliseconds; `i64::MAX` to begin.
    pub before_ts: i64,
    /// Among those of the same time, the ones with smaller ids.
    pub before_id: &'a str,
    /// At most so many.
    pub limit: i64,
}

/// What a user's messages in one room, or in none, add up to.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub struct VoiceTotals {
    /// The room; `None` for messages that were sent nowhere.
    pub room_id: Option<String>,
    /// How many.
    pub messages: i64,
    /// Milliseconds.
    pub duration_ms: i64,
    /// Bytes.
    pub size_bytes: i64,
}

impl Store {
    /// One message.
    pub async fn voice_message(&self, message_id: &str) -> Result<Option<voice_message::Model>, StoreError> {
        let sql = "SELECT * FROM voice_message WHERE message_id = $1";
        self.reader().one(sql, params![message_id]).await
    }

    /// Adds a message with its media.
    pub async fn insert_voice_message(
        &self,
        media: &media::Model,
        row: &voice_message::Model,
    ) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        tx.insert::<media::Entity>(std::slice::from_ref(media)).await?;
        tx.insert::<voice_message::Entity>(std::slice::from_ref(row)).await?;
        tx.commit().await
    }

    /// Notes the event that a message was sent as.
    pub async fn set_voice_event(&self, message_id: &str, event_id: &str) -> Result<(), StoreError> {
        let sql = "UPDATE voice_message SET event_id = $2 WHERE message_id = $1";
        self.writer().exec(sql, params![message_id, event_id]).await.map(|_| ())
    }

    /// Deletes a message with its media. Tells whether there was one.
    pub async fn delete_voice_message(&self, origin: &str, row: &voice_message::Model) -> Result<bool, StoreError> {
        let tx = self.begin().await?;
        let sql = "DELETE FROM voice_message WHERE message_id = $1";
        let deleted = tx.exec(sql, params![row.message_id.as_str()]).await?;
        for table in ["media_thumbnail", "media"] {
            let sql = format!("DELETE FROM {table} WHERE origin = $1 AND media_id = $2");
            tx.exec(&sql, params![origin, row.media_id.as_str()]).await?;
        }
        tx.commit().await?;
        Ok(deleted > 0)
    }

    /// A page of a user's messages.
    pub async fn voice_messages_of_user(
        &self,
        user_id: &str,
        page: VoicePage<'_>,
    ) -> Result<Vec<voice_message::Model>, StoreError> {
        self.voice_page("v.user_id = $2", user_id, page).await
    }

    /// A page of the messages that were sent into a room.
    pub async fn voice_messages_of_room(
        &self,
        room_id: &str,
        page: VoicePage<'_>,
    ) -> Result<Vec<voice_message::Model>, StoreError> {
        self.voice_page("v.room_id = $2 AND v.event_id IS NOT NULL", room_id, page)
            .await
    }

    async fn voice_page(
        &self,
        whose: &str,
        key: &str,
        page: VoicePage<'_>,
    ) -> Result<Vec<voice_message::Model>, StoreError> {
        let VoicePage {
            origin,
            before_ts,
            before_id,
            limit,
        } = page;
        let sql = format!("{PRESENT} AND {whose} AND {PAGE}");
        let values = params![origin, key, before_ts, before_id, limit];
        self.reader().all(&sql, values).await
    }

    /// What a user's messages add up to, room by room.
    pub async fn voice_totals(&self, origin: &str, user_id: &str) -> Result<Vec<VoiceTotals>, StoreError> {
        let sql = format!(
            "SELECT room_id, COUNT(*) AS messages, CAST(SUM(duration_ms) AS BIGINT) AS duration_ms, \
             CAST(SUM(size_bytes) AS BIGINT) AS size_bytes FROM ({PRESENT} AND v.user_id = $2) AS present \
             GROUP BY room_id ORDER BY room_id"
        );
        self.reader().all(&sql, params![origin, user_id]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_backend;

    fn message(id: &str, user: &str, room: Option<&str>, created_ts: i64) -> (media::Model, voice_message::Model) {
        let media = media::Model {
            origin: "hs".to_owned(),
            media_id: format!("m{id}"),
            user_id: Some(user.to_owned()),
            content_type: Some("audio/ogg".to_owned()),
            upload_name: None,
            size_bytes: 10,
            sha256: None,
            state: "stored".to_owned(),
            created_ts,
            last_access_ts: created_ts,
            quarantined_by: None,
        };
        let row = voice_message::Model {
            message_id: id.to_owned(),
            user_id: user.to_owned(),
            media_id: media.media_id.clone(),
            room_id: room.map(str::to_owned),
            event_id: None,
            session_id: None,
            source_id: None,
            content_type: "audio/ogg".to_owned(),
            size_bytes: 10,
            duration_ms: 1_000,
            sample_rate: 48_000,
            channels: 1,
            waveform: "[0,1024]".to_owned(),
            created_ts,
        };
        (media, row)
    }

    fn page(before_ts: i64, before_id: &str, limit: i64) -> VoicePage<'_> {
        VoicePage {
            origin: "hs",
            before_ts,
            before_id,
            limit,
        }
    }

    fn ids(rows: Vec<voice_message::Model>) -> Vec<String> {
        rows.into_iter().map(|row| row.message_id).collect()
    }

    #[tokio::test]
    async fn messages_come_and_go_with_their_media() {
        each_backend(|db| async move {
            let store = &db.store().await;
            for (id, user, room, ts) in [
                ("a", "@a:hs", Some("!r:hs"), 1),
                ("b", "@a:hs", Some("!r:hs"), 2),
                ("c", "@a:hs", None, 2),
                ("d", "@b:hs", Some("!r:hs"), 3),
            ] {
                let (media, row) = message(id, user, room, ts);
                store.insert_voice_message(&media, &row).await.expect("inserted");
            }
            let all = store.voice_messages_of_user("@a:hs", page(i64::MAX, "", 9)).await;
            assert_eq!(ids(all.expect("read")), ["c", "b", "a"]);
            let rest = store.voice_messages_of_user("@a:hs", page(2, "c", 1)).await;
            assert_eq!(ids(rest.expect("read")), ["b"]);
            let first = page(i64::MAX, "", 9);
            let sent = store.voice_messages_of_room("!r:hs", first).await;
            assert_eq!(ids(sent.expect("read")), [""; 0], "nothing was sent yet");
            store.set_voice_event("b", "$e").await.expect("updated");
            let sent = store.voice_messages_of_room("!r:hs", first).await;
            assert_eq!(ids(sent.expect("read")), ["b"]);

            let total = |room_id: Option<&str>, messages| VoiceTotals {
                room_id: room_id.map(str::to_owned),
                messages,
                duration_ms: messages * 1_000,
                size_bytes: messages * 10,
            };
            let mut totals = store.voice_totals("hs", "@a:hs").await.expect("read");
            totals.sort_by_key(|total| total.messages);
            assert_eq!(totals, [total(None, 1), total(Some("!r:hs"), 2)]);

            let row = store.voice_message("b").await.expect("read").expect("it is there");
            assert_eq!(row.event_id.as_deref(), Some("$e"));
            assert_eq!(store.delete_voice_message("hs", &row).await, Ok(true));
            assert_eq!(store.delete_voice_message("hs", &row).await, Ok(false));
            assert_eq!(store.media("hs", "mb").await, Ok(None));
            assert_eq!(store.voice_message("b").await, Ok(None));
        })
        .await;
    }
}
