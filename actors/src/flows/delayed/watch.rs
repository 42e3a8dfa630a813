//! The task that sends delayed events when their time has come; at the start those whose time came meanwhile.

use std::sync::{Arc, Weak};
use std::time::Duration;

use entities::delayed_event::Model;
use futures_util::{StreamExt as _, stream};
use serde_json::{Map, Value, json};

use super::send;
use crate::clock::Millis;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;

/// Events that are taken up at once.
const BATCH: u32 = 64;
/// Rooms that are sent to at the same time; one room's events go one after the other.
const ROOMS_AT_ONCE: usize = 8;
/// The longest sleep: the clock may be set.
const LONGEST: Duration = Duration::from_secs(30);
/// The pause while the database does not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// Tries while a room or the database is away.
const TRIES: i64 = 8;
/// The pause before the second try, milliseconds; it doubles.
const FIRST_RETRY: Millis = 1_000;

/// Starts the task; it ends with the drain or the hub.
pub fn start(hub: &Arc<Hub>) {
    hub.env()
        .io
        .spawn(run(Arc::downgrade(hub), hub.env().delayed.wake.clone()));
}

async fn run(weak: Weak<Hub>, wake: Arc<tokio::sync::Notify>) {
    while let Some(hub) = weak.upgrade().filter(|hub| !hub.is_draining() && !hub.is_fenced()) {
        let pause = round(&hub).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "delayed events wait");
            PAUSE
        });
        drop(hub);
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Sends what is due. The answer is how long nothing is.
async fn round(hub: &Arc<Hub>) -> Outcome<Duration> {
    let (store, clock) = (&hub.env().store, &hub.env().clock);
    let due = store.due_events(clock.now_ms(), BATCH).await?;
    if due.is_empty() {
        let Some(next) = store.next_due_event().await? else {
            return Ok(LONGEST);
        };
        let wait = u64::try_from(next - clock.now_ms()).unwrap_or(0);
        return Ok(Duration::from_millis(wait).min(LONGEST));
    }
    let outcomes = stream::iter(by_room(due))
        .map(|events| async move {
            for event in events {
                settle(hub, &event.delay_id).await?;
            }
            Ok(())
        })
        .buffer_unordered(ROOMS_AT_ONCE)
        .collect::<Vec<Outcome<()>>>()
        .await;
    outcomes.into_iter().collect::<Outcome<()>>()?;
    Ok(Duration::ZERO)
}

/// The events of each room, in their order.
fn by_room(events: Vec<Model>) -> Vec<Vec<Model>> {
    let mut rooms: Vec<Vec<Model>> = Vec::new();
    for event in events {
        match rooms.iter_mut().find(|room| room[0].room_id == event.room_id) {
            Some(room) => room.push(event),
            None => rooms.push(vec![event]),
        }
    }
    rooms
}

/// Sends one event if it still is to be sent.
async fn settle(hub: &Hub, delay_id: &str) -> Outcome<()> {
    let env = hub.env();
    let _turn = env.delayed.acting.take(delay_id).await;
    let Some(row) = env.store.delayed_event(delay_id).await? else {
        return Ok(());
    };
    let row = send::adopt(env, row).await?;
    if row.finalised_ts.is_some() || row.due_ts > env.clock.now_ms() {
        return Ok(());
    }
    match send::send(hub, &row).await {
        Ok(event_id) => send::finalise(env, row, Some(event_id), None).await,
        // The next start goes on.
        Err(_) if hub.is_draining() || hub.is_fenced() => Ok(()),
        Err(DomainError::Unavailable { .. } | DomainError::Overloaded { .. }) if row.tries < TRIES => {
            let wait = FIRST_RETRY << row.tries;
            let again = Model {
                tries: row.tries + 1,
                due_ts: env.clock.now_ms() + wait,
                ..row
            };
            Ok(env.store.note_delayed_event(&again).await?)
        }
        Err(error) => {
            tracing::info!(%error, user = row.user_id, room = row.room_id, "a delayed event could not be sent");
            send::finalise(env, row, None, Some(described(error).to_string())).await
        }
    }
}

/// The error object that sending the event would have answered.
fn described(error: DomainError) -> Value {
    let plain = |message: &str| {
        Map::from_iter([
            ("errcode".to_owned(), json!("M_UNKNOWN")),
            ("error".to_owned(), json!(message)),
        ])
    };
    let object = match error {
        DomainError::Matrix {
            errcode,
            message,
            mut extra,
            ..
        } => {
            extra.insert("errcode".to_owned(), json!(errcode));
            extra.insert("error".to_owned(), json!(message));
            extra
        }
        _ => plain("the server could not send the event"),
    };
    Value::Object(object)
}
