//! The room of two friends: made with the request, entered with the answer, left where nothing came of it.

use std::sync::Arc;

use entities::friend::Model;
use ruma::api::client::room::create_room::v3::{Request, RoomPreset};
use ruma::{OwnedRoomId, RoomId, RoomOrAliasId, UserId};

use super::Pair;
use crate::clock::Millis;
use crate::error::{DomainError, Outcome};
use crate::failpoint::{FRIEND_ENTERED, FRIEND_ROOM};
use crate::flows::membership::{self, Change};
use crate::flows::{create_room, guard, profiles, remote};
use crate::hub::Hub;
use crate::room::commit::origin;
use crate::room::create::{self, Options};
use crate::room::membership::Action;
use crate::room::snapshot::RoomSnapshot;
use crate::session::friends::half::{Standing, standing};
use crate::session::friends::{Wish, data};

/// After so long nobody waits any more for the invite to a room that the other's server makes.
const GIVE_UP_MS: Millis = 7 * 24 * 60 * 60 * 1_000;

/// The half with a room that the user can use, where they want one and the other has not been told of one yet.
///
/// # Errors
/// `Unavailable`, and what rooms refuse.
pub(super) async fn made(hub: &Hub, pair: &Pair, half: Model) -> Outcome<Model> {
    if !half.own_wants || half.told_seq >= half.own_seq || is_usable(hub, pair, &half).await? {
        return Ok(half);
    }
    match known_chat(hub, pair).await? {
        Some(room_id) => note(hub, pair, &half, &room_id).await,
        None => make(hub, pair, half).await,
    }
}

async fn is_usable(hub: &Hub, pair: &Pair, half: &Model) -> Outcome<bool> {
    let Some(room_id) = half.room_id.as_deref().and_then(|id| RoomId::parse(id).ok()) else {
        return Ok(false);
    };
    let waits = !half.room_own && standing(half) == Standing::Friends;
    Ok(waits || matches!(place(hub, &room_id, &pair.user).await?.as_str(), "join" | "invite"))
}

/// A user's membership of a room, as far as this server knows.
async fn place(hub: &Hub, room_id: &RoomId, user: &UserId) -> Outcome<String> {
    let env = hub.env();
    if let Some(room) = hub.rooms().view(room_id).await?
        && remote::is_here(&room, &env.server_name)
    {
        return Ok(room.membership(user));
    }
    let Some(room) = env.store.room_by_id(room_id.as_str()).await? else {
        return Ok("leave".to_owned());
    };
    let member = env.store.membership(room.nid, user.as_str()).await?;
    Ok(member.map_or_else(|| "leave".to_owned(), |member| member.membership))
}

/// A direct chat that the two have already, and nobody else is in.
async fn known_chat(hub: &Hub, pair: &Pair) -> Outcome<Option<OwnedRoomId>> {
    for room_id in data::direct_rooms(hub.env(), &pair.user, &pair.friend).await? {
        let Ok(room_id) = RoomId::parse(room_id) else { continue };
        let room = hub.rooms().view(&room_id).await?;
        if room.is_some_and(|room| is_chat_of(&room, pair)) {
            return Ok(Some(room_id));
        }
    }
    Ok(None)
}

fn is_chat_of(room: &RoomSnapshot, pair: &Pair) -> bool {
    let members = room.state_of_kind("m.room.member");
    let others = members.filter(|event| {
        let is_one_of_them = event.pdu.state_key.as_deref() == Some(pair.user.as_str())
            || event.pdu.state_key.as_deref() == Some(pair.friend.as_str());
        !is_one_of_them && event.pdu.has_membership("join")
    });
    room.is_joined(&pair.user) && room.is_joined(&pair.friend) && others.count() == 0
}

async fn note(hub: &Hub, pair: &Pair, half: &Model, room_id: &RoomId) -> Outcome<Model> {
    let wish = Wish::SetRoom {
        instead_of: half.room_id.clone(),
        room_id: room_id.to_owned(),
        own: true,
    };
    hub.sessions().befriend(&pair.user, &pair.friend, wish).await
}

/// The id is noted before the room is there: after a death in between the next try makes another room, and never two.
async fn make(hub: &Hub, pair: &Pair, half: Model) -> Outcome<Model> {
    let env = hub.env();
    let mut request = Request::new();
    request.preset = Some(RoomPreset::TrustedPrivateChat);
    request.is_direct = true;
    let shy = env.is_local(&pair.friend) && guard::blocks_invites(env, &pair.friend).await?;
    if !shy || half.their_wants {
        request.invite = vec![pair.friend.clone()];
    }
    let profiles = profiles(env, &[pair.user.clone(), pair.friend.clone()]).await?;
    let new = create::build(&Options {
        request: &request,
        creator: &pair.user,
        profiles: &profiles,
        default_version: &env.settings.default_room_version,
        now: env.creation_ms(),
        origin: &origin(env),
    })?;
    let room_id = new.room_id.clone();
    let half = note(hub, pair, &half, &room_id).await?;
    if half.room_id.as_deref() != Some(room_id.as_str()) {
        // The other's room came first, or the wish is over.
        return Ok(half);
    }
    env.failpoints.pass(FRIEND_ROOM);
    create_room::commit(hub, new).await?;
    Ok(half)
}

