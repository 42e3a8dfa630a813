//! Joins that were sent to another server and brought no room: it did not answer, its answer was no good, or this process died
//! in between. That server may have let the user in all the same, so the join is taken back: nobody is to be in a room that
//! their own server knows nothing of.

use std::sync::{Arc, Weak};
use std::time::Duration;

use entities::remote_join;
use ruma::api::federation::membership::create_leave_event::v2 as send_leave;
use ruma::api::federation::membership::prepare_leave_event::v1 as make_leave;
use ruma::{RoomId, ServerName, UserId};

use super::ask::{self, bad_answer};
use super::join::text;
use super::pending::pending;
use super::template::{Template, Wish};
use crate::clock::Millis;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::commit::origin;
use crate::room::event::Pdu;
use crate::room::membership::Profile;

/// How often such joins are looked for.
const ROUND: Duration = Duration::from_secs(600);
/// A user may try again by themselves before their join is taken back.
const PATIENCE_MS: Millis = 600_000;
/// After so long nobody takes it back any more.
const GIVE_UP_MS: Millis = 7 * 24 * 60 * 60 * 1_000;
/// Joins of one round.
const AT_ONCE: u32 = 200;
/// How long a server may take.
const REQUEST: Duration = Duration::from_secs(30);

/// Sends a join, so that it is known to be under way until it is refused or done.
pub(super) async fn noted<T>(
    env: &Env,
    join: &Pdu,
    via: &ServerName,
    sending: impl Future<Output = Outcome<T>>,
) -> Outcome<T> {
    let row = remote_join::Model {
        room_id: join.room_id.to_string(),
        user_id: join.sender.to_string(),
        via: via.to_string(),
        started_ts: env.clock.now_ms(),
    };
    env.store.begin_remote_join(row).await?;
    let sent = sending.await;
    if sent.as_ref().is_err_and(is_refusal) {
        forget(env, join.room_id.as_str(), join.sender.as_str(), Some(via.as_str())).await;
    }
    sent
}

/// The user is in the room.
pub(super) async fn done(env: &Env, room_id: &RoomId, user: &UserId) {
    forget(env, room_id.as_str(), user.as_str(), None).await;
}

async fn forget(env: &Env, room_id: &str, user_id: &str, via: Option<&str>) {
    if let Err(error) = env.store.end_remote_join(room_id, user_id, via).await {
        // The next round finds that there is nothing to take back.
        tracing::warn!(%error, room_id, user_id, "a join stays noted");
    }
}

/// Whether the server has said no, so that nothing came of it.
fn is_refusal(error: &DomainError) -> bool {
    matches!(error, DomainError::Matrix { status: 400..500, .. })
}

/// Takes unfinished joins back from now on, until the hub ends.
pub fn start(hub: &Arc<Hub>) {
    hub.env().io.spawn(run(Arc::downgrade(hub)));
}

async fn run(weak: Weak<Hub>) {
    while let Some(hub) = weak.upgrade().filter(|hub| !hub.is_draining()) {
        if let Err(error) = round(&hub).await {
            tracing::warn!(%error, "joins that came to nothing are not taken back for now");
        }
        drop(hub);
        tokio::time::sleep(ROUND).await;
    }
}

/// Takes back what has been unfinished for long enough.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn round(hub: &Hub) -> Outcome<()> {
    let now = hub.env().clock.now_ms();
    for row in hub.env().store.remote_joins(now - PATIENCE_MS, AT_ONCE).await? {
        if take_back(hub, &row).await? || row.started_ts < now - GIVE_UP_MS {
            forget(hub.env(), &row.room_id, &row.user_id, Some(&row.via)).await;
        }
    }
    Ok(())
}

/// Whether there is nothing left to take back.
async fn take_back(hub: &Hub, row: &remote_join::Model) -> Outcome<bool> {
    let parsed = (
        RoomId::parse(&row.room_id),
        UserId::parse(&row.user_id),
        ServerName::parse(&row.via),
    );
    let (Ok(room_id), Ok(user), Ok(via)) = parsed else {
        return Ok(true);
    };
    // Somebody who is joining at present notes that anew.
    let Ok(_turn) = hub.env().entering.take(&room_id, Duration::ZERO).await else {
        return Ok(false);
    };
    let room = hub.rooms().view(&room_id).await?;
    if room.as_ref().is_some_and(|room| room.is_joined(&user)) {
        return Ok(true);
    }
    // To leave would be to reject the invite. Whichever comes of it, the user's next step ends the join as well.
    if pending(hub.env(), &user, &room_id, room.as_deref()).await?.is_some() {
        return Ok(false);
    }
    match leave(hub, &room_id, &user, &via).await {
        Ok(()) => {
            tracing::info!(%room_id, %user, %via, "a join that came to nothing is taken back");
            Ok(true)
        }
        // The user is not in the room.
        Err(error) if is_refusal(&error) => Ok(true),
        Err(error) => {
            tracing::debug!(%room_id, %user, %via, %error, "a join cannot be taken back");
            Ok(false)
        }
    }
}

async fn leave(hub: &Hub, room_id: &RoomId, user: &UserId, via: &ServerName) -> Outcome<()> {
    let env = hub.env();
    let wish = Wish {
        room_id,
        user,
        membership: "leave",
        reason: None,
        profile: &Profile::default(),
    };
    let request = make_leave::Request::new(room_id.to_owned(), user.to_owned());
    let made = ask::call(hub, via, request, REQUEST).await?;
    let template = Template::read(&made.event, made.room_version.as_ref(), &wish).map_err(|why| bad_answer(&why))?;
    let leave = template
        .event(&wish, &origin(env), env.clock.now_ms())
        .map_err(|error| bad_answer(&error))?;
    let request = send_leave::Request::new(leave.room_id.clone(), leave.event_id.clone(), text(&leave));
    ask::v2_or_v1(hub, via, request, REQUEST).await.map(|_| ())
}
