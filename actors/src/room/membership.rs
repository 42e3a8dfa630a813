//! Changes of membership that local users ask for, as drafts. Pure.
//!
//! The authorization rules decide at last; what is checked here is what the endpoints promise beyond them, so that a
//! kick is no unban and a refusal says why. Spec: client-server API, "Room membership".

use std::collections::BTreeSet;

use ruma::events::room::power_levels::UserPowerLevel;
use ruma::{OwnedRoomId, OwnedUserId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::auth::Power;
use super::commands::Draft;
use super::snapshot::RoomSnapshot;
use crate::error::{DomainError, Outcome};

/// What a member event says about its user besides the membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// `displayname`
    pub displayname: Option<String>,
    /// `avatar_url`
    pub avatar_url: Option<String>,
}

/// What a local user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// To join. `allowed`: the user is in a room that the join rules name ([`allowing_rooms`]).
    Join {
        /// See above.
        allowed: bool,
    },
    /// To ask to be let in.
    Knock,
    /// To leave, to reject an invite or to take a knock back.
    Leave,
    /// To invite somebody.
    Invite {
        /// Into a conversation of two.
        is_direct: bool,
    },
    /// To remove somebody.
    Kick,
    /// To ban somebody.
    Ban,
    /// To lift somebody's ban.
    Unban,
}

/// A request to change a membership.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// The local user who asks.
    pub sender: &'a UserId,
    /// Whose membership changes; the sender for joins, knocks and leaves.
    pub target: &'a UserId,
    /// What is wanted.
    pub action: Action,
    /// `reason`
    pub reason: Option<&'a str>,
    /// The target's, where it is known; used by joins, knocks and invites.
    pub profile: &'a Profile,
}

/// The draft that does what is asked; `None` when the room is as wanted already.
///
/// # Errors
/// `M_FORBIDDEN` with the reason.
pub fn draft(room: &RoomSnapshot, ask: &Ask<'_>, server: &ServerName) -> Outcome<Option<Draft>> {
    let standing = standing(room, ask.target);
    let membership = match &ask.action {
        Action::Join { .. } if standing == Some("join") => return Ok(None),
        Action::Leave if standing == Some("leave") => return Ok(None),
        action => check(room, ask, action, standing)?,
    };
    let mut content = Map::from_iter([("membership".to_owned(), Value::from(membership))]);
    if let Some(reason) = ask.reason {
        content.insert("reason".to_owned(), reason.into());
    }
    if matches!(membership, "join" | "knock" | "invite") {
        add_profile(&mut content, ask.profile);
    }
    match ask.action {
        Action::Invite { is_direct: true } => drop(content.insert("is_direct".to_owned(), true.into())),
        Action::Join { allowed } => {
            if let Some(by) = join_authorizer(room, ask.sender, standing, allowed, server)? {
                content.insert("join_authorised_via_users_server".to_owned(), by.to_string().into());
            }
        }
        _ => {}
    }
    Ok(Some(member(ask.sender, ask.target, content)))
}

/// The membership that the action leads to, if it may be tried.
fn check(room: &RoomSnapshot, ask: &Ask<'_>, action: &Action, standing: Option<&str>) -> Outcome<&'static str> {
    let no = |reason: &str| Err(DomainError::forbidden(reason));
    let own = ask.sender == ask.target;
    match action {
        Action::Join { .. } | Action::Knock if standing == Some("ban") => no("you are banned from this room"),
        Action::Join { .. } => Ok("join"),
        Action::Knock if !room.rules.authorization.knocking => no("this room's version has no knocking"),
        Action::Knock if standing == Some("join") => no("you are in this room already"),
        Action::Knock if standing == Some("invite") => no("you are invited to this room already"),
        Action::Knock => Ok("knock"),
        Action::Leave if matches!(standing, None | Some("ban")) => no("you are not in this room"),
        Action::Leave => Ok("leave"),
        _ if !room.is_joined(ask.sender) => no("you are not in this room"),
        Action::Invite { .. } => match standing {
            Some("join") => no("the user is in this room already"),
            Some("ban") => no("the user is banned from this room"),
            _ => Ok("invite"),
        },
        Action::Kick => match standing {
            Some("join" | "invite" | "knock") => Ok("leave"),
            Some("ban") => no("the user is banned; lift the ban instead"),
            _ => no("the user is not in this room"),
        },
        Action::Ban if own => no("you cannot ban yourself"),
        Action::Ban => Ok("ban"),
        Action::Unban if standing == Some("ban") => Ok("leave"),
        Action::Unban => no("the user is not banned"),
    }
}

/// The target's membership; `None` where there never was one.
fn standing(room: &RoomSnapshot, user: &UserId) -> Option<&'static str> {
    let membership = room.state_event("m.room.member", user.as_str())?.pdu.membership()?;
    ["join", "invite", "knock", "ban"]
        .into_iter()
        .find(|known| *known == membership)
        .or(Some("leave"))
}

fn add_profile(content: &mut Map<String, Value>, profile: &Profile) {
    for (name, value) in [
        ("displayname", &profile.displayname),
        ("avatar_url", &profile.avatar_url),
    ] {
        if let Some(value) = value {
            content.insert(name.to_owned(), value.clone().into());
        }
    }
}

