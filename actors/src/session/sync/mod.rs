//! `/sync` (client-server API, "Syncing"): what a device has not seen yet, over the range `(since, upto]`.
//!
//! `upto` is sampled from the visible position before anything is read; room snapshots are at least as new as it, so
//! whatever lies beyond `upto` is cut off here and comes with the next request.

mod departed;
mod ephemeral;
pub mod filter;
pub mod global;
pub mod invited;
mod joined;
pub mod lazy;
mod look;
pub mod response;
mod state;
mod summary;
mod timeline;
pub mod unread;

use std::collections::BTreeMap;
use std::sync::Arc;

use entities::ids::{RoomNid, StreamPos};
use ruma::api::client::filter::FilterDefinition;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use self::response::SyncResponse;
use super::view::UserView;
use crate::clock::Millis;
use crate::env::Env;
use crate::error::Outcome;
use crate::room::event::StoredEvent;
use crate::room::render::Viewer;
use crate::room::snapshot::RoomSnapshot;
use crate::room::visibility::filter_visible;
use crate::stream::feed::{Changes, UserFeed};
use crate::stream::token::Token;

/// What a device asks for.
#[derive(Clone, Debug)]
pub struct SyncArgs {
    /// The user.
    pub user: OwnedUserId,
    /// Its device.
    pub device: OwnedDeviceId,
    /// Where it left off; `None` for a first sync.
    pub since: Option<StreamPos>,
    /// Up to where it has its inbox; behind `since` when the last answer could not carry everything.
    pub inbox_since: StreamPos,
    /// What it wants to see.
    pub filter: Arc<FilterDefinition>,
    /// Whether it wants the whole state of every room again.
    pub full_state: bool,
    /// `state_after` in place of `state` (MSC4222).
    pub use_state_after: bool,
}

/// Everything a computation reads.
pub struct Context<'a> {
    env: &'a Env,
    args: &'a SyncArgs,
    view: &'a UserView,
    now: Millis,
}

/// What lies in `(since, upto]` for the device.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn compute(
    env: &Env,
    args: &SyncArgs,
    view: &UserView,
    feed: &UserFeed,
    upto: StreamPos,
) -> Outcome<SyncResponse> {
    let cx = Context {
        env,
        args,
        view,
        now: env.clock.now_ms(),
    };
    let changes = match args.since {
        Some(since) if !args.full_state => feed.changes(since, upto),
        _ => None,
    };
    let mut response = SyncResponse {
        next_batch: Token::Live(upto).to_string(),
        ..SyncResponse::default()
    };
    if let Some(device) = view.devices.get(&args.device) {
        response.device_one_time_keys_count = device.one_time_key_counts.clone();
        response.device_unused_fallback_key_types = device.unused_fallback_key_types.clone();
    }
    // Clients take a missing algorithm for "no news": nothing uploaded yet is told as zero.
    response
        .device_one_time_keys_count
        .entry("signed_curve25519".to_owned())
        .or_insert(0);
    // The last answer could not carry the whole inbox.
    let more_inbox = args.since.is_some_and(|since| args.inbox_since < since);
    if !more_inbox && changes.as_ref().is_some_and(Changes::is_empty) {
        return Ok(response);
    }
    let look = look::around(&cx, changes.as_ref(), upto).await?;
    for room in &look.joined {
        if let Some(block) = joined::block(&cx, room, &look, upto).await? {
            response.rooms.join.insert(room.snapshot.room_id.clone(), block);
        }
    }
    for room in &look.departed {
        if let Some(block) = departed::block(&cx, room, &look, upto).await? {
            response.rooms.leave.insert(room.snapshot.room_id.clone(), block);
        }
    }
    invited::blocks(&cx, &look, &mut response).await?;
    global::fill(&cx, changes.as_ref(), &look, upto, &mut response).await?;
    Ok(response)
}

impl Context<'_> {
    fn viewer(&self) -> Viewer {
        Viewer {
            user: self.args.user.clone(),
            device: Some(self.args.device.clone()),
            now: self.now,
        }
    }

    /// Messages of ignored users are not shown; their state events are.
    fn is_ignored(&self, event: &StoredEvent) -> bool {
        event.pdu.state_key.is_none() && self.view.ignored.contains(&event.pdu.sender)
    }

    async fn room(&self, nid: RoomNid) -> Outcome<Option<Arc<RoomSnapshot>>> {
        self.env.rooms.view_nid(nid).await
    }

    /// Newest first: `after < position <= from`.
    async fn page_back(
        &self,
        room: &RoomSnapshot,
        from: StreamPos,
        after: StreamPos,
        limit: u32,
    ) -> Outcome<Vec<Arc<StoredEvent>>> {
        self.env
            .rooms
            .timeline_range(room.nid, Some(from.0), Some(after.0), limit, true)
            .await
    }

    async fn first_after(&self, room: &RoomSnapshot, pos: StreamPos) -> Outcome<Option<Arc<StoredEvent>>> {
        Ok(self
            .env
            .rooms
            .timeline_range(room.nid, Some(pos.0), None, 1, false)
            .await?
            .pop())
    }

    async fn visible(&self, room: &RoomSnapshot, events: Vec<Arc<StoredEvent>>) -> Outcome<Vec<Arc<StoredEvent>>> {
        filter_visible(&self.env.rooms, &self.args.user, room, events).await
    }
}

/// The user's membership in a room as of `upto`, and the member event's position.
async fn membership_upto(
    cx: &Context<'_>,
    room: &RoomSnapshot,
    user: &UserId,
    upto: StreamPos,
) -> Outcome<(String, StreamPos)> {
    let of = |event: Option<&Arc<StoredEvent>>| {
        let pos = event.and_then(|event| event.pos).unwrap_or_default();
        let membership = event
            .and_then(|event| event.pdu.membership())
            .unwrap_or_else(|| "leave".to_owned());
        (membership, pos)
    };
    let (membership, pos) = of(room.state_event("m.room.member", user.as_str()));
    if pos <= upto {
        return Ok((membership, pos));
    }
    let group = state::group_upto(cx, room, upto).await?;
    let key = (Arc::from("m.room.member"), Arc::from(user.as_str()));
    let found = cx.env.rooms.state_events_at(group, &[key]).await?.pop().flatten();
    Ok(of(found.as_ref()))
}

/// Room account data by room id.
type RoomData = BTreeMap<String, Vec<entities::account_data::Model>>;
