//! Where to look: which rooms may have something for the device.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use entities::ids::{RoomNid, StreamPos};
use entities::{account_data, membership, receipt, room};

use super::filter::room_allowed;
use super::{Context, RoomData, membership_upto};
use crate::error::Outcome;
use crate::room::snapshot::RoomSnapshot;
use crate::stream::feed::{Changes, RoomChange};

/// A room to look into.
pub struct Candidate {
    /// Its state.
    pub snapshot: Arc<RoomSnapshot>,
    /// What happened there, as far as is known.
    pub change: RoomChange,
    /// The position of the user's member event as of `upto`.
    pub member_pos: StreamPos,
}

/// An invite or a knock.
pub struct Pending {
    /// The room's number.
    pub nid: RoomNid,
    /// The room's id.
    pub room_id: String,
    /// Who sent the member event.
    pub sender: String,
    /// `invite` or `knock`.
    pub membership: String,
}

/// Everything to look at.
#[derive(Default)]
pub struct Look {
    /// Joined rooms.
    pub joined: Vec<Candidate>,
    /// Rooms that were left or that threw the user out.
    pub departed: Vec<Candidate>,
    /// Invites and knocks.
    pub pending: Vec<Pending>,
    /// Receipts to show, by room.
    pub receipts: HashMap<RoomNid, Vec<receipt::Model>>,
    /// Account data to show, by room.
    pub room_data: RoomData,
    /// Global account data to show.
    pub account_data: Vec<account_data::Model>,
}

impl Look {
    /// The receipts of a joined room, if all of them were read.
    pub fn all_receipts(&self, cx: &Context<'_>, room: &Candidate) -> Option<&[receipt::Model]> {
        let of_room = self.receipts.get(&room.snapshot.nid).map(Vec::as_slice);
        is_fresh(cx, room).then(|| of_room.unwrap_or_default())
    }
}

/// Whether the room is shown from scratch, as far as its member event tells.
fn is_fresh(cx: &Context<'_>, room: &Candidate) -> bool {
    cx.args.since.is_none_or(|since| room.member_pos > since)
}

/// Finds the rooms. With `changes` nothing but those named there is looked at.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn around(cx: &Context<'_>, changes: Option<&Changes>, upto: StreamPos) -> Outcome<Look> {
    let mut look = Look::default();
    match (changes, cx.args.since) {
        (Some(changes), Some(since)) => named(cx, changes, since, upto, &mut look).await?,
        (_, since) => everywhere(cx, since, upto, &mut look).await?,
    }
    receipts(cx, upto, &mut look).await?;
    Ok(look)
}

/// The rooms that the feed names.
async fn named(cx: &Context<'_>, changes: &Changes, since: StreamPos, upto: StreamPos, look: &mut Look) -> Outcome<()> {
    let mut rooms: HashMap<RoomNid, RoomChange> = changes.rooms.clone();
    if changes.account_data || changes.room_account_data {
        account_data(cx, Some(since), upto, look).await?;
        for room_id in look.room_data.keys() {
            let Ok(room_id) = ruma::OwnedRoomId::try_from(room_id.as_str()) else {
                continue;
            };
            if let Some(room) = cx.env.rooms.view(&room_id).await? {
                rooms.entry(room.nid).or_default().account_data = true;
            }
        }
    }
    for (nid, change) in rooms {
        let Some(snapshot) = cx.room(nid).await? else {
            pending_elsewhere(cx, nid, since, upto, look).await?;
            continue;
        };
        let (membership, member_pos) = membership_upto(cx, &snapshot, &cx.args.user, upto).await?;
        let nid = snapshot.nid;
        let recent = member_pos > since;
        match membership.as_str() {
            "join" => push_joined(
                cx,
                look,
                Candidate {
                    snapshot,
                    change,
                    member_pos,
                },
            ),
            "invite" | "knock" if recent => {
                let sender = snapshot.state_event("m.room.member", cx.args.user.as_str());
                let sender = sender.map(|event| event.pdu.sender.to_string()).unwrap_or_default();
                look.pending.push(Pending {
                    nid,
                    room_id: snapshot.room_id.to_string(),
                    sender,
                    membership,
                });
            }
            "leave" | "ban" if recent && !change.forgotten => {
                push_departed(
                    cx,
                    look,
                    Candidate {
                        snapshot,
                        change,
                        member_pos,
                    },
                );
            }
            _ => {}
        }
    }
    Ok(())
}

/// A room this server is not in: an invite or knock over federation has a membership row and stripped state.
async fn pending_elsewhere(
    cx: &Context<'_>,
    nid: RoomNid,
    since: StreamPos,
    upto: StreamPos,
    look: &mut Look,
) -> Outcome<()> {
    let row = cx.env.store.membership(nid.0, cx.args.user.as_str()).await?;
    let Some(row) = row.filter(|row| row.pos > since.0 && row.pos <= upto.0) else {
        return Ok(());
    };
    let rooms = cx.env.store.rooms_by_nid(&[nid.0]).await?;
    if let Some(room) = rooms.into_iter().next() {
        push_pending(look, row, room);
    }
    Ok(())
}

fn push_pending(look: &mut Look, row: membership::Model, room: room::Model) {
    look.pending.push(Pending {
        nid: RoomNid(row.room_nid),
        room_id: room.room_id,
        sender: row.sender,
        membership: row.membership,
    });
}

