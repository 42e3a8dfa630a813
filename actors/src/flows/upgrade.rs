//! `POST /rooms/{roomId}/upgrade`: a replacement room with the old one's state, then the old one's tombstone.
//!
//! These are several commits. Before the first one the upgrade is noted with the new room's id; the note goes with the last
//! one. Every step looks whether it has been done, so a start, or whoever asks for the same upgrade again, finishes what was
//! interrupted. A note whose room was never made is dropped.

use std::sync::Arc;

use entities::room_upgrade;
use ruma::api::client::room::create_room::v3::Request;
use ruma::room_version_rules::RoomVersionRules;
use ruma::serde::Raw;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::profiles;
use crate::error::{DomainError, Outcome};
use crate::failpoint::{UPGRADE_ANNOUNCED, UPGRADE_CREATED, UPGRADE_MOVED};
use crate::hub::Hub;
use crate::room::auth::Power;
use crate::room::commands::{Append, Draft};
use crate::room::commit::origin;
use crate::room::create::{self, NewRoom, Options};
use crate::room::rules;
use crate::room::snapshot::RoomSnapshot;

/// State that the new room takes over as it is (client-server API, "Room upgrades").
const TRANSFERRED: [&str; 8] = [
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
];
/// Bans that are taken over at most.
const MAX_BANS: usize = 300;

type Object = Map<String, Value>;

/// Replaces a room by one of another version. Answers the new room's id; that of the room which the same user has replaced it
/// by already, if that has the same version.
///
/// # Errors
/// `M_UNSUPPORTED_ROOM_VERSION`; `M_FORBIDDEN` when the user may not send the tombstone.
pub async fn upgrade(
    hub: &Hub,
    user: &UserId,
    room_id: &RoomId,
    version: &RoomVersionId,
    additional_creators: &[OwnedUserId],
) -> Outcome<OwnedRoomId> {
    let env = hub.env();
    let unsupported = || DomainError::unsupported_room_version(format!("room version {version} is not supported"));
    let new_rules = rules::rules_for(version).ok_or_else(unsupported)?;
    let _turn = env.upgrading.take(room_id.as_str()).await;
    let old = hub.rooms().joined(room_id, user).await?;
    let state = |kind: &str, key: &str| old.state_event(kind, key).map(|event| event.pdu.clone());
    let power = Power::of(&old.rules, state).map_err(DomainError::internal)?;
    if !power.may_send(user, "m.room.tombstone", true) {
        return Err(DomainError::forbidden(
            "your power level does not suffice to upgrade this room",
        ));
    }
    if let Some(made) = made_before(hub, &old, user, version).await? {
        return Ok(made);
    }
    let mut request = Request::new();
    request.room_version = Some(version.clone());
    request.creation_content = Some(raw(&creation(&old, &new_rules, additional_creators)));
    let creator = user.to_owned();
    let mut new = create::build(&Options {
        request: &request,
        creator: &creator,
        profiles: &profiles(env, std::slice::from_ref(&creator)).await?,
        default_version: version,
        now: env.creation_ms(),
        origin: &origin(env),
    })?;
    let levels = Levels::of(&old, &power, &new_rules, &creator, additional_creators);
    furnish(&mut new, &old, &creator, &levels);
    let note = room_upgrade::Model {
        old_room_id: room_id.to_string(),
        new_room_id: new.room_id.to_string(),
        user_id: user.to_string(),
    };
    env.store.begin_room_upgrade(&note).await?;
    let new_id = match super::create_room::commit(hub, new).await {
        Err(refused @ DomainError::Matrix { .. }) => {
            env.store.end_room_upgrade(room_id.as_str()).await?;
            return Err(refused);
        }
        outcome => outcome?,
    };
    env.failpoints.pass(UPGRADE_CREATED);
    finish(hub, &note).await?;
    Ok(new_id)
}

/// Goes on with what the last stop interrupted, in the background.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn resume(hub: &Arc<Hub>) -> Outcome<()> {
    let noted = hub.env().store.room_upgrades().await?;
    if noted.is_empty() {
        return Ok(());
    }
    let weak = Arc::downgrade(hub);
    hub.env().io.spawn(async move {
        for upgrade in noted {
            let Some(hub) = weak.upgrade() else { return };
            let Ok(old) = RoomId::parse(&upgrade.old_room_id) else {
                continue;
            };
            let _turn = hub.env().upgrading.take(old.as_str()).await;
            // Somebody who asked again may have been quicker.
            let open = hub.env().store.room_upgrade(old.as_str()).await;
            let finished = match open {
                Ok(Some(open)) => finish(&hub, &open).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = finished {
                tracing::warn!(%error, room_id = %old, "the upgrade of a room stays unfinished");
            }
        }
    });
    Ok(())
}

