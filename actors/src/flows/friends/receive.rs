//! What other servers say and ask about their users' friends.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entities::friend::Model;
use ruma::{MxcUri, OwnedUserId, RoomId, ServerName, UserId};
use sha2::{Digest as _, Sha256};

use super::{Pair, check_text, settle_soon};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::session::friends::half::{Stance, Standing, standing};
use crate::session::friends::{Status, Wish, status_of};
use crate::session::view::UserView;

/// Characters of a name and of a picture's address.
const MAX_NAME: usize = 256;
const MAX_AVATAR_URL: usize = 1_000;
/// Integers beyond are no canonical JSON.
const MAX_SEQ: i64 = (1 << 53) - 1;

/// What one of another server's users wants of a local one.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The other server's user.
    pub requester: OwnedUserId,
    /// The local user.
    pub target: OwnedUserId,
    /// What the request says.
    pub message: Option<String>,
    /// All of it; without, it is a request.
    pub stance: Option<Stance>,
}

/// What has been taken in.
#[derive(Clone, Debug)]
pub struct Received {
    /// Names the request.
    pub request_id: String,
    /// Whether the two are friends with that.
    pub are_friends: bool,
}

/// Takes in what a server's user wants; durable when this returns. The same again changes nothing.
///
/// # Errors
/// `M_FORBIDDEN` for users of other servers than the origin; `M_NOT_FOUND` for local users that there are not;
/// `M_INVALID_PARAM`; `Overloaded` when too many requests wait for the user.
pub async fn receive(hub: &Arc<Hub>, origin: &ServerName, asked: Asked) -> Outcome<Received> {
    let Asked {
        requester,
        target,
        message,
        stance,
    } = asked;
    if requester.server_name() != origin {
        return Err(DomainError::forbidden(format!("{requester} is no user of {origin}")));
    }
    if let Some(message) = &message {
        check_text("message", message)?;
    }
    target_view(hub, &target).await?;
    let known = hub.env().store.friend(target.as_str(), requester.as_str()).await?;
    let told = match stance {
        Some(stance) => checked(stance, message)?,
        // Such a server numbers nothing: while one request is pending another one is the same.
        None if known.as_ref().is_some_and(|half| half.their_wants) => {
            return Ok(received(&requester, &target, known.as_ref()));
        }
        None => {
            let now = hub.env().clock.now_ms();
            Stance {
                seq: now.max(known.map_or(0, |half| half.their_seq) + 1),
                wants: true,
                ts: now,
                message,
                ..Stance::default()
            }
        }
    };
    let wish = Wish::Hear(Box::new(told));
    let half = hub.sessions().befriend(&target, &requester, wish).await?;
    if half.due {
        settle_soon(hub, Pair::new(&target, &requester));
    }
    Ok(received(&requester, &target, Some(&half)))
}

/// A local user who is there.
async fn target_view(hub: &Hub, user: &UserId) -> Outcome<Arc<UserView>> {
    let view = match hub.env().is_local(user) {
        true => hub.sessions().view(user).await?,
        false => None,
    };
    view.filter(|view| !view.deactivated && !view.is_guest)
        .ok_or_else(|| DomainError::not_found("there is no such user"))
}

/// The stance without what nobody could show.
fn checked(stance: Stance, message: Option<String>) -> Outcome<Stance> {
    let numbers = [stance.seq, stance.answers, stance.voids, stance.ts];
    if stance.seq < 1 || numbers.iter().any(|number| !(0..=MAX_SEQ).contains(number)) {
        return Err(DomainError::invalid_param("a stance's numbers are integers above 0"));
    }
    let plain = |text: &String| !text.contains('\0');
    let avatar = |url: &String| url.len() <= MAX_AVATAR_URL && <&MxcUri>::from(url.as_str()).validate().is_ok();
    Ok(Stance {
        room_id: stance.room_id.filter(|id| RoomId::parse(id).is_ok()),
        message,
        display_name: stance
            .display_name
            .filter(plain)
            .map(|name| name.chars().take(MAX_NAME).collect()),
        avatar_url: stance.avatar_url.filter(avatar),
        ..stance
    })
}