fn member(sender: &UserId, target: &UserId, content: Map<String, Value>) -> Draft {
    let raw = serde_json::value::to_raw_value(&content).expect("a map of JSON values serializes");
    Draft::state(sender.to_owned(), "m.room.member", target.as_str(), raw)
}

/// The join that shows a joined user's new profile; `None` when the room shows it already or the user is not in it.
#[must_use]
pub fn profile_change(room: &RoomSnapshot, user: &UserId, profile: &Profile) -> Option<Draft> {
    let standing = room.state_event("m.room.member", user.as_str())?;
    let mut content: Map<String, Value> = standing.pdu.content_as().ok()?;
    if content.get("membership").and_then(Value::as_str) != Some("join") {
        return None;
    }
    let before = content.clone();
    for gone in [
        "displayname",
        "avatar_url",
        "reason",
        "join_authorised_via_users_server",
    ] {
        content.remove(gone);
    }
    add_profile(&mut content, profile);
    let same = ["displayname", "avatar_url"]
        .iter()
        .all(|name| before.get(*name) == content.get(*name));
    (!same).then(|| member(user, user, content))
}

/// Refuses to forget a room that the user is in.
///
/// # Errors
/// `M_UNKNOWN` (400), as the endpoint has it.
pub fn check_forget(room: &RoomSnapshot, user: &UserId) -> Outcome<()> {
    match standing(room, user) {
        Some("leave" | "ban") => Ok(()),
        Some(_) => Err(DomainError::unknown("leave the room before you forget it")),
        None => Err(DomainError::unknown("you never were in this room")),
    }
}

#[derive(Deserialize)]
struct JoinRules {
    join_rule: Option<String>,
    #[serde(default)]
    allow: Vec<Allow>,
}

#[derive(Deserialize)]
struct Allow {
    r#type: Option<String>,
    room_id: Option<OwnedRoomId>,
}

/// The room's join rule, `invite` where it has none.
#[must_use]
pub fn join_rule(room: &RoomSnapshot) -> String {
    rules(room)
        .and_then(|rules| rules.join_rule)
        .unwrap_or_else(|| "invite".to_owned())
}

fn rules(room: &RoomSnapshot) -> Option<JoinRules> {
    room.state_event("m.room.join_rules", "")?.pdu.content_as().ok()
}

/// The rooms whose members may join, where the join rule is `restricted` or `knock_restricted` and the version knows it.
#[must_use]
pub fn allowing_rooms(room: &RoomSnapshot) -> Option<BTreeSet<OwnedRoomId>> {
    let rules = rules(room)?;
    let flags = &room.rules.authorization;
    let restricted = match rules.join_rule.as_deref() {
        Some("restricted") => flags.restricted_join_rule,
        Some("knock_restricted") => flags.knock_restricted_join_rule,
        _ => false,
    };
    let is_room = |allow: &Allow| allow.r#type.as_deref() == Some("m.room_membership");
    restricted.then(|| {
        rules
            .allow
            .into_iter()
            .filter(is_room)
            .filter_map(|allow| allow.room_id)
            .collect()
    })
}

/// Whether somebody who is in one of the [`allowing_rooms`] can only be let in by another server: the rules ask for a user
/// who may invite, and this server has none.
#[must_use]
pub fn needs_other_server(room: &RoomSnapshot, user: &UserId, server: &ServerName) -> bool {
    let enters = !matches!(standing(room, user), Some("join" | "invite" | "ban"));
    enters && allowing_rooms(room).is_some() && authorizer(room, server).is_none()
}

/// The user of this server in whose name a restricted join is authorized, where it needs to be.
fn join_authorizer(
    room: &RoomSnapshot,
    user: &UserId,
    standing: Option<&str>,
    allowed: bool,
    server: &ServerName,
) -> Outcome<Option<OwnedUserId>> {
    if allowing_rooms(room).is_none() || matches!(standing, Some("join" | "invite")) {
        return Ok(None);
    }
    if !allowed {
        return Err(DomainError::forbidden(
            "you are in none of the rooms whose members may join",
        ));
    }
    authorizer(room, server).map(Some).ok_or_else(|| {
        let name = user.server_name();
        DomainError::forbidden(format!(
            "nobody on {server} may invite, so a user of {name} cannot be let in"
        ))
    })
}

/// The most powerful joined user of this server who may invite.
#[must_use]
pub fn authorizer(room: &RoomSnapshot, server: &ServerName) -> Option<OwnedUserId> {
    let state = |kind: &str, key: &str| room.state_event(kind, key).map(|event| event.pdu.clone());
    let power = Power::of(&room.rules, state).ok()?;
    let able = room
        .local_joined
        .iter()
        .filter(|user| user.server_name() == server && power.may_invite(user));
    let level = |user: &OwnedUserId| match power.user(user) {
        UserPowerLevel::Int(level) => i64::from(level),
        _ => i64::MAX,
    };
    able.max_by_key(|user| level(user)).cloned()
}
