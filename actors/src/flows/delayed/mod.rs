//! Events that are sent later (MSC4140): written before their sender is told so, sent once by the task that watches the time,
//! also across a death in between – the id of a delayed event is the transaction id of what is sent.

mod send;
mod watch;

use entities::delayed_event::Model;
use entities::store::delayed::Request;
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId};
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::turns::Turns;
use crate::clock::Millis;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use std::sync::Arc;

pub use watch::start;

/// Bytes of a content; an event may not have more with everything else in it.
const MAX_CONTENT: usize = 65_536;
/// Bytes of a type, a state key and a transaction id.
const MAX_NAME: usize = 255;
/// Characters of a delayed event's id. Whoever knows it may act on the event.
const ID_LEN: usize = 32;

/// Who works on which delayed event, and a bell for the task that sends them.
#[derive(Default)]
pub struct Delayed {
    /// By user: how many there are.
    scheduling: Turns,
    /// By delayed event: what becomes of it.
    acting: Turns,
    wake: Arc<Notify>,
}

/// An event to be sent later.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Who sends it.
    pub user: OwnedUserId,
    /// With which device.
    pub device: OwnedDeviceId,
    /// Where to.
    pub room_id: OwnedRoomId,
    /// `type`
    pub kind: String,
    /// `Some` for state.
    pub state_key: Option<String>,
    /// A JSON object.
    pub content: Box<RawValue>,
    /// Milliseconds.
    pub delay_ms: Millis,
    /// A repeated one answers what it did first.
    pub txn_id: Option<String>,
    /// Where the sender may choose.
    pub origin_server_ts: Option<i64>,
}

/// What can be done with a delayed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is never sent.
    Cancel,
    /// Its delay begins anew.
    Restart,
    /// It is sent now.
    Send,
}

impl Action {
    /// By its name in the API.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "cancel" => Some(Self::Cancel),
            "restart" => Some(Self::Restart),
            "send" => Some(Self::Send),
            _ => None,
        }
    }
}

/// Schedules an event. Answers its delay id.
///
/// # Errors
/// `M_FORBIDDEN` for delays that are too long, rooms that are unknown, and where nothing may be scheduled; 429
/// `M_LIMIT_EXCEEDED` when the user has too many; `M_INVALID_PARAM`, `M_TOO_LARGE`.
pub async fn schedule(env: &Env, wish: Wish) -> Outcome<String> {
    check(env, &wish)?;
    let _turn = env.delayed.scheduling.take(wish.user.as_str()).await;
    if let Some(txn_id) = &wish.txn_id {
        let request = Request {
            user_id: wish.user.as_str(),
            device_id: wish.device.as_str(),
            room_id: wish.room_id.as_str(),
            kind: &wish.kind,
            txn_id,
        };
        if let Some(known) = env.store.delayed_event_of_txn(request).await? {
            return Ok(known);
        }
    }
    refuse_more(env, &wish).await?;
    let now = env.clock.now_ms();
    let row = Model {
        delay_id: env.rng.alphanumeric(ID_LEN),
        user_id: wish.user.into(),
        device_id: wish.device.into(),
        txn_id: wish.txn_id,
        room_id: wish.room_id.into(),
        r#type: wish.kind,
        state_key: wish.state_key,
        content: wish.content.get().to_owned(),
        origin_server_ts: wish.origin_server_ts,
        delay_ms: wish.delay_ms,
        scheduled_ts: now,
        due_ts: now.saturating_add(wish.delay_ms),
        tries: 0,
        finalised_ts: None,
        event_id: None,
        error: None,
    };
    env.store.schedule_event(&row).await?;
    env.delayed.wake.notify_one();
    Ok(row.delay_id)
}

fn check(env: &Env, wish: &Wish) -> Outcome<()> {
    let limits = env.settings.delayed;
    if limits.max_scheduled == 0 {
        return Err(DomainError::forbidden("This server sends no delayed events."));
    }
    if wish.delay_ms <= 0 {
        return Err(DomainError::invalid_param(
            "the delay is a positive number of milliseconds",
        ));
    }
    if wish.delay_ms > limits.max_delay_ms {
        let message = format!("The delay may be {} ms at most.", limits.max_delay_ms);
        return Err(DomainError::forbidden(message)
            .with("org.matrix.msc4140.errcode", "M_MAX_DELAY_EXCEEDED")
            .with("org.matrix.msc4140.max_delay", limits.max_delay_ms));
    }
    if wish.content.get().len() > MAX_CONTENT {
        return Err(DomainError::too_large("the event is too large"));
    }
    let names = [Some(&wish.kind), wish.state_key.as_ref(), wish.txn_id.as_ref()];
    if names.into_iter().flatten().any(|name| name.len() > MAX_NAME) {
        return Err(DomainError::invalid_param(
            "types, state keys and transaction ids have 255 bytes at most",
        ));
    }
    Ok(())
}

/// Told with the time until the user's next delayed event is sent, when there is room for another.
async fn refuse_more(env: &Env, wish: &Wish) -> Outcome<()> {
    let user = wish.user.as_str();
    if env.store.count_scheduled_events(user).await? < i64::from(env.settings.delayed.max_scheduled) {
        return Ok(());
    }
    let next = env.store.scheduled_events(user, 1).await?;
    let now = env.clock.now_ms();
    let wait = next.first().map_or(1, |next| (next.due_ts - now).max(1));
    let message = "The maximum number of delayed events has been reached.";
    Err(DomainError::matrix(429, "M_LIMIT_EXCEEDED", message)
        .with("retry_after_ms", wait)
        .with("org.matrix.msc4140.errcode", "M_MAX_DELAYED_EVENTS_EXCEEDED"))
}

/// Acts on a delayed event. What is over already in the way that is asked for is no error.
///
/// # Errors
/// `M_NOT_FOUND`; 409 `M_UNKNOWN` when it is over in another way; for `send` whatever the room says, and then it stays scheduled.
pub async fn act(hub: &Hub, delay_id: &str, action: Action) -> Outcome<()> {
    let env = hub.env();
    let unknown = || DomainError::not_found("There is no such delayed event.");
    let _turn = env.delayed.acting.take(delay_id).await;
    let row = env.store.delayed_event(delay_id).await?.ok_or_else(unknown)?;
    let mut row = send::adopt(env, row).await?;
    if row.finalised_ts.is_some() {
        return match (action, row.event_id.is_some()) {
            (Action::Send, true) | (Action::Cancel, false) => Ok(()),
            (_, true) => Err(DomainError::matrix(
                409,
                "M_UNKNOWN",
                "The event has been sent already.",
            )),
            (_, false) => Err(DomainError::matrix(409, "M_UNKNOWN", "The event was cancelled.")),
        };
    }
    match action {
        Action::Cancel => send::finalise(env, row, None, None).await,
        Action::Send => {
            let event_id = send::send(hub, &row).await?;
            send::finalise(env, row, Some(event_id), None).await
        }
        Action::Restart => {
            row.scheduled_ts = env.clock.now_ms();
            row.due_ts = row.scheduled_ts.saturating_add(row.delay_ms);
            row.tries = 0;
            Ok(env.store.note_delayed_event(&row).await?)
        }
    }
}