fn push_joined(cx: &Context<'_>, look: &mut Look, room: Candidate) {
    if room_allowed(&cx.args.filter, &room.snapshot.room_id) {
        look.joined.push(room);
    }
}

fn push_departed(cx: &Context<'_>, look: &mut Look, room: Candidate) {
    if room_allowed(&cx.args.filter, &room.snapshot.room_id) {
        look.departed.push(room);
    }
}

/// Every room of the user, by its membership row: a first sync, or one from further back than the feed remembers.
async fn everywhere(cx: &Context<'_>, since: Option<StreamPos>, upto: StreamPos, look: &mut Look) -> Outcome<()> {
    account_data(cx, since, upto, look).await?;
    let floor = since.unwrap_or_default();
    let complete = since.is_none() || cx.args.full_state;
    let rows = cx.env.store.memberships_of_user(cx.args.user.as_str(), None).await?;
    let nids: Vec<i64> = rows.iter().map(|(row, _)| row.room_nid).collect();
    let changed = changed_rooms(cx, &nids, floor, upto, complete).await?;
    let with_data: HashSet<&String> = look.room_data.keys().collect();
    let mut chosen = Vec::new();
    for (row, room) in rows {
        let recent = row.pos > floor.0;
        let change = changed.get(&row.room_nid).copied();
        let has_data = with_data.contains(&room.room_id);
        let keep = match row.membership.as_str() {
            "join" => complete || recent || change.is_some() || has_data,
            "invite" | "knock" => recent || complete,
            // A later position than `upto` may hide an earlier membership: the snapshot tells.
            _ if row.forgotten => false,
            _ if since.is_none() => cx.args.filter.room.include_leave && row.membership != "none" || row.pos > upto.0,
            _ => recent,
        };
        if keep {
            chosen.push((
                row,
                room,
                change.unwrap_or(RoomChange {
                    event: complete,
                    ..RoomChange::default()
                }),
            ));
        }
    }
    for (row, room, change) in chosen {
        let Some(snapshot) = cx.room(RoomNid(row.room_nid)).await? else {
            if matches!(row.membership.as_str(), "invite" | "knock") && row.pos <= upto.0 {
                push_pending(look, row, room);
            }
            continue;
        };
        let (membership, member_pos) = membership_upto(cx, &snapshot, &cx.args.user, upto).await?;
        match membership.as_str() {
            "join" => push_joined(
                cx,
                look,
                Candidate {
                    snapshot,
                    change,
                    member_pos,
                },
            ),
            "invite" | "knock" => push_pending(look, membership::Model { membership, ..row }, room),
            _ if member_pos > StreamPos(0) && (member_pos > floor || since.is_none()) => {
                push_departed(
                    cx,
                    look,
                    Candidate {
                        snapshot,
                        change,
                        member_pos,
                    },
                );
            }
            _ => {}
        }
    }
    Ok(())
}

/// What changed where, from the database.
async fn changed_rooms(
    cx: &Context<'_>,
    nids: &[i64],
    floor: StreamPos,
    upto: StreamPos,
    complete: bool,
) -> Outcome<BTreeMap<i64, RoomChange>> {
    let mut changed: BTreeMap<i64, RoomChange> = BTreeMap::new();
    if complete {
        return Ok(changed);
    }
    for (nid, pos) in cx.env.store.rooms_changed_since(nids, floor.0, upto.0).await? {
        let room = changed.entry(nid).or_default();
        room.event = true;
        room.event_pos = pos;
    }
    for receipt in cx.env.store.receipts_of_rooms(nids, floor.0, upto.0).await? {
        changed.entry(receipt.room_nid).or_default().receipt = true;
    }
    Ok(changed)
}

async fn account_data(cx: &Context<'_>, since: Option<StreamPos>, upto: StreamPos, look: &mut Look) -> Outcome<()> {
    let since = since.unwrap_or_default();
    let rows = cx
        .env
        .store
        .account_data_since(cx.args.user.as_str(), since.0, upto.0)
        .await?;
    for row in rows {
        // What was deleted is told once, and not to who begins.
        if since == StreamPos(0) && row.content == "{}" {
            continue;
        }
        if row.room_id.is_empty() {
            look.account_data.push(row);
        } else {
            look.room_data.entry(row.room_id.clone()).or_default().push(row);
        }
    }
    Ok(())
}

/// The receipts of the joined rooms: all of them where a room is shown from scratch, else those that moved.
async fn receipts(cx: &Context<'_>, upto: StreamPos, look: &mut Look) -> Outcome<()> {
    let since = cx.args.since.unwrap_or_default();
    let mut fresh = Vec::new();
    let mut moved = Vec::new();
    for room in &look.joined {
        if is_fresh(cx, room) {
            fresh.push(room.snapshot.nid.0);
        } else if room.change.receipt {
            moved.push(room.snapshot.nid.0);
        }
    }
    let mut rows = Vec::new();
    if !fresh.is_empty() {
        rows.extend(cx.env.store.receipts_of_rooms(&fresh, 0, upto.0).await?);
    }
    if !moved.is_empty() {
        rows.extend(cx.env.store.receipts_of_rooms(&moved, since.0, upto.0).await?);
    }
    for row in rows {
        look.receipts.entry(RoomNid(row.room_nid)).or_default().push(row);
    }
    Ok(())
}
