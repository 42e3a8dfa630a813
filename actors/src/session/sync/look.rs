//! Where to look: which rooms may have something for the device.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use entities::ids::{EventNid, RoomNid, StreamPos};
use entities::{account_data, membership, receipt, room};
use ruma::OwnedRoomId;

use super::own::{Own, Stay, stay};
use super::{Context, RoomData};
use crate::error::Outcome;
use crate::room::snapshot::RoomSnapshot;
use crate::stream::feed::{Changes, RoomChange};

/// A room to look into.
pub struct Candidate {
    /// Its state.
    pub snapshot: Arc<RoomSnapshot>,
    /// What happened there, as far as is known.
    pub change: RoomChange,
    /// The user's membership as of `upto`.
    pub own: Own,
    /// How the user was joined since the last sync; a first sync knows of no time before.
    pub stay: Stay,
}

impl Candidate {
    /// Joined since the last sync, or again: the client knows nothing of the room.
    pub fn is_new(&self) -> bool {
        self.stay.away
    }
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

/// A room that this server is not in, and an invite or knock of the user there that has ended.
pub struct Ended {
    /// The room's id.
    pub room_id: String,
    /// The event that ended it.
    pub event: EventNid,
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
    /// Invites and knocks elsewhere that have ended.
    pub ended: Vec<Ended>,
    /// All receipts of the rooms that are shown from scratch.
    pub receipts: HashMap<RoomNid, Vec<Arc<receipt::Model>>>,
    /// Account data to show, by room.
    pub room_data: RoomData,
    /// Global account data to show.
    pub account_data: Vec<account_data::Model>,
}

/// Finds the rooms. With `changes` nothing but those named there is looked at.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn around(cx: &Context<'_>, changes: Option<&Changes>) -> Outcome<Look> {
    let mut look = Look::default();
    match (changes, cx.args.since) {
        (Some(changes), Some(since)) => named(cx, changes, since, &mut look).await?,
        _ => everywhere(cx, &mut look).await?,
    }
    receipts(cx, &mut look).await?;
    room_data(cx, &mut look).await?;
    Ok(look)
}

/// The rooms that the feed names.
async fn named(cx: &Context<'_>, changes: &Changes, since: StreamPos, look: &mut Look) -> Outcome<()> {
    let mut rooms: HashMap<RoomNid, RoomChange> = changes.rooms.clone();
    if changes.account_data || changes.room_account_data {
        account_data(cx, look).await?;
        for room_id in look.room_data.keys() {
            let Ok(room_id) = OwnedRoomId::try_from(room_id.as_str()) else {
                continue;
            };
            if let Some(room) = cx.env.rooms.view(&room_id).await? {
                rooms.entry(room.nid).or_default().account_data = true;
            }
        }
    }
    for (nid, change) in rooms {
        match cx.env.rooms.view_nid(nid).await? {
            Some(snapshot) => place(cx, look, snapshot, change, Shown::News).await?,
            None => pending_elsewhere(cx, nid, since, look).await?,
        }
    }
    Ok(())
}

/// What of a room's membership is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// Invites, knocks and departures of the range.
    News,
    /// Also older invites and knocks.
    Pending,
    /// Also older departures.
    Everything,
}

/// Puts a room where the user's membership as of `upto` belongs.
async fn place(
    cx: &Context<'_>,
    look: &mut Look,
    snapshot: Arc<RoomSnapshot>,
    change: RoomChange,
    shown: Shown,
) -> Outcome<()> {
    let own = Own::upto(cx, &snapshot, cx.upto).await?;
    let since = cx.args.since.unwrap_or_default();
    let recent = cx.args.since.is_some() && own.pos > since;
    let departed = matches!(own.membership.as_str(), "leave" | "ban");
    match own.membership.as_str() {
        "invite" | "knock" if recent || shown != Shown::News => look.pending.push(Pending {
            nid: snapshot.nid,
            room_id: snapshot.room_id.to_string(),
            sender: own.sender.map(|user| user.to_string()).unwrap_or_default(),
            membership: own.membership,
        }),
        "join" | "leave" | "ban" if !departed || recent || shown == Shown::Everything && own.pos > StreamPos(0) => {
            let stay = match cx.args.since {
                Some(since) => stay(cx, &snapshot, since, &own).await?,
                None => Stay {
                    before: false,
                    ever: !departed,
                    away: true,
                },
            };
            let list = if departed { &mut look.departed } else { &mut look.joined };
            list.push(Candidate {
                snapshot,
                change,
                own,
                stay,
            });
        }
        _ => {}
    }
    Ok(())
}

/// A room this server is not in: an invite or knock over federation has a membership row and stripped state.
async fn pending_elsewhere(cx: &Context<'_>, nid: RoomNid, since: StreamPos, look: &mut Look) -> Outcome<()> {
    let row = cx.env.store.membership(nid.0, cx.args.user.as_str()).await?;
    let Some(row) = row.filter(|row| row.pos > since.0) else {
        return Ok(());
    };
    let rooms = cx.env.store.rooms_by_nid(&[nid.0]).await?;
    if let Some(room) = rooms.into_iter().next() {
        push_elsewhere(cx, look, row, room);
    }
    Ok(())
}

fn push_elsewhere(cx: &Context<'_>, look: &mut Look, row: membership::Model, room: room::Model) {
    if row.pos > cx.upto.0 {
        return;
    }
    match row.membership.as_str() {
        "invite" | "knock" => look.pending.push(Pending {
            nid: RoomNid(row.room_nid),
            room_id: room.room_id,
            sender: row.sender,
            membership: row.membership,
        }),
        "leave" | "ban" => look.ended.push(Ended {
            room_id: room.room_id,
            event: EventNid(row.event_nid),
        }),
        _ => {}
    }
}

