//! What lies outside rooms: account data, presence, to-device messages, device lists.

use std::collections::HashSet;

use entities::ids::StreamPos;
use entities::{account_data, presence};
use ruma::OwnedUserId;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::Context;
use super::filter::plain_allowed;
use super::look::Look;
use super::response::{DeviceLists, SyncResponse};
use super::sight::{self, Moved};
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
    response: &mut SyncResponse,
) -> Outcome<()> {
    account_data(cx, look, response);
    inbox(cx, changes, response).await?;
    let mut moved = Moved::default();
    if cx.args.since.is_some() {
        moved = sight::moved(cx, look).await?;
        response.device_lists = device_lists(cx, changes, &moved).await?;
    }
    if cx.env.settings.presence_enabled {
        presence(cx, changes, &moved, response).await?;
    }
    Ok(())
}

/// `{"type": …, "content": …}`
#[must_use]
pub fn data_event(row: &account_data::Model) -> Option<Box<RawValue>> {
    let content: &RawValue = serde_json::from_str(&row.content).ok()?;
    to_raw_value(&json!({ "type": row.r#type, "content": content })).ok()
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
async fn inbox(cx: &Context<'_>, changes: Option<&Changes>, response: &mut SyncResponse) -> Outcome<()> {
    let (after, upto) = (cx.args.inbox_since, cx.upto);
    let flagged = changes.is_none_or(|changes| changes.has_messages_for(&cx.args.device));
    if !flagged && !cx.inbox_lags() {
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

/// The presence that changed, and that of those who came into sight.
async fn presence(
    cx: &Context<'_>,
    changes: Option<&Changes>,
    moved: &Moved,
    response: &mut SyncResponse,
) -> Outcome<()> {
    let mut rows = match changes {
        Some(changes) if changes.presence.is_empty() => Vec::new(),
        Some(changes) => {
            let users: Vec<&str> = changes.presence.iter().map(|user| user.as_str()).collect();
            cx.env.store.presence_of(&users).await?
        }
        None => {
            let (user, since) = (cx.args.user.as_str(), cx.args.since.unwrap_or_default());
            cx.env.store.presence_in_sight(user, since.0, cx.upto.0).await?
        }
    };
    let new = |user: &&String| !rows.iter().any(|row| row.user_id == **user);
    let arrived: Vec<&String> = moved.arrived.iter().filter(new).collect();
    if !arrived.is_empty() {
        let there = cx.env.store.presence_of(&arrived).await?;
        rows.extend(there.into_iter().filter(|row| row.state != "offline"));
    }
    let filter = &cx.args.filter.presence;
    for row in rows {
        let sender = OwnedUserId::try_from(row.user_id.as_str());
        let ignored = sender.is_ok_and(|sender| cx.view.ignored.contains(&sender));
        // Nobody needs to be told at first who is not there.
        let idle = cx.args.since.is_none() && row.state == "offline";
        if !ignored && !idle && plain_allowed(filter, "m.presence", Some(&row.user_id)) {
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

/// Who changed keys, and who came into or out of sight (client-server API, "Tracking the device list for a user").
async fn device_lists(cx: &Context<'_>, changes: Option<&Changes>, moved: &Moved) -> Outcome<DeviceLists> {
    let told = changes.map(|changes| &changes.device_lists);
    if told.is_some_and(HashSet::is_empty) && moved.is_empty() {
        return Ok(DeviceLists::default());
    }
    let mut changed: HashSet<String> = HashSet::new();
    let mut left: HashSet<String> = HashSet::new();
    if let Some(users) = told {
        changed.extend(users.iter().map(ToString::to_string));
    }
    if told.is_none() || !moved.is_empty() {
        let own = cx.args.user.as_str();
        let sharing: HashSet<String> = cx.env.store.users_sharing_rooms(own).await?.into_iter().collect();
        if told.is_none() {
            let mut users: Vec<&str> = sharing.iter().map(String::as_str).collect();
            users.push(own);
            let since = cx.args.since.unwrap_or_default();
            let rows = cx.env.store.device_list_changes(&users, since.0, cx.upto.0).await?;
            changed.extend(rows.into_iter().map(|row| row.user_id));
        }
        let others = |user: &&String| user.as_str() != own;
        changed.extend(moved.arrived.iter().filter(|user| sharing.contains(*user)).cloned());
        left.extend(moved.gone.iter().filter(others).cloned());
        left.retain(|user| !sharing.contains(user));
        changed.retain(|user| !left.contains(user));
    }
    Ok(DeviceLists {
        changed: sorted(changed),
        left: sorted(left),
    })
}

fn sorted(users: HashSet<String>) -> Vec<OwnedUserId> {
    let parse = |user: String| OwnedUserId::try_from(user).ok();
    let mut users: Vec<_> = users.into_iter().filter_map(parse).collect();
    users.sort_unstable();
    users
}
