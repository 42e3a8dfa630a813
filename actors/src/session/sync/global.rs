//! What lies outside rooms: account data, presence, to-device messages, device lists.

use std::collections::HashSet;

use entities::ids::StreamPos;
use entities::{account_data, event, presence};
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::Context;
use super::filter::plain_allowed;
use super::joined::was_joined;
use super::look::Look;
use super::response::{DeviceLists, SyncResponse};
use crate::error::Outcome;
use crate::session::data::ruleset_content;
use crate::stream::feed::Changes;
use crate::stream::token::SyncToken;

/// To-device messages in one answer.
const INBOX_PAGE: u32 = 100;

/// Fills in everything outside rooms.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn fill(
    cx: &Context<'_>,
    changes: Option<&Changes>,
    look: &Look,
    upto: StreamPos,
    response: &mut SyncResponse,
) -> Outcome<()> {
    let flagged = |flag: fn(&Changes) -> bool| changes.is_none_or(flag);
    response.key_counts_changed = changes.is_some_and(|changes| changes.key_counts);
    account_data(cx, look, response);
    inbox(cx, flagged(|c| c.to_device), upto, response).await?;
    let moved = match cx.args.since {
        Some(since) => moved(cx, look, since, upto).await?,
        None => Moved::default(),
    };
    if cx.env.settings.presence_enabled {
        presence(cx, flagged(|c| c.presence), &moved.arrived, upto, response).await?;
    }
    if let Some(since) = cx.args.since {
        response.device_lists = device_lists(cx, flagged(|c| c.device_lists), moved, since, upto).await?;
    }
    Ok(())
}

/// `{"type": …, "content": …}`
#[must_use]
pub fn data_event(row: &account_data::Model) -> Option<Box<RawValue>> {
    #[derive(Serialize)]
    struct Event<'a> {
        r#type: &'a str,
        content: &'a RawValue,
    }
    let content = serde_json::from_str(&row.content).ok()?;
    to_raw_value(&Event {
        r#type: &row.r#type,
        content,
    })
    .ok()
}