/// Every room of the user, by its membership row: a first sync, or one from further back than the feed remembers.
async fn everywhere(cx: &Context<'_>, look: &mut Look) -> Outcome<()> {
    account_data(cx, look).await?;
    let floor = cx.args.since.unwrap_or_default();
    let first = cx.args.since.is_none();
    let archived = first && cx.args.filter.room.include_leave;
    let rows = cx.env.store.memberships_of_user(cx.args.user.as_str(), None).await?;
    let mut changed = changed_rooms(cx, &rows, look).await?;
    let mut chosen = Vec::new();
    for (row, room) in rows {
        let change = changed.remove(&RoomNid(row.room_nid));
        // A later position than `upto` may hide an earlier membership: the snapshot tells.
        let recent = row.pos > floor.0 && !first || row.pos > cx.upto.0;
        let keep = match row.membership.as_str() {
            "join" => first || cx.args.full_state || recent || change.is_some(),
            "invite" | "knock" => first || recent,
            _ => recent || archived && !row.forgotten,
        };
        if keep {
            chosen.push((row, room, change.unwrap_or_default()));
        }
    }
    let ids: Vec<_> = chosen
        .iter()
        .filter_map(|(_, room, _)| OwnedRoomId::try_from(room.room_id.as_str()).ok())
        .collect();
    let mut snapshots = cx.env.rooms.views(&ids).await?;
    for (row, room, change) in chosen {
        let Ok(room_id) = OwnedRoomId::try_from(room.room_id.as_str()) else {
            continue;
        };
        let shown = match (first, archived && !row.forgotten) {
            (false, _) => Shown::News,
            (true, false) => Shown::Pending,
            (true, true) => Shown::Everything,
        };
        match snapshots.remove(&room_id) {
            Some(snapshot) => place(cx, look, snapshot, change, shown).await?,
            None => push_elsewhere(cx, look, row, room),
        }
    }
    Ok(())
}

/// What changed where since the last sync, from the database; with `full_state` too, where everything is looked at.
async fn changed_rooms(
    cx: &Context<'_>,
    rows: &[(membership::Model, room::Model)],
    look: &Look,
) -> Outcome<HashMap<RoomNid, RoomChange>> {
    let mut changed: HashMap<RoomNid, RoomChange> = HashMap::new();
    let Some(since) = cx.args.since else {
        return Ok(changed);
    };
    let joined = rows.iter().filter(|(row, _)| row.membership == "join");
    let nids: Vec<i64> = joined.clone().map(|(row, _)| row.room_nid).collect();
    for (nid, pos) in cx.env.store.rooms_changed_since(&nids, since.0, cx.upto.0).await? {
        let room = changed.entry(RoomNid(nid)).or_default();
        room.event = true;
        room.event_pos = pos;
    }
    for row in cx.env.store.receipts_of_rooms(&nids, since.0, cx.upto.0).await? {
        // Others' private receipts are nobody's business.
        if row.receipt_type == "m.read.private" && row.user_id != cx.args.user.as_str() {
            continue;
        }
        let room = changed.entry(RoomNid(row.room_nid)).or_default();
        room.receipts.push(Arc::new(row));
    }
    let with_data: HashSet<&String> = look.room_data.keys().collect();
    for (row, room) in joined {
        let nid = RoomNid(row.room_nid);
        if cx.env.rooms.typing().last_change(nid) > since {
            changed.entry(nid).or_default().typing = true;
        }
        if with_data.contains(&room.room_id) {
            changed.entry(nid).or_default().account_data = true;
        }
    }
    Ok(changed)
}

async fn account_data(cx: &Context<'_>, look: &mut Look) -> Outcome<()> {
    let since = cx.args.since.unwrap_or_default();
    let rows = cx
        .env
        .store
        .account_data_since(cx.args.user.as_str(), since.0, cx.upto.0)
        .await?;
    for row in rows {
        // What was deleted is told once, and not to who begins.
        if cx.args.since.is_none() && row.content == "{}" {
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

/// All receipts of the rooms that are shown from scratch; elsewhere the changes tell those that moved.
async fn receipts(cx: &Context<'_>, look: &mut Look) -> Outcome<()> {
    let fresh = look.joined.iter().filter(|room| room.is_new());
    let fresh: Vec<i64> = fresh.map(|room| room.snapshot.nid.0).collect();
    if !fresh.is_empty() {
        for row in cx.env.store.receipts_of_rooms(&fresh, 0, cx.upto.0).await? {
            let room = look.receipts.entry(RoomNid(row.room_nid)).or_default();
            room.push(Arc::new(row));
        }
    }
    Ok(())
}

/// All account data of the rooms that are new to the client.
async fn room_data(cx: &Context<'_>, look: &mut Look) -> Outcome<()> {
    let new = look.joined.iter().filter(|room| room.is_new());
    let new: HashSet<&str> = new.map(|room| room.snapshot.room_id.as_str()).collect();
    if cx.args.since.is_none() || new.is_empty() {
        return Ok(());
    }
    let all = cx
        .env
        .store
        .account_data_since(cx.args.user.as_str(), 0, cx.upto.0)
        .await?;
    for room_id in &new {
        look.room_data.remove(*room_id);
    }
    for row in all {
        if new.contains(row.room_id.as_str()) && row.content != "{}" {
            look.room_data.entry(row.room_id.clone()).or_default().push(row);
        }
    }
    Ok(())
}
