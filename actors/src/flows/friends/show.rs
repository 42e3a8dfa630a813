//! Friends and requests as their user sees them.

use entities::friend::Model;
use ruma::UserId;
use serde::Deserialize;

use super::room;
use crate::clock::Millis;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::presence;
use crate::session::friends::half::{Standing, standing};
use crate::session::friends::{is_shown, status_of};
use crate::session::kind::unknown_user;

/// Somebody, as others see them.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Face {
    /// The display name.
    #[serde(rename = "displayname")]
    pub display_name: Option<String>,
    /// The picture's `mxc://` address.
    pub avatar_url: Option<String>,
}

/// A friend.
#[derive(Clone, Debug)]
pub struct Friend {
    /// Who.
    pub user_id: String,
    /// How they look.
    pub face: Face,
    /// Since when, Unix milliseconds.
    pub since: Millis,
    /// `online`, `unavailable` or `offline`.
    pub presence: &'static str,
    /// `normal`, `favorite`, `hidden` or `blocked`.
    pub status: &'static str,
    /// What the user has noted.
    pub note: String,
    /// Where the two talk.
    pub room_id: Option<String>,
}

/// A pending request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The other.
    pub user_id: String,
    /// How they look.
    pub face: Face,
    /// What it says.
    pub message: Option<String>,
    /// When it was made.
    pub timestamp: Millis,
    /// The room that waits.
    pub room_id: Option<String>,
}

/// All friends, by name.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn friends(hub: &Hub, user: &UserId) -> Outcome<Vec<Friend>> {
    let mut found = Vec::new();
    for half in hub.env().store.friends(user.as_str()).await? {
        if standing(&half) == Standing::Friends {
            found.push(friend_of(hub, user, half).await?);
        }
    }
    Ok(found)
}

/// One friend.
///
/// # Errors
/// `M_NOT_FOUND` for others.
pub async fn friend(hub: &Hub, user: &UserId, friend: &UserId) -> Outcome<Friend> {
    let half = hub.env().store.friend(user.as_str(), friend.as_str()).await?;
    match half.filter(|half| standing(half) == Standing::Friends) {
        Some(half) => friend_of(hub, user, half).await,
        None => Err(DomainError::not_found("you are not friends")),
    }
}

/// The pending requests to or of the user, by the other's name.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn requests(hub: &Hub, user: &UserId, wanted: Standing) -> Outcome<Vec<Request>> {
    let view = hub.sessions().view(user).await?.ok_or_else(unknown_user)?;
    let mut found = Vec::new();
    for half in hub.env().store.friends(user.as_str()).await? {
        let incoming = wanted == Standing::Incoming;
        if standing(&half) != wanted || incoming && !is_shown(&view, &half) {
            continue;
        }
        let face = face_of(hub, &half).await?;
        let (message, timestamp) = match incoming {
            true => (half.their_message, half.their_ts),
            false => (half.own_message, half.own_ts),
        };
        found.push(Request {
            user_id: half.friend_id,
            face,
            message,
            timestamp,
            room_id: half.room_id,
        });
    }
    Ok(found)
}

async fn friend_of(hub: &Hub, user: &UserId, half: Model) -> Outcome<Friend> {
    let view = hub.sessions().view(user).await?.ok_or_else(unknown_user)?;
    let presence = match UserId::parse(&half.friend_id) {
        Ok(friend) => presence::status(hub.env(), &friend).await?,
        Err(_) => None,
    };
    Ok(Friend {
        face: face_of(hub, &half).await?,
        since: half.since_ts,
        presence: presence.map_or("offline", |presence| presence.state),
        status: status_of(&view, &half),
        user_id: half.friend_id,
        note: half.note,
        room_id: half.room_id,
    })
}

/// A local user's profile; another server's user is shown as in the common room, or as their server said last.
async fn face_of(hub: &Hub, half: &Model) -> Outcome<Face> {
    if let Ok(friend) = UserId::parse(&half.friend_id)
        && let Some(view) = hub.sessions().view(&friend).await?
    {
        return Ok(Face {
            display_name: view.displayname(),
            avatar_url: view.avatar_url(),
        });
    }
    if let Some(room) = room::of(hub, half).await?
        && let Some(member) = room.state_event("m.room.member", &half.friend_id)
        && member.pdu.has_membership("join")
        && let Ok(face) = member.pdu.content_as::<Face>()
    {
        return Ok(face);
    }
    Ok(Face {
        display_name: half.their_name.clone(),
        avatar_url: half.their_avatar.clone(),
    })
}
