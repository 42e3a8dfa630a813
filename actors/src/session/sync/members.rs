//! Lazily loaded members (client-server API, "Lazy-loading room members").

use std::collections::HashSet;
use std::sync::Arc;

use entities::ids::StateGroupId;
use ruma::UserId;

use super::Context;
use super::filter::Redundant;
use super::state::{Delta, Known};
use crate::error::Outcome;
use crate::room::event::StoredEvent;
use crate::room::snapshot::{RoomSnapshot, StateKey};

/// The member events, as of `group`, of those who speak in the timeline, of those the room is named after and, where the
/// client knows nothing of the room, of the user; without those among `have` and those the client has from before.
pub(super) async fn members(
    cx: &Context<'_>,
    delta: &Delta<'_>,
    group: StateGroupId,
    redundant: Redundant,
    have: &[Arc<StoredEvent>],
) -> Outcome<Vec<Arc<StoredEvent>>> {
    let (user, device) = (&cx.args.user, &cx.args.device);
    let mut wanted: HashSet<&UserId> = delta.slice.events.iter().map(|event| &*event.pdu.sender).collect();
    wanted.extend(delta.heroes.iter().map(|hero| &**hero));
    let since = match delta.known {
        Known::Nothing | Known::Outdated(_) => None,
        Known::Upto(since) => Some(since),
    };
    if since.is_none() {
        wanted.insert(user);
    }
    let there = have.iter().filter_map(|event| member_of(event)).collect::<HashSet<_>>();
    let told: Vec<&UserId> = wanted.iter().chain(&there).copied().collect();
    let known = cx.env.lazy.note(user, device, delta.room.nid, (since, cx.upto), &told);
    wanted.retain(|member| !there.contains(*member) && (redundant.0 || !known.contains(*member)));
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut wanted: Vec<&UserId> = wanted.into_iter().collect();
    wanted.sort_unstable();
    at(cx, delta.room, group, &wanted).await
}

/// The member events of some users as of a state group.
async fn at(
    cx: &Context<'_>,
    room: &RoomSnapshot,
    group: StateGroupId,
    users: &[&UserId],
) -> Outcome<Vec<Arc<StoredEvent>>> {
    if group == room.state_group {
        let now = users
            .iter()
            .filter_map(|user| room.state_event("m.room.member", user.as_str()));
        return Ok(now.cloned().collect());
    }
    let kind = Arc::<str>::from("m.room.member");
    let keys: Vec<StateKey> = users
        .iter()
        .map(|user| (kind.clone(), Arc::from(user.as_str())))
        .collect();
    Ok(cx
        .env
        .rooms
        .state_events_at(group, &keys)
        .await?
        .into_iter()
        .flatten()
        .collect())
}

fn member_of(event: &StoredEvent) -> Option<&UserId> {
    let is_member = event.pdu.kind == ruma::events::TimelineEventType::RoomMember;
    <&UserId>::try_from(event.pdu.state_key.as_deref().filter(|_| is_member)?).ok()
}
