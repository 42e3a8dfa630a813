//! Power in rooms that administrators are not in: a local user who has it gives it away, or invites.

use std::sync::Arc;

use ruma::events::room::power_levels::UserPowerLevel;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomOrAliasId, UserId};
use serde_json::{Map, Value};

use crate::error::{DomainError, Outcome};
use crate::flows::membership::{Change, change, join};
use crate::hub::Hub;
use crate::room::auth::Power;
use crate::room::commands::Draft;
use crate::room::membership::{Action, join_rule};
use crate::room::snapshot::RoomSnapshot;

/// The level that creators of rooms stand above.
const HIGHEST: i64 = 100;

fn power_of(room: &RoomSnapshot) -> Outcome<Power> {
    let state = |kind: &str, key: &str| room.state_event(kind, key).map(|event| event.pdu.clone());
    Power::of(&room.rules, state).map_err(DomainError::internal)
}

fn level(power: &Power, user: &UserId) -> i64 {
    match power.user(user) {
        UserPowerLevel::Int(level) => level.into(),
        _ => i64::MAX,
    }
}

/// The joined local user with the most power who satisfies `able`.
fn strongest(room: &RoomSnapshot, power: &Power, able: impl Fn(&UserId) -> bool) -> Option<OwnedUserId> {
    let users = room.local_joined.iter().filter(|user| able(user));
    users.max_by_key(|user| level(power, user)).cloned()
}

/// Gives a user as much power in a room as the strongest local member has, and invites it where it is not in the room.
///
/// # Errors
/// `M_NOT_FOUND` for unknown rooms; `M_FORBIDDEN` when no local user can give power away.
pub async fn make_room_admin(hub: &Arc<Hub>, room_id: &RoomId, user: &UserId) -> Outcome<()> {
    let room = hub.rooms().existing(room_id).await?;
    let power = power_of(&room)?;
    let may = |giver: &UserId| power.may_send(giver, "m.room.power_levels", true);
    let giver = strongest(&room, &power, may)
        .ok_or_else(|| DomainError::forbidden("no user of this server may change power levels in this room"))?;
    if level(&power, user) < level(&power, &giver) {
        let given = level(&power, &giver).min(HIGHEST.max(needed(&power)));
        let draft = with_level(&room, &giver, user, given)?;
        hub.rooms().send(room_id, draft).await?;
    }
    let membership = room.membership(user);
    if matches!(membership.as_str(), "join" | "invite") || join_rule(&room) == "public" {
        return Ok(());
    }
    let inviting = Change {
        room_id,
        sender: &giver,
        target: user,
        reason: None,
    };
    change(hub, &inviting, Action::Invite { is_direct: false }).await
}

/// What changing the power levels takes.
fn needed(power: &Power) -> i64 {
    power.to_send("m.room.power_levels", true).into()
}

fn with_level(room: &RoomSnapshot, giver: &UserId, user: &UserId, level: i64) -> Outcome<Draft> {
    let event = room.state_event("m.room.power_levels", "");
    let mut content: Map<String, Value> = match event {
        Some(event) => event.pdu.content_as().unwrap_or_default(),
        None => Map::new(),
    };
    let users = content.entry("users").or_insert_with(|| Map::new().into());
    if let Some(users) = users.as_object_mut() {
        if event.is_none() && !room.rules.authorization.explicitly_privilege_room_creators {
            // Without the event its sender has the power; with it, it must be named.
            users.insert(giver.to_string(), HIGHEST.into());
        }
        users.insert(user.to_string(), level.into());
    }
    let raw = serde_json::value::to_raw_value(&content)
        .map_err(|e| DomainError::internal(format!("power levels do not serialise: {e}")))?;
    Ok(Draft::state(giver.to_owned(), "m.room.power_levels", "", raw))
}

/// Joins a local user to a room; where that needs an invite, the strongest local member who may gives one.
///
/// # Errors
/// As [`join`].
pub async fn join_user(
    hub: &Arc<Hub>,
    user: &UserId,
    target: &RoomOrAliasId,
    via: &[OwnedServerName],
) -> Outcome<OwnedRoomId> {
    let refused = match join(hub, user, target, via, None).await {
        Err(error) if error.errcode() == Some("M_FORBIDDEN") => error,
        ended => return ended,
    };
    let room_id = match RoomId::parse(target.as_str()) {
        Ok(room_id) => room_id,
        Err(_) => match <&ruma::RoomAliasId>::try_from(target) {
            Ok(alias) => crate::flows::membership::resolve_alias(hub, alias).await?,
            Err(_) => return Err(refused),
        },
    };
    let Some(room) = hub.rooms().view(&room_id).await? else {
        return Err(refused);
    };
    let power = power_of(&room)?;
    let Some(inviter) = strongest(&room, &power, |user| power.may_invite(user)) else {
        return Err(refused);
    };
    let inviting = Change {
        room_id: &room_id,
        sender: &inviter,
        target: user,
        reason: None,
    };
    change(hub, &inviting, Action::Invite { is_direct: false }).await?;
    join(hub, user, target, via, None).await
}
