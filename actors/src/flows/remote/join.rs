//! Joining a room by way of a server that is in it: `make_join`, then `send_join`, then the room as that server tells it.
//!
//! Spec: server-server API, "Joining Rooms".

use std::time::Duration;

use ruma::api::federation::membership::create_join_event::v2 as send_join;
use ruma::api::federation::membership::create_join_event::v2::RoomState;
use ruma::api::federation::membership::prepare_join_event::v1 as make_join;
use ruma::{OwnedServerName, RoomId, ServerName, UserId};
use serde_json::value::RawValue;

use super::answer::{self, Sent};
use super::ask::{self, bad_answer};
use super::attempts::{Attempts, Budget, Failure};
use super::template::{Template, Wish};
use super::unfinished;
use crate::cpu::Class;
use crate::error::{DomainError, Outcome};
use crate::flows::profiles;
use crate::hub::Hub;
use crate::room::commands::{Import, Ingest, Verdict};
use crate::room::commit::origin;
use crate::room::event::Pdu;
use crate::room::membership::Profile;
use crate::room::rules;

/// How long all servers together may take.
const BUDGET: Duration = Duration::from_secs(100);
/// How long one of them may take to prepare an event.
const TEMPLATE: Duration = Duration::from_secs(20);
/// How long one of them may take to tell the room.
const STATE: Duration = Duration::from_secs(90);

/// Who wants to join what.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// The room.
    pub room_id: &'a RoomId,
    /// The local user.
    pub user: &'a UserId,
    /// `reason`
    pub reason: Option<&'a str>,
    /// Servers to ask, in this order.
    pub servers: &'a [OwnedServerName],
}

/// Joins by way of the first server that lets the user in.
///
/// # Errors
/// What the servers say: `M_FORBIDDEN`, `M_INCOMPATIBLE_ROOM_VERSION`, `M_UNABLE_TO_…`; `M_NOT_FOUND` when none knows the room
/// or none was named; 502 `M_UNKNOWN` when none answers.
pub async fn join(hub: &Hub, joining: &Joining<'_>) -> Outcome<()> {
    let user = joining.user.to_owned();
    let profile = profiles(hub.env(), std::slice::from_ref(&user)).await?.remove(&user);
    let profile = profile.unwrap_or_default();
    let budget = Budget::new(BUDGET);
    let mut attempts = Attempts::new("join", joining.room_id);
    for server in joining.servers {
        if budget.is_over() {
            break;
        }
        match by_way_of(hub, joining, &profile, server, &budget).await {
            Ok(()) => return Ok(()),
            Err(failure) => attempts.note(server, failure)?,
        }
    }
    Err(attempts.verdict())
}

async fn by_way_of(
    hub: &Hub,
    joining: &Joining<'_>,
    profile: &Profile,
    server: &ServerName,
    budget: &Budget,
) -> Result<(), Failure> {
    let env = hub.env();
    let wish = Wish {
        room_id: joining.room_id,
        user: joining.user,
        membership: "join",
        reason: joining.reason,
        profile,
    };
    let mut request = make_join::Request::new(joining.room_id.to_owned(), joining.user.to_owned());
    request.ver = rules::supported();
    let made = ask::call(hub, server, request, budget.left(TEMPLATE)).await?;
    let template = Template::read(&made.event, made.room_version.as_ref(), &wish).map_err(|why| bad_answer(&why))?;
    let join = template
        .event(&wish, &origin(env), env.clock.now_ms())
        .map_err(|error| bad_answer(&error))?;
    let told = unfinished::noted(env, &join, server, send(hub, server, &join, budget)).await?;
    let sent = Sent {
        server,
        version: &template.version,
        rules: &template.rules,
        join: &join,
    };
    let import = answer::check(env, &sent, told).await?;
    enter(hub, joining.room_id, import).await?;
    unfinished::done(env, joining.room_id, joining.user).await;
    Ok(())
}

async fn send(hub: &Hub, server: &ServerName, join: &Pdu, budget: &Budget) -> Outcome<RoomState> {
    let request = send_join::Request::new(join.room_id.clone(), join.event_id.clone(), text(join));
    let answer = ask::v2_or_v1(hub, server, request, budget.left(STATE)).await?;
    // Megabytes, for large rooms.
    let read = move || answer.read::<RoomState>();
    hub.env().cpu.run(Class::Verify, read).await?
}

/// A PDU as a request's body.
#[must_use]
pub(super) fn text(pdu: &Pdu) -> Box<RawValue> {
    RawValue::from_string(pdu.json.to_string()).expect("a PDU is JSON")
}

/// Takes the room over, or, where somebody of this server is in it, the join alone.
async fn enter(hub: &Hub, room_id: &RoomId, import: Import) -> Result<(), Failure> {
    let kept = import.clone();
    match hub.rooms().import(room_id, import).await {
        Ok(imported) => {
            tracing::info!(%room_id, state = imported.state, left_out = imported.left_out, "joined a room");
            Ok(())
        }
        Err(error) => match error.errcode() {
            Some("M_CONFLICT") => add(hub, room_id, kept).await,
            // By what this server told the user may not join, which it let join.
            Some("M_FORBIDDEN" | "M_BAD_STATE") => Err(Failure::Theirs(bad_answer(&error))),
            _ => Err(Failure::Ours(error)),
        },
    }
}

/// Adds the join to a room that is here, with the state before it as the other server tells it.
async fn add(hub: &Hub, room_id: &RoomId, import: Import) -> Result<(), Failure> {
    let ingest = Ingest {
        pdus: vec![import.join.with_state(import.state.into())],
        outliers: import.events,
    };
    let verdicts = hub.rooms().ingest(room_id, ingest).await.map_err(Failure::Ours)?;
    match verdicts.into_iter().next() {
        Some(Verdict::Accepted | Verdict::Duplicate) => Ok(()),
        Some(Verdict::SoftFailed) => Err(Failure::Ours(DomainError::forbidden(
            "the room's newest state does not let you in",
        ))),
        Some(Verdict::Rejected(reason)) => Err(Failure::Theirs(bad_answer(&reason))),
        Some(Verdict::Missing(_)) | None => Err(Failure::Theirs(bad_answer(&"the state is not complete"))),
    }
}