/// Invites the other, or follows their invite, and has the room among the user's direct chats.
///
/// # Errors
/// `Unavailable` when it has to be tried again.
pub(super) async fn enter(hub: &Hub, pair: &Pair, half: &Model) -> Outcome<()> {
    let Some(room_id) = half.room_id.as_deref().and_then(|id| RoomId::parse(id).ok()) else {
        return Ok(());
    };
    let are_friends = standing(half) == Standing::Friends;
    if !half.own_wants {
        return Ok(());
    }
    match place(hub, &room_id, &pair.user).await?.as_str() {
        "join" => invite(hub, pair, &room_id, are_friends).await?,
        "invite" if are_friends => follow(hub, pair, half, &room_id).await?,
        _ if are_friends && !half.room_own => return wait(hub, half),
        _ => return Ok(()),
    }
    hub.env().failpoints.pass(FRIEND_ENTERED);
    mark(hub, pair, &room_id, true).await
}

async fn mark(hub: &Hub, pair: &Pair, room_id: &RoomId, listed: bool) -> Outcome<()> {
    let wish = Wish::MarkDirect {
        room_id: room_id.to_string(),
        listed,
    };
    let marked = hub.sessions().befriend(&pair.user, &pair.friend, wish).await;
    match marked {
        // The user keeps as much as they may: that is not to hold up the rest.
        Err(error @ DomainError::Matrix { .. }) => {
            tracing::info!(user = %pair.user, %error, "a direct chat is not listed as such");
            Ok(())
        }
        marked => marked.map(|_| ()),
    }
}

/// The other half's server invites the user as soon as it can.
fn wait(hub: &Hub, half: &Model) -> Outcome<()> {
    let age = hub.env().clock.now_ms() - half.own_ts.max(half.their_ts);
    match age < GIVE_UP_MS {
        true => Err(DomainError::unavailable(
            "the invite to a friend's room has not come yet",
        )),
        false => Ok(()),
    }
}

async fn invite(hub: &Hub, pair: &Pair, room_id: &RoomId, are_friends: bool) -> Outcome<()> {
    let env = hub.env();
    if matches!(
        place(hub, room_id, &pair.friend).await?.as_str(),
        "join" | "invite" | "ban"
    ) {
        return Ok(());
    }
    if env.is_local(&pair.friend) {
        if !are_friends && guard::blocks_invites(env, &pair.friend).await? {
            return Ok(());
        }
    } else {
        let server = hub.peers().look(pair.friend.server_name()).await?;
        server.admit(env.clock.now_ms())?;
    }
    let change = Change {
        room_id,
        sender: &pair.user,
        target: &pair.friend,
        reason: None,
    };
    lenient(membership::change(hub, &change, Action::Invite { is_direct: true }).await)
}

async fn follow(hub: &Hub, pair: &Pair, half: &Model, room_id: &RoomId) -> Outcome<()> {
    let target = <&RoomOrAliasId>::from(room_id);
    let via = [pair.friend.server_name().to_owned()];
    match membership::join(hub, &pair.user, target, &via, None).await {
        Ok(_) => Ok(()),
        Err(error @ (DomainError::Unavailable { .. } | DomainError::Overloaded { .. })) => Err(error),
        Err(error) => {
            tracing::info!(%room_id, user = %pair.user, %error, "a friend's room cannot be joined");
            wait(hub, half)
        }
    }
}

/// What a room refuses is not tried again.
fn lenient(outcome: Outcome<()>) -> Outcome<()> {
    match outcome {
        Err(DomainError::Matrix {
            status: 500.., message, ..
        }) => Err(DomainError::unavailable(message)),
        Err(error @ DomainError::Matrix { .. }) => {
            tracing::info!(%error, "a room does not let friends have their way");
            Ok(())
        }
        outcome => outcome,
    }
}

/// Leaves a room that was made for a request of which nothing came, unless the other is in it.
///
/// # Errors
/// `Unavailable` when it has to be tried again.
pub(super) async fn leave_old(hub: &Hub, pair: &Pair, half: &Model, is_gone: bool) -> Outcome<()> {
    let Some(old) = half.old_room_id.clone() else {
        return Ok(());
    };
    let parsed = RoomId::parse(&old).ok();
    if let Some(room_id) = parsed.filter(|_| half.room_id.as_ref() != Some(&old) && !is_gone) {
        leave(hub, pair, &room_id).await?;
    }
    let wish = Wish::RoomLeft(old);
    hub.sessions()
        .befriend(&pair.user, &pair.friend, wish)
        .await
        .map(|_| ())
}

async fn leave(hub: &Hub, pair: &Pair, room_id: &OwnedRoomId) -> Outcome<()> {
    let change = |target| Change {
        room_id,
        sender: &pair.user,
        target,
        reason: None,
    };
    let own = place(hub, room_id, &pair.user).await?;
    let other = place(hub, room_id, &pair.friend).await?;
    match (own.as_str(), other.as_str()) {
        ("join", "join") => return Ok(()),
        ("join", other) => {
            if other == "invite" {
                lenient(membership::change(hub, &change(&pair.friend), Action::Kick).await)?;
            }
            lenient(membership::change(hub, &change(&pair.user), Action::Leave).await)?;
        }
        ("invite", _) => lenient(membership::change(hub, &change(&pair.user), Action::Leave).await)?,
        _ => {}
    }
    mark(hub, pair, room_id, false).await
}

/// The room of a half as this server has it.
pub(super) async fn of(hub: &Hub, half: &Model) -> Outcome<Option<Arc<RoomSnapshot>>> {
    match half.room_id.as_deref().and_then(|id| RoomId::parse(id).ok()) {
        Some(room_id) => hub.rooms().view(&room_id).await,
        None => Ok(None),
    }
}
