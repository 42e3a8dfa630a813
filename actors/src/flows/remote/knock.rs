//! Knocking upon a room by way of a server that is in it: `make_knock`, then `send_knock`.
//!
//! Spec: server-server API, "Knocking upon a room".

use std::time::Duration;

use ruma::api::federation::membership::create_knock_event::v1 as send_knock;
use ruma::api::federation::membership::prepare_knock_event::v1 as make_knock;
use ruma::{OwnedServerName, RoomId, RoomVersionId, ServerName, UserId};

use super::ask::{self, bad_answer};
use super::attempts::{Attempts, Budget, Failure};
use super::join::text;
use super::stripped::stripped;
use super::template::{Template, Wish};
use crate::error::Outcome;
use crate::flows::profiles;
use crate::hub::Hub;
use crate::room::commands::{Incoming, OutOfRoom};
use crate::room::commit::origin;
use crate::room::render::stripped_event;
use crate::room::rules;

/// How long all servers together may take.
const BUDGET: Duration = Duration::from_secs(60);
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Knocks by way of the first server that passes it on.
///
/// # Errors
/// As `join`.
pub async fn knock(
    hub: &Hub,
    room_id: &RoomId,
    user: &UserId,
    reason: Option<&str>,
    servers: &[OwnedServerName],
) -> Outcome<()> {
    let owned = user.to_owned();
    let profile = profiles(hub.env(), std::slice::from_ref(&owned)).await?.remove(&owned);
    let profile = profile.unwrap_or_default();
    let wish = Wish {
        room_id,
        user,
        membership: "knock",
        reason,
        profile: &profile,
    };
    let budget = Budget::new(BUDGET);
    let mut attempts = Attempts::new("knock on", room_id);
    for server in servers {
        if budget.is_over() {
            break;
        }
        match by_way_of(hub, &wish, server, &budget).await {
            Ok(()) => return Ok(()),
            Err(failure) => attempts.note(server, failure)?,
        }
    }
    Err(attempts.verdict())
}

/// The versions in which one can knock.
fn versions() -> Vec<RoomVersionId> {
    let knows = |version: &RoomVersionId| rules::rules_for(version).is_some_and(|rules| rules.authorization.knocking);
    rules::supported().into_iter().filter(knows).collect()
}

async fn by_way_of(hub: &Hub, wish: &Wish<'_>, server: &ServerName, budget: &Budget) -> Result<(), Failure> {
    let env = hub.env();
    let mut request = make_knock::Request::new(wish.room_id.to_owned(), wish.user.to_owned());
    request.ver = versions();
    let made = ask::call(hub, server, request, budget.left(PATIENCE)).await?;
    let template = Template::read(&made.event, Some(&made.room_version), wish).map_err(|why| bad_answer(&why))?;
    if !template.rules.authorization.knocking {
        return Err(bad_answer(&"the room's version has no knocking").into());
    }
    let knock = template
        .event(wish, &origin(env), env.clock.now_ms())
        .map_err(|error| bad_answer(&error))?;
    let request = send_knock::Request::new(knock.room_id.clone(), knock.event_id.clone(), text(&knock));
    let told = ask::call(hub, server, request, budget.left(PATIENCE)).await?;
    let state = stripped(env, &template.rules, wish.room_id, server, told.knock_room_state).await;
    let mut state = state.map_err(Failure::Ours)?;
    state.push(stripped_event(&knock));
    let event = OutOfRoom {
        version: template.version.to_string(),
        event: Incoming::of(&knock),
        stripped: state,
    };
    hub.rooms()
        .out_of_room(wish.room_id, event)
        .await
        .map_err(Failure::Ours)
}