fn account_data(cx: &Context<'_>, look: &Look, response: &mut SyncResponse) {
    let filter = &cx.args.filter.account_data;
    let wanted = |kind: &str| plain_allowed(filter, kind, None);
    let rows = look
        .account_data
        .iter()
        .filter(|row| wanted(&row.r#type) && row.r#type != "m.push_rules");
    response.account_data.events = rows.filter_map(data_event).collect();
    let rules_changed = look.account_data.iter().any(|row| row.r#type == "m.push_rules");
    if (rules_changed || cx.args.since.is_none()) && wanted("m.push_rules") {
        let event = json!({ "type": "m.push_rules", "content": ruleset_content(&cx.view.push_rules) });
        response.account_data.events.extend(to_raw_value(&event).ok());
    }
}

/// Messages stay in the inbox until the device comes back with a token at or behind them.
async fn inbox(cx: &Context<'_>, flagged: bool, upto: StreamPos, response: &mut SyncResponse) -> Outcome<()> {
    let after = cx.args.inbox_since;
    // A token whose inbox part lags behind says that there was more than one page.
    let lagging = cx.args.since.is_some_and(|since| after < since);
    if !flagged && !lagging {
        return Ok(());
    }
    let (user, device) = (cx.args.user.as_str(), cx.args.device.as_str());
    let rows = cx
        .env
        .store
        .to_device_page(user, device, after.0, upto.0, INBOX_PAGE)
        .await?;
    if let Some(last) = rows.last() {
        cx.env
            .inboxes
            .delivered(&cx.args.user, &cx.args.device, StreamPos(last.pos));
    }
    let full = rows.len() >= usize::try_from(INBOX_PAGE).unwrap_or(usize::MAX);
    if let (true, Some(last)) = (full, rows.last()) {
        let token = SyncToken {
            pos: upto,
            inbox: StreamPos(last.pos),
        };
        response.next_batch = token.to_string();
    }
    response.to_device.events = rows
        .into_iter()
        .filter_map(|row| RawValue::from_string(row.json).ok())
        .collect();
    Ok(())
}

/// Changes, and how those are who came into sight.
async fn presence(
    cx: &Context<'_>,
    flagged: bool,
    arrived: &HashSet<String>,
    upto: StreamPos,
    response: &mut SyncResponse,
) -> Outcome<()> {
    let since = cx.args.since.unwrap_or_default();
    let mut rows = Vec::new();
    if !arrived.is_empty() {
        let arrived: Vec<&String> = arrived.iter().collect();
        rows = cx.env.store.presence_of(&arrived).await?;
        rows.retain(|row| row.pos <= since.0 && row.state != "offline");
    }
    if flagged {
        rows.extend(cx.env.store.presence_since(since.0, upto.0).await?);
    }
    if rows.is_empty() {
        return Ok(());
    }
    let mut known: HashSet<String> = sharing(cx).await?.into_iter().collect();
    known.insert(cx.args.user.to_string());
    let filter = &cx.args.filter.presence;
    for row in rows {
        let sender = OwnedUserId::try_from(row.user_id.as_str());
        let ignored = sender.is_ok_and(|sender| cx.view.ignored.contains(&sender));
        if known.contains(&row.user_id) && !ignored && plain_allowed(filter, "m.presence", Some(&row.user_id)) {
            response.presence.events.extend(presence_event(&row, cx.now));
        }
    }
    Ok(())
}

/// The `m.presence` event of a row; `now` in Unix milliseconds.
#[must_use]
pub fn presence_event(row: &presence::Model, now: i64) -> Option<Box<RawValue>> {
    let mut content = json!({
        "presence": row.state,
        "last_active_ago": (now - row.last_active_ts).max(0),
        "currently_active": row.state == "online",
    });
    if let Some(message) = &row.status_msg {
        content["status_msg"] = json!(message);
    }
    to_raw_value(&json!({ "type": "m.presence", "sender": row.user_id, "content": content })).ok()
}

async fn sharing(cx: &Context<'_>) -> Outcome<Vec<String>> {
    Ok(cx.env.store.users_sharing_rooms(cx.args.user.as_str()).await?)
}

/// Who changed keys, and who came into or out of sight (client-server API, "Tracking the device list for a user").
async fn device_lists(
    cx: &Context<'_>,
    flagged: bool,
    moved: Moved,
    since: StreamPos,
    upto: StreamPos,
) -> Outcome<DeviceLists> {
    if !flagged && moved.arrived.is_empty() && moved.gone.is_empty() {
        return Ok(DeviceLists::default());
    }
    let sharing: HashSet<String> = sharing(cx).await?.into_iter().collect();
    let mut changed: HashSet<String> = HashSet::new();
    if flagged {
        let mut users: Vec<&str> = sharing.iter().map(String::as_str).collect();
        if !sharing.contains(cx.args.user.as_str()) {
            users.push(cx.args.user.as_str());
        }
        let rows = cx.env.store.device_list_changes(&users, since.0, upto.0).await?;
        changed.extend(rows.into_iter().map(|row| row.user_id));
    }
    changed.extend(moved.arrived.into_iter().filter(|user| sharing.contains(user)));
    let left = moved
        .gone
        .into_iter()
        .filter(|user| !sharing.contains(user) && user != cx.args.user.as_str());
    let parse = |user: String| OwnedUserId::try_from(user).ok();
    let mut lists = DeviceLists {
        changed: changed.into_iter().filter_map(parse).collect(),
        left: left.filter_map(parse).collect(),
    };
    lists.changed.sort_unstable();
    lists.left.sort_unstable();
    Ok(lists)
}

#[derive(Default)]
struct Moved {
    arrived: HashSet<String>,
    gone: HashSet<String>,
}

/// Who joined or left rooms of the user in the range; where the user itself did, everybody there.
async fn moved(cx: &Context<'_>, look: &Look, since: StreamPos, upto: StreamPos) -> Outcome<Moved> {
    let mut moved = Moved::default();
    for room in &look.joined {
        if room.member_pos > since && !was_joined(cx, room, since).await? {
            moved.arrived.extend(joined_users(&room.snapshot));
        } else if room.change.event && changed_members(&room.snapshot, since) {
            for event in cx.env.store.state_changes(room.snapshot.nid.0, since.0, upto.0).await? {
                if event.r#type != "m.room.member" || stayed(&event) {
                    continue;
                }
                let Some(user) = event.state_key else { continue };
                let joined = <&UserId>::try_from(user.as_str()).is_ok_and(|user| room.snapshot.is_joined(user));
                if joined {
                    moved.arrived.insert(user)
                } else {
                    moved.gone.insert(user)
                };
            }
        }
    }
    for room in &look.departed {
        moved.gone.extend(joined_users(&room.snapshot));
    }
    Ok(moved)
}

/// Whether a member event leaves its user in the room: a changed profile moves nobody.
fn stayed(event: &event::Model) -> bool {
    #[derive(Deserialize)]
    struct Pdu {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Unsigned {
        prev_content: Option<Content>,
    }
    #[derive(Deserialize)]
    struct Content {
        membership: Option<String>,
    }
    let joined = |content: Content| content.membership.as_deref() == Some("join");
    let before = event
        .unsigned
        .as_deref()
        .and_then(|text| serde_json::from_str::<Unsigned>(text).ok());
    before.and_then(|unsigned| unsigned.prev_content).is_some_and(joined)
        && serde_json::from_str::<Pdu>(&event.json).is_ok_and(|pdu| joined(pdu.content))
}

fn joined_users(room: &crate::room::snapshot::RoomSnapshot) -> Vec<String> {
    let members = room.state_of_kind("m.room.member");
    let joined = members.filter(|event| event.pdu.membership().as_deref() == Some("join"));
    joined
        .filter_map(|event| event.pdu.state_key.as_deref().map(str::to_owned))
        .collect()
}

/// Whether a member event may lie after `since`: told by the tail of the timeline, else assumed.
fn changed_members(room: &crate::room::snapshot::RoomSnapshot, since: StreamPos) -> bool {
    let covered = room.timeline_complete || room.timeline.front().is_some_and(|e| e.pos.is_some_and(|p| p <= since));
    !covered
        || room
            .timeline
            .iter()
            .rev()
            .take_while(|event| event.pos.is_some_and(|pos| pos > since))
            .any(|event| event.pdu.kind == ruma::events::TimelineEventType::RoomMember)
}
