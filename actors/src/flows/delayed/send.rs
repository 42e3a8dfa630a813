//! One delayed event becomes an event of its room.

use entities::delayed_event::Model;
use entities::store::event::Txn;
use ruma::{OwnedEventId, RoomId, UserId};
use serde_json::value::RawValue;

use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::failpoint::DELAYED_SENT;
use crate::flows::{guard, membership};
use crate::hub::Hub;
use crate::room::commands::Draft;
use crate::room::render::DELAYED_DEVICE;
use crate::session::account;

/// If the event is in its room already, since a death came between that and the note of it, notes it now.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub(super) async fn adopt(env: &Env, row: Model) -> Outcome<Model> {
    if row.finalised_ts.is_some() {
        return Ok(row);
    }
    let Ok(room_id) = RoomId::parse(&row.room_id) else {
        return Ok(row);
    };
    let Some(room) = env.rooms.view(&room_id).await? else {
        return Ok(row);
    };
    let txn = Txn {
        room_nid: room.nid.0,
        sender: row.user_id.clone(),
        device_id: DELAYED_DEVICE.to_owned(),
        txn_id: row.delay_id.clone(),
        kind: row.r#type.clone(),
    };
    let Some(event_id) = env.txns.look_up(vec![txn]).await?.into_iter().flatten().next() else {
        return Ok(row);
    };
    let row = ended(env, row, Some(event_id), None);
    env.store.note_delayed_event(&row).await?;
    Ok(row)
}

/// Notes that a delayed event is over: sent, failed or cancelled.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub(super) async fn finalise(
    env: &Env,
    row: Model,
    event_id: Option<OwnedEventId>,
    error: Option<String>,
) -> Outcome<()> {
    let row = ended(env, row, event_id.map(Into::into), error);
    Ok(env.store.note_delayed_event(&row).await?)
}

fn ended(env: &Env, row: Model, event_id: Option<String>, error: Option<String>) -> Model {
    Model {
        finalised_ts: Some(env.clock.now_ms()),
        event_id,
        error,
        ..row
    }
}

/// Sends it, as its sender would now. One that was sent before answers the same id.
///
/// # Errors
/// As for sending the event at once; `M_USER_DEACTIVATED`, `M_USER_LOCKED`, `M_USER_SUSPENDED`.
pub(super) async fn send(hub: &Hub, row: &Model) -> Outcome<OwnedEventId> {
    let unreadable = |error: String| DomainError::internal(format!("delayed event {}: {error}", row.delay_id));
    let user = UserId::parse(&row.user_id).map_err(|e| unreadable(e.to_string()))?;
    let room_id = RoomId::parse(&row.room_id).map_err(|e| unreadable(e.to_string()))?;
    let content = RawValue::from_string(row.content.clone()).map_err(|e| unreadable(e.to_string()))?;
    let is_guest = may_send(hub, &user).await?;
    let env = hub.env();
    if hub.rooms().view(&room_id).await?.is_none() {
        return Err(DomainError::forbidden(format!("you are not in {room_id}")));
    }
    let mut draft = Draft::message(user.clone(), &row.r#type, content, None);
    draft.txn = Some((DELAYED_DEVICE.to_owned(), row.delay_id.clone()));
    draft.origin_server_ts = row.origin_server_ts;
    draft.state_key.clone_from(&row.state_key);
    let Some(state_key) = &row.state_key else {
        guard::relation(env, &room_id, &draft).await?;
        if let Some(event_id) = pretended(env, &user) {
            return Ok(event_id);
        }
        let event_id = hub.rooms().send(&room_id, draft).await?;
        env.failpoints.pass(DELAYED_SENT);
        return Ok(event_id);
    };
    let ask = guard::StateAsk {
        sender: &user,
        is_guest,
        room_id: &room_id,
        kind: &row.r#type,
        state_key,
    };
    guard::state(hub, &ask, &draft.content).await?;
    if let Some(event_id) = pretended(env, &user) {
        return Ok(event_id);
    }
    let event_id = membership::send_state(hub, &room_id, draft).await?;
    env.failpoints.pass(DELAYED_SENT);
    if row.r#type == "m.room.guest_access" && state_key.is_empty() {
        guard::remove_guests(hub, &room_id).await?;
    }
    Ok(event_id)
}

/// Whether the sender still may; the answer is whether that is a guest.
async fn may_send(hub: &Hub, user: &UserId) -> Outcome<bool> {
    let view = hub.sessions().view(user).await?;
    let gone = || DomainError::user_deactivated("This account has been deactivated");
    let view = view.filter(|view| !view.deactivated).ok_or_else(gone)?;
    if view.locked {
        return Err(account::locked());
    }
    if view.suspended {
        let message = "you cannot do this while your account is suspended";
        return Err(DomainError::matrix(403, "M_USER_SUSPENDED", message));
    }
    Ok(view.is_guest)
}

/// What becomes of events of those who are not to notice that nobody sees them.
fn pretended(env: &Env, user: &UserId) -> Option<OwnedEventId> {
    let banned = env.security.is_shadow_banned(user);
    banned.then(|| OwnedEventId::try_from(format!("${}", env.rng.alphanumeric(43))).ok())?
}