/// The room that this user has replaced `old` by, if it has this version. What is left to be done of that is done first.
async fn made_before(
    hub: &Hub,
    old: &RoomSnapshot,
    user: &UserId,
    version: &RoomVersionId,
) -> Outcome<Option<OwnedRoomId>> {
    if let Some(note) = hub.env().store.room_upgrade(old.room_id.as_str()).await? {
        match finish(hub, &note).await {
            // What was begun cannot be finished any more: it begins anew.
            Ok(()) | Err(DomainError::Matrix { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let Some(new_id) = replacement(&*hub.rooms().existing(&old.room_id).await?) else {
        return Ok(None);
    };
    let Some(new) = hub.rooms().view(&new_id).await? else {
        return Ok(None);
    };
    let made = new.state_event("m.room.create", "").is_some_and(|create| {
        let content: Object = create.pdu.content_as().unwrap_or_default();
        create.pdu.sender == *user
            && content.get("room_version").and_then(Value::as_str) == Some(version.as_str())
            && content.get("predecessor").map(|before| &before["room_id"]) == Some(&old.room_id.as_str().into())
    });
    Ok(made.then_some(new_id))
}

/// The room that the tombstone points to.
fn replacement(old: &RoomSnapshot) -> Option<OwnedRoomId> {
    let tombstone = content(old, "m.room.tombstone")?;
    RoomId::parse(tombstone.get("replacement_room")?.as_str()?).ok()
}

/// Does what is left to be done of an upgrade.
///
/// # Errors
/// A refusal of the old room ends the upgrade; after any other error it can be finished later.
async fn finish(hub: &Hub, upgrade: &room_upgrade::Model) -> Outcome<()> {
    let env = hub.env();
    let parsed = (
        RoomId::parse(&upgrade.old_room_id),
        RoomId::parse(&upgrade.new_room_id),
        UserId::parse(&upgrade.user_id),
    );
    let outcome = match parsed {
        (Ok(old), Ok(new), Ok(user)) if hub.rooms().view(&new).await?.is_some() => {
            let old = hub.rooms().existing(&old).await?;
            retire(hub, &old, &user, &new).await
        }
        // The server died before there was a new room.
        _ => Ok(()),
    };
    if matches!(outcome, Ok(()) | Err(DomainError::Matrix { .. })) {
        env.store.end_room_upgrade(&upgrade.old_room_id).await?;
    }
    outcome
}

/// `creation_content` of the new room.
fn creation(old: &RoomSnapshot, rules: &RoomVersionRules, additional_creators: &[OwnedUserId]) -> Value {
    let before: Object = content(old, "m.room.create").unwrap_or_default();
    let last = old.timeline.last().map(|event| event.pdu.event_id.clone());
    let mut predecessor = json!({ "room_id": old.room_id });
    if let Some(last) = last {
        predecessor["event_id"] = last.to_string().into();
    }
    let mut creation = json!({ "predecessor": predecessor });
    for kept in ["type", "m.federate"] {
        if let Some(value) = before.get(kept) {
            creation[kept] = value.clone();
        }
    }
    if rules.authorization.additional_room_creators && !additional_creators.is_empty() {
        creation["additional_creators"] = json!(additional_creators);
    }
    creation
}

/// The power levels with which the new room begins and those it ends up with.
struct Levels {
    first: Value,
    last: Option<Value>,
}

impl Levels {
    fn of(
        old: &RoomSnapshot,
        power: &Power,
        rules: &RoomVersionRules,
        creator: &UserId,
        additional_creators: &[OwnedUserId],
    ) -> Self {
        let mut last: Object = content(old, "m.room.power_levels").unwrap_or_default();
        let top = last.values().map(highest).max().unwrap_or(0).max(100);
        let mut users = member_object(&mut last, "users");
        if rules.authorization.explicitly_privilege_room_creators {
            users.remove(creator.as_str());
            additional_creators
                .iter()
                .for_each(|creator| drop(users.remove(creator.as_str())));
            let mut events = member_object(&mut last, "events");
            let state_default = level(last.get("state_default"), 50);
            if level(events.get("m.room.tombstone"), 0) <= state_default {
                events.insert("m.room.tombstone".to_owned(), (state_default + 1).max(150).into());
            }
            last.insert("events".to_owned(), events.into());
            last.insert("users".to_owned(), users.into());
            return Self {
                first: last.into(),
                last: None,
            };
        }
        if old.rules.authorization.explicitly_privilege_room_creators {
            // Those who stood above all numbers get the highest one.
            power
                .creators()
                .iter()
                .for_each(|creator| drop(users.insert(creator.to_string(), top.into())));
        }
        // Whoever sets the levels needs the highest of them until everything is in place.
        let mut first = last.clone();
        let mut first_users = users.clone();
        first_users.insert(creator.to_string(), top.into());
        first.insert("users".to_owned(), first_users.into());
        last.insert("users".to_owned(), users.into());
        let changed = first != last;
        Self {
            first: first.into(),
            last: changed.then(|| last.into()),
        }
    }
}

/// Takes a member that should be an object; an empty one where it is not.
fn member_object(levels: &mut Object, name: &str) -> Object {
    match levels.remove(name) {
        Some(Value::Object(members)) => members,
        _ => Object::new(),
    }
}

fn level(value: Option<&Value>, default: i64) -> i64 {
    value.and_then(Value::as_i64).unwrap_or(default)
}

/// The highest number anywhere in the power levels.
fn highest(value: &Value) -> i64 {
    match value {
        Value::Object(members) => members.values().map(highest).max().unwrap_or(0),
        other => level(Some(other), 0),
    }
}

/// Replaces the default events of a new room by the old room's.
fn furnish(new: &mut NewRoom, old: &Arc<RoomSnapshot>, creator: &OwnedUserId, levels: &Levels) {
    let state = |kind: &str, key: &str, content: Box<RawValue>| Draft::state(creator.clone(), kind, key, content);
    let mut drafts = vec![
        new.create.drafts.remove(0),
        state("m.room.power_levels", "", boxed(&levels.first)),
    ];
    for kind in TRANSFERRED {
        if let Some(event) = old.state_event(kind, "") {
            drafts.push(state(kind, "", event.pdu.content.clone()));
        }
    }
    let banned = old
        .state_of_kind("m.room.member")
        .filter(|e| e.pdu.membership().as_deref() == Some("ban"));
    for event in banned.take(MAX_BANS) {
        if let Some(user) = event.pdu.state_key.as_deref() {
            drafts.push(state("m.room.member", user, event.pdu.content.clone()));
        }
    }
    if let Some(last) = &levels.last {
        drafts.push(state("m.room.power_levels", "", boxed(last)));
    }
    new.create.drafts = drafts;
}

/// Moves the aliases, sends the tombstone and keeps people from talking in the old room.
async fn retire(hub: &Hub, old: &RoomSnapshot, user: &UserId, new_id: &RoomId) -> Outcome<()> {
    let env = hub.env();
    let body = json!({ "body": "This room has been replaced", "replacement_room": new_id });
    if replacement(old).as_deref() != Some(new_id) {
        let tombstone = Draft::state(user.to_owned(), "m.room.tombstone", "", boxed(&body));
        let drafts = vec![tombstone];
        hub.rooms().append(&old.room_id, Append { drafts }).await?;
    }
    env.failpoints.pass(UPGRADE_ANNOUNCED);
    move_names(hub, old, user, new_id).await?;
    silence(hub, old, user).await;
    env.failpoints.pass(UPGRADE_MOVED);
    if env.store.is_published(old.room_id.as_str()).await? {
        env.store.set_published(new_id.as_str(), true).await?;
        env.store.set_published(old.room_id.as_str(), false).await?;
    }
    Ok(())
}

/// Raises what is needed to talk and to invite above what everybody has.
async fn silence(hub: &Hub, old: &RoomSnapshot, user: &UserId) {
    let standing: Object = content(old, "m.room.power_levels").unwrap_or_default();
    let mut levels = standing.clone();
    let quiet = (level(levels.get("users_default"), 0) + 1).max(50);
    for name in ["events_default", "invite"] {
        let standing = level(levels.get(name), 0);
        levels.insert(name.to_owned(), standing.max(quiet).into());
    }
    if levels == standing {
        return;
    }
    let levels = boxed(&Value::Object(levels));
    let levels = Draft::state(user.to_owned(), "m.room.power_levels", "", levels);
    if let Err(error) = hub.rooms().send(&old.room_id, levels).await {
        // "If possible", says the specification.
        tracing::info!(%error, room_id = %old.room_id, "the power levels of an upgraded room were not changed");
    }
}

/// Local aliases move, and with them the canonical alias.
async fn move_names(hub: &Hub, old: &RoomSnapshot, user: &UserId, new_id: &RoomId) -> Outcome<()> {
    let env = hub.env();
    env.store.move_aliases(old.room_id.as_str(), new_id.as_str()).await?;
    let Some(names) = content(old, "m.room.canonical_alias").filter(|names| !names.is_empty()) else {
        return Ok(());
    };
    let draft = |content: &Value| Draft::state(user.to_owned(), "m.room.canonical_alias", "", boxed(content));
    let nameless = draft(&json!({}));
    let has_them = content(&*hub.rooms().existing(new_id).await?, "m.room.canonical_alias").as_ref() == Some(&names);
    let named = (!has_them).then(|| draft(&Value::Object(names)));
    // The old room last: it is where they are known from until then.
    for (room_id, draft) in named
        .map(|draft| (new_id, draft))
        .into_iter()
        .chain([(&*old.room_id, nameless)])
    {
        if let Err(error) = hub.rooms().send(room_id, draft).await {
            tracing::info!(%error, %room_id, "the canonical alias of an upgraded room did not move");
        }
    }
    Ok(())
}

fn content(room: &RoomSnapshot, kind: &str) -> Option<Object> {
    room.state_event(kind, "")?.pdu.content_as().ok()
}

fn boxed(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("a JSON value serializes")
}

fn raw<T>(value: &Value) -> Raw<T> {
    Raw::from_json(boxed(value))
}
