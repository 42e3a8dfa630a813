//! Events that are sent later.

use super::{Run, Store, params};
use crate::{delayed_event, error::StoreError};

/// Whose request scheduled an event.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub user_id: &'a str,
    pub device_id: &'a str,
    pub room_id: &'a str,
    pub kind: &'a str,
    pub txn_id: &'a str,
}

impl Store {
    /// Schedules an event.
    pub async fn schedule_event(&self, event: &delayed_event::Model) -> Result<(), StoreError> {
        let rows = std::slice::from_ref(event);
        self.writer().insert::<delayed_event::Entity>(rows).await.map(|_| ())
    }

    /// Notes what has become of an event.
    pub async fn note_delayed_event(&self, event: &delayed_event::Model) -> Result<(), StoreError> {
        let rows = std::slice::from_ref(event);
        self.writer().upsert::<delayed_event::Entity>(rows).await.map(|_| ())
    }

    /// One event.
    pub async fn delayed_event(&self, delay_id: &str) -> Result<Option<delayed_event::Model>, StoreError> {
        let sql = "SELECT * FROM delayed_event WHERE delay_id = $1";
        self.reader().one(sql, params![delay_id]).await
    }

    /// What a request with a transaction id has scheduled before.
    pub async fn delayed_event_of_txn(&self, request: Request<'_>) -> Result<Option<String>, StoreError> {
        let sql = "SELECT delay_id FROM delayed_event \
                   WHERE user_id = $1 AND device_id = $2 AND room_id = $3 AND type = $4 AND txn_id = $5";
        let Request {
            user_id,
            device_id,
            room_id,
            kind,
            txn_id,
        } = request;
        self.reader()
            .scalar(sql, params![user_id, device_id, room_id, kind, txn_id])
            .await
    }

    /// What a user has scheduled, soonest first.
    pub async fn scheduled_events(&self, user_id: &str, limit: u32) -> Result<Vec<delayed_event::Model>, StoreError> {
        let sql = "SELECT * FROM delayed_event WHERE user_id = $1 AND finalised_ts IS NULL \
                   ORDER BY due_ts, delay_id LIMIT $2";
        self.reader().all(sql, params![user_id, i64::from(limit)]).await
    }

    /// What a user had scheduled, what ended last first.
    pub async fn finalised_events(&self, user_id: &str, limit: u32) -> Result<Vec<delayed_event::Model>, StoreError> {
        let sql = "SELECT * FROM delayed_event WHERE user_id = $1 AND finalised_ts IS NOT NULL \
                   ORDER BY finalised_ts DESC, delay_id LIMIT $2";
        self.reader().all(sql, params![user_id, i64::from(limit)]).await
    }

    /// How many events a user has scheduled.
    pub async fn count_scheduled_events(&self, user_id: &str) -> Result<i64, StoreError> {
        let sql = "SELECT COUNT(*) FROM delayed_event WHERE user_id = $1 AND finalised_ts IS NULL";
        Ok(self.reader().scalar(sql, params![user_id]).await?.unwrap_or(0))
    }

    /// Events that are to be sent by now, the most overdue first.
    pub async fn due_events(&self, now: i64, limit: u32) -> Result<Vec<delayed_event::Model>, StoreError> {
        let sql = "SELECT * FROM delayed_event WHERE finalised_ts IS NULL AND due_ts <= $1 \
                   ORDER BY due_ts, delay_id LIMIT $2";
        self.reader().all(sql, params![now, i64::from(limit)]).await
    }

    /// When the next event is to be sent.
    pub async fn next_due_event(&self) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT MIN(due_ts) FROM delayed_event WHERE finalised_ts IS NULL";
        Ok(self.reader().scalar::<Option<i64>>(sql, params![]).await?.flatten())
    }

    /// Forgets events that ended before a time, and of each user's all but the last `keep`.
    pub async fn prune_delayed_events(&self, before: i64, keep: i64) -> Result<u64, StoreError> {
        let sql = "DELETE FROM delayed_event WHERE finalised_ts < $1 OR delay_id IN (SELECT delay_id FROM \
                   (SELECT delay_id, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY finalised_ts DESC) AS place \
                   FROM delayed_event WHERE finalised_ts IS NOT NULL) AS ended WHERE place > $2)";
        self.writer().exec(sql, params![before, keep]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_backend;

    fn event(delay_id: &str, due_ts: i64) -> delayed_event::Model {
        delayed_event::Model {
            delay_id: delay_id.to_owned(),
            user_id: "@a:x".to_owned(),
            device_id: "D".to_owned(),
            txn_id: Some(delay_id.to_owned()),
            room_id: "!r:x".to_owned(),
            r#type: "t".to_owned(),
            state_key: None,
            content: "{}".to_owned(),
            origin_server_ts: None,
            delay_ms: 10,
            scheduled_ts: due_ts - 10,
            due_ts,
            tries: 0,
            finalised_ts: None,
            event_id: None,
            error: None,
        }
    }

    fn request(txn_id: &str) -> Request<'_> {
        Request {
            user_id: "@a:x",
            device_id: "D",
            room_id: "!r:x",
            kind: "t",
            txn_id,
        }
    }

    #[tokio::test]
    async fn events_come_when_they_are_due_and_are_forgotten_when_they_are_over() {
        each_backend(|db| async move {
            let store = db.store().await;
            assert_eq!(store.next_due_event().await, Ok(None));
            let (late, soon) = (event("late", 50), event("soon", 20));
            for event in [&late, &soon] {
                store.schedule_event(event).await.expect("a write");
            }
            assert_eq!(store.next_due_event().await, Ok(Some(20)));
            assert_eq!(store.due_events(19, 9).await, Ok(vec![]));
            assert_eq!(store.due_events(50, 9).await, Ok(vec![soon.clone(), late.clone()]));
            assert_eq!(store.due_events(50, 1).await, Ok(vec![soon.clone()]));
            assert_eq!(store.count_scheduled_events("@a:x").await, Ok(2));
            let known = store.delayed_event_of_txn(request("soon")).await;
            assert_eq!(known, Ok(Some("soon".to_owned())));
            assert_eq!(store.delayed_event_of_txn(request("other")).await, Ok(None));

            for (event, finalised_ts) in [(&soon, 60), (&late, 70)] {
                let over = delayed_event::Model {
                    finalised_ts: Some(finalised_ts),
                    ..event.clone()
                };
                store.note_delayed_event(&over).await.expect("a write");
            }
            assert_eq!(store.due_events(99, 9).await, Ok(vec![]));
            assert_eq!(store.scheduled_events("@a:x", 9).await, Ok(vec![]));
            let ended = store.finalised_events("@a:x", 9).await.expect("a read");
            assert_eq!(
                ended.iter().map(|e| e.delay_id.as_str()).collect::<Vec<_>>(),
                ["late", "soon"]
            );
            assert_eq!(store.prune_delayed_events(60, 1).await, Ok(1), "only one may stay");
            assert_eq!(store.prune_delayed_events(71, 1).await, Ok(1), "that was too long ago");
        })
        .await;
    }
}
