//! Rejecting an invite and taking back a knock in a room that this server is not in: `make_leave`, then `send_leave`. Where no
//! server helps, the user leaves all the same: nobody is to be stuck with an invite.
//!
//! Spec: server-server API, "Leaving Rooms (Rejecting Invites)".

use std::time::Duration;

use ruma::api::federation::membership::create_leave_event::v2 as send_leave;
use ruma::api::federation::membership::prepare_leave_event::v1 as make_leave;
use ruma::canonical_json::CanonicalJsonValue;
use ruma::room_version_rules::RoomVersionRules;
use ruma::{Int, RoomId, ServerName, UserId};

use super::ask::{self, bad_answer};
use super::attempts::{Attempts, Budget, Failure};
use super::candidates::{self, Hints};
use super::join::text;
use super::pending::Pending;
use super::template::{Place, Template, Wish, content_of, unsealed};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::commands::{Incoming, OutOfRoom};
use crate::room::commit::origin;
use crate::room::event::Pdu;
use crate::room::membership::Profile;
use crate::room::{parse, plan};

/// How long all servers together may take: a client waits.
const BUDGET: Duration = Duration::from_secs(20);
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Servers that are asked at most.
const MAX_SERVERS: usize = 4;

/// Ends an invite or a knock.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn leave(hub: &Hub, room_id: &RoomId, user: &UserId, pending: &Pending, reason: Option<&str>) -> Outcome<()> {
    let wish = Wish {
        room_id,
        user,
        membership: "leave",
        reason,
        profile: &Profile::default(),
    };
    let event = match told_others(hub, &wish, pending).await {
        Ok(event) => event,
        Err(error) => {
            tracing::info!(%room_id, %user, %error, "an invite or knock ends without the room's knowledge");
            alone(hub, &wish, pending).await?
        }
    };
    let event = OutOfRoom {
        version: pending.room.version.to_string(),
        event: Incoming::of(&event),
        stripped: Vec::new(),
    };
    hub.rooms().out_of_room(room_id, event).await
}

/// The leave that another server has taken.
async fn told_others(hub: &Hub, wish: &Wish<'_>, pending: &Pending) -> Outcome<Pdu> {
    let hints = Hints {
        pending: Some(pending),
        ..Hints::default()
    };
    let budget = Budget::new(BUDGET);
    let mut attempts = Attempts::new("leave", wish.room_id);
    for server in candidates::servers(hub, wish.room_id, &hints).iter().take(MAX_SERVERS) {
        if budget.is_over() {
            break;
        }
        match by_way_of(hub, wish, pending, server, &budget).await {
            Ok(event) => return Ok(event),
            Err(failure) => attempts.note(server, failure)?,
        }
    }
    Err(attempts.verdict())
}

async fn by_way_of(
    hub: &Hub,
    wish: &Wish<'_>,
    pending: &Pending,
    server: &ServerName,
    budget: &Budget,
) -> Result<Pdu, Failure> {
    let env = hub.env();
    let request = make_leave::Request::new(wish.room_id.to_owned(), wish.user.to_owned());
    let made = ask::call(hub, server, request, budget.left(PATIENCE)).await?;
    let template = Template::read(&made.event, made.room_version.as_ref(), wish).map_err(|why| bad_answer(&why))?;
    if template.version != pending.room.version {
        return Err(bad_answer(&format!("the room's version is not {}", template.version)).into());
    }
    let leave = template
        .event(wish, &origin(env), env.clock.now_ms())
        .map_err(|error| bad_answer(&error))?;
    let request = send_leave::Request::new(leave.room_id.clone(), leave.event_id.clone(), text(&leave));
    ask::v2_or_v1(hub, server, request, budget.left(PATIENCE)).await?;
    Ok(leave)
}

/// A leave that follows the invite or knock and rests on it.
async fn alone(hub: &Hub, wish: &Wish<'_>, pending: &Pending) -> Outcome<Pdu> {
    let env = hub.env();
    let stored = env.rooms.events(&[pending.event]).await?.remove(&pending.event);
    let stored =
        stored.ok_or_else(|| DomainError::internal(format!("{} is pending without an event", wish.room_id)))?;
    let place = after(&stored.pdu, &pending.room.rules)?;
    let origin = origin(env);
    let event = unsealed(wish, content_of(wish), place, &origin, env.clock.now_ms());
    plan::seal(event, &pending.room.rules, &origin)
}

/// The place of an event that follows `event` and is authorized by it and by what authorizes it.
fn after(event: &Pdu, rules: &RoomVersionRules) -> Outcome<Place> {
    let broken = |error: &dyn std::fmt::Display| DomainError::internal(format!("{}: {error}", event.event_id));
    let reference = parse::reference(&event.event_id, Some(event), rules).map_err(|error| broken(&error))?;
    let mut object = parse::canonical(&event.json).map_err(|error| broken(&error))?;
    let mut auth_events = match object.remove("auth_events") {
        Some(CanonicalJsonValue::Array(auth_events)) => auth_events,
        _ => Vec::new(),
    };
    auth_events.retain(|other| *other != reference);
    auth_events.push(reference.clone());
    Ok(Place {
        prev_events: CanonicalJsonValue::Array(vec![reference]),
        auth_events: CanonicalJsonValue::Array(auth_events),
        depth: Int::new_saturating(event.depth.saturating_add(1)),
    })
}
