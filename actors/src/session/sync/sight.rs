//! Who came into sight of the user and who went out of it: by rooms that are shared, or no longer are.

use std::collections::HashSet;
use std::sync::Arc;

use super::look::{Candidate, Look};
use super::{Context, tail_covers};
use crate::error::Outcome;
use crate::room::event::StoredEvent;
use crate::room::snapshot::RoomSnapshot;
use crate::room::visibility::membership_before;

/// Users whose rooms in common with the user became more or fewer.
#[derive(Debug, Default)]
pub struct Moved {
    /// They share a room that they did not share before.
    pub arrived: HashSet<String>,
    /// They no longer share a room.
    pub gone: HashSet<String>,
}

impl Moved {
    /// Whether nobody did.
    pub fn is_empty(&self) -> bool {
        self.arrived.is_empty() && self.gone.is_empty()
    }
}

/// Who joined or left rooms of the user since the last sync; where the user itself did, everybody there.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn moved(cx: &Context<'_>, look: &Look) -> Outcome<Moved> {
    let mut moved = Moved::default();
    let own = cx.args.user.as_str();
    for room in &look.joined {
        if room.is_new() {
            moved.arrived.extend(joined_users(&room.snapshot));
        }
        if room.stay.before && room.change.event {
            for event in member_changes(cx, room).await? {
                note(cx, &room.snapshot, &event, &mut moved).await?;
            }
        }
    }
    for room in look.departed.iter().filter(|room| room.stay.ever) {
        moved.gone.extend(joined_users(&room.snapshot));
        for event in member_changes(cx, room).await? {
            moved.gone.extend(event.pdu.state_key.as_deref().map(str::to_owned));
        }
    }
    moved.arrived.remove(own);
    moved.gone.remove(own);
    Ok(moved)
}

/// Changes of the profile move nobody.
async fn note(cx: &Context<'_>, room: &RoomSnapshot, event: &StoredEvent, moved: &mut Moved) -> Outcome<()> {
    let Some(user) = event.pdu.state_key.as_deref() else {
        return Ok(());
    };
    let was = membership_before(&cx.env.rooms, event).await?.as_deref() == Some("join");
    if was == event.pdu.has_membership("join") {
        return Ok(());
    }
    let newest = room.state_event("m.room.member", user);
    if newest.is_some_and(|event| event.pdu.has_membership("join")) {
        moved.arrived.insert(user.to_owned());
    } else {
        moved.gone.insert(user.to_owned());
    }
    Ok(())
}

fn joined_users(room: &RoomSnapshot) -> impl Iterator<Item = String> {
    let members = room.state_of_kind("m.room.member");
    let joined = members.filter(|event| event.pdu.has_membership("join"));
    joined.filter_map(|event| event.pdu.state_key.as_deref().map(str::to_owned))
}

/// The room's member events since the last sync.
async fn member_changes(cx: &Context<'_>, room: &Candidate) -> Outcome<Vec<Arc<StoredEvent>>> {
    let since = cx.args.since.unwrap_or_default();
    let is_member = |event: &Arc<StoredEvent>| {
        event.pdu.kind == ruma::events::TimelineEventType::RoomMember && event.pdu.state_key.is_some()
    };
    let snapshot = &room.snapshot;
    if tail_covers(snapshot, since) {
        let range = snapshot.timeline.iter().rev();
        let range = range.filter(|event| event.is_between(since, cx.upto) && is_member(event));
        return Ok(range.cloned().collect());
    }
    let rows = cx.env.store.state_changes(snapshot.nid.0, since.0, cx.upto.0).await?;
    let members = rows.into_iter().filter(|row| row.r#type == "m.room.member").collect();
    cx.env.rooms.decode(members).await
}