fn received(requester: &UserId, target: &UserId, half: Option<&Model>) -> Received {
    Received {
        request_id: request_id(requester, target, half.map_or(0, |half| half.their_seq)),
        are_friends: half.is_some_and(|half| standing(half) == Standing::Friends),
    }
}

/// What the server of `target` calls a request.
fn request_id(requester: &UserId, target: &UserId, seq: i64) -> String {
    let digest = Sha256::digest(format!("{requester} {target} {seq}"));
    format!("req_{}", URL_SAFE_NO_PAD.encode(&digest[..12]))
}

/// One of another server's users accepts the request of a local one, which is named by its id as that server gave it, or by
/// the two (requester, target).
///
/// # Errors
/// `M_NOT_FOUND` where there is no such request; otherwise as [`receive`].
pub async fn accepted(
    hub: &Arc<Hub>,
    origin: &ServerName,
    id: &str,
    named: Option<(OwnedUserId, OwnedUserId)>,
) -> Outcome<Received> {
    let store = &hub.env().store;
    let asked = match named {
        Some((requester, target)) => {
            let half = store.friend(requester.as_str(), target.as_str()).await?;
            half.filter(|half| half.own_wants && half.since_ts == 0)
                .map(|_| (requester, target))
        }
        None => {
            let halves = store.friends_asked_at(origin.as_str()).await?;
            halves.into_iter().find_map(|half| {
                let (user, friend) = (UserId::parse(&half.user_id).ok()?, UserId::parse(&half.friend_id).ok()?);
                (request_id(&user, &friend, half.own_seq) == id).then_some((user, friend))
            })
        }
    };
    let asked = asked.filter(|(_, friend)| friend.server_name() == origin);
    let (target, requester) = asked.ok_or_else(|| DomainError::not_found("there is no such request"))?;
    let asked = Asked {
        requester,
        target,
        message: None,
        stance: None,
    };
    receive(hub, origin, asked).await
}

/// The friends of a local user among the users of the server that asks; those whom the user hides are not told of.
///
/// # Errors
/// `M_NOT_FOUND` for users that there are not.
pub async fn friends_of(hub: &Hub, origin: &ServerName, user: &UserId) -> Outcome<Vec<String>> {
    let view = target_view(hub, user).await?;
    let halves = hub.env().store.friends(user.as_str()).await?;
    let is_told = |half: &Model| {
        let of_origin = UserId::parse(&half.friend_id).is_ok_and(|friend| friend.server_name() == origin);
        let hidden = half.status == Status::Hidden.as_str() || status_of(&view, half) == Status::Hidden.as_str();
        of_origin && standing(half) == Standing::Friends && !hidden
    };
    Ok(halves.into_iter().filter(is_told).map(|half| half.friend_id).collect())
}

/// Since when a local user and one of the asking server's are friends, Unix milliseconds; `None` if they are not.
///
/// # Errors
/// `M_FORBIDDEN` when neither is a user of the server that asks; `M_NOT_FOUND` when neither is a local user.
pub async fn relationship(hub: &Hub, origin: &ServerName, user: &UserId, friend: &UserId) -> Outcome<Option<i64>> {
    let (own, other) = if hub.env().is_local(user) {
        (user, friend)
    } else {
        (friend, user)
    };
    if other.server_name() != origin {
        return Err(DomainError::forbidden(format!("neither is a user of {origin}")));
    }
    target_view(hub, own).await?;
    let half = hub.env().store.friend(own.as_str(), other.as_str()).await?;
    let friends = half.filter(|half| standing(half) == Standing::Friends);
    Ok(friends.map(|half| half.since_ts))
}
