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
mod members;
mod own;
mod render;
pub mod response;
mod sight;
mod state;
pub(crate) mod summary;
mod timeline;
pub mod unread;

use std::collections::BTreeMap;
use std::sync::Arc;

use entities::ids::StreamPos;
use futures_util::future::try_join_all;
use ruma::api::client::filter::FilterDefinition;
use ruma::{OwnedDeviceId, OwnedUserId};

use self::response::SyncResponse;
use super::view::UserView;
use crate::clock::Millis;
use crate::env::Env;
use crate::error::Outcome;
use crate::room::event::StoredEvent;
use crate::room::snapshot::RoomSnapshot;
use crate::stream::feed::{Changes, UserFeed};
use crate::stream::token::Token;

/// Rooms that wait for the database at the same time.
const ROOMS_AT_ONCE: usize = 64;

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
    upto: StreamPos,
}

/// What lies in `(since, upto]` for the device. `view` is at least as new as `upto`.
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
        upto,
    };
    let changes = match args.since {
        Some(since) if !args.full_state => feed.changes(since, upto),
        _ => None,
    };
    let mut response = SyncResponse {
        next_batch: Token::Live(upto).to_string(),
        ..SyncResponse::default()
    };
    count_keys(&cx, changes.as_ref(), &mut response);
    if changes.as_ref().is_some_and(Changes::is_empty) && !cx.inbox_lags() {
        return Ok(response);
    }
    let look = look::around(&cx, changes.as_ref()).await?;
    for rooms in look.joined.chunks(ROOMS_AT_ONCE) {
        let slices = try_join_all(rooms.iter().map(|room| joined::slice(&cx, room))).await?;
        state::prefetch(&cx, rooms, &slices).await?;
        let blocks = rooms
            .iter()
            .zip(slices)
            .map(|(room, slice)| joined::block(&cx, room, slice, &look));
        for (room, block) in rooms.iter().zip(try_join_all(blocks).await?) {
            if let Some(block) = block {
                response.rooms.join.insert(room.snapshot.room_id.clone(), block);
            }
        }
    }
    for rooms in look.departed.chunks(ROOMS_AT_ONCE) {
        let blocks = rooms.iter().map(|room| departed::block(&cx, room, &look));
        for (room, block) in rooms.iter().zip(try_join_all(blocks).await?) {
            if let Some(block) = block {
                response.rooms.leave.insert(room.snapshot.room_id.clone(), block);
            }
        }
    }
    departed::elsewhere(&cx, &look, &mut response).await?;
    invited::blocks(&cx, &look, &mut response).await?;
    global::fill(&cx, changes.as_ref(), &look, &mut response).await?;
    Ok(response)
}

/// The device's one-time keys, which are told with every answer.
fn count_keys(cx: &Context<'_>, changes: Option<&Changes>, response: &mut SyncResponse) {
    if let Some(device) = cx.view.devices.get(&cx.args.device) {
        response.device_one_time_keys_count = device.one_time_key_counts.clone();
        response.device_unused_fallback_key_types = device.unused_fallback_key_types.clone();
    }
    // Clients take a missing algorithm for "no news": nothing uploaded yet is told as zero.
    response
        .device_one_time_keys_count
        .entry("signed_curve25519".to_owned())
        .or_insert(0);
    // Where the feed does not tell, the counts may have changed.
    response.key_counts_changed = match changes {
        Some(changes) => changes.key_counts.contains(&cx.args.device),
        None => cx.args.since.is_some(),
    };
}

impl Context<'_> {
    /// A token whose inbox part lags behind says that there was more than one page of messages.
    fn inbox_lags(&self) -> bool {
        self.args.since.is_some_and(|since| self.args.inbox_since < since)
    }

    /// Messages of ignored users are not shown; their state events are.
    fn is_ignored(&self, event: &StoredEvent) -> bool {
        event.pdu.state_key.is_none() && self.view.ignored.contains(&event.pdu.sender)
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
}

/// Whether the newest events that a snapshot carries reach back to `pos`: everything after it is among them.
fn tail_covers(room: &RoomSnapshot, pos: StreamPos) -> bool {
    let oldest = room.timeline.front().and_then(|event| event.pos);
    room.timeline_complete || oldest.is_some_and(|oldest| oldest <= pos)
}

/// Room account data by room id.
type RoomData = BTreeMap<String, Vec<entities::account_data::Model>>;

#[cfg(test)]
mod tests;
