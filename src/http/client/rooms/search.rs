//! Searching messages (client-server API, "Server Side Search").

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use actors::error::{DomainError, Outcome};
use actors::flows::search::{self, Found, Keys, Search};
use actors::room::event::StoredEvent;
use actors::room::read::{self, PageQuery};
use actors::room::snapshot::RoomSnapshot;
use actors::stream::token::Token;
use entities::ids::StreamPos;
use ruma::api::client::filter::RoomEventFilter;
use ruma::api::client::search::search_events::v3::{Criteria, EventContext, GroupingKey, Request, SearchKeys};
use ruma::{OwnedRoomId, RoomId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Reading, count};
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Results of a page where the client does not say.
const DEFAULT_PAGE: usize = 10;
/// Events on either side of a result at most.
const MAX_CONTEXT: usize = 20;

pub(super) fn routes(table: &mut Table) {
    table.user::<Request, _>(search);
}

async fn search(ctx: Ctx, request: Request) -> Outcome<Reply> {
    let Some(criteria) = &request.search_categories.room_events else {
        return Reply::json(&json!({ "search_categories": {} }));
    };
    let wanted = Search {
        user: &ctx.user()?.user_id,
        term: &criteria.search_term,
        keys: keys(criteria),
        filter: &criteria.filter,
        limit: criteria.filter.limit.map_or(DEFAULT_PAGE, count),
        from: request.next_batch.as_deref(),
    };
    let found = search::search(ctx.hub.env(), &wanted).await?;
    let context = has_context(&ctx)?.then_some(&criteria.event_context);
    let mut answer = json!({
        "count": found.results.len(),
        "highlights": found.words,
        "results": results(&ctx, &found, context).await?,
    });
    if let Some(next) = &found.next {
        answer["next_batch"] = next.clone().into();
    }
    if !criteria.groupings.is_empty() {
        answer["groups"] = groups(criteria, &found);
    }
    if criteria.include_state == Some(true) {
        answer["state"] = states(&ctx, &found).await?;
    }
    Reply::json(&json!({ "search_categories": { "room_events": answer } }))
}

fn keys(criteria: &Criteria) -> Keys {
    let has = |key: &SearchKeys| criteria.keys.as_ref().is_none_or(|keys| keys.contains(key));
    Keys {
        body: has(&SearchKeys::ContentBody),
        name: has(&SearchKeys::ContentName),
        topic: has(&SearchKeys::ContentTopic),
    }
}

/// The type does not tell whether `event_context` was there; without it there is none in the answer.
fn has_context(ctx: &Ctx) -> Outcome<bool> {
    #[derive(Deserialize)]
    struct Body {
        search_categories: Map<String, Value>,
    }
    let body: Body = ctx.request.json()?;
    Ok(body
        .search_categories
        .get("room_events")
        .is_some_and(|events| events.get("event_context").is_some()))
}

/// One opened room after the other; results of one room share it.
async fn results(ctx: &Ctx, found: &Found, context: Option<&EventContext>) -> Outcome<Vec<Value>> {
    let mut readings: BTreeMap<OwnedRoomId, Reading<'_>> = BTreeMap::new();
    let mut results = Vec::with_capacity(found.results.len());
    for (event, room) in &found.results {
        if !readings.contains_key(&room.room_id) {
            readings.insert(room.room_id.clone(), Reading::open(ctx, &room.room_id).await?);
        }
        let reading = &readings[&room.room_id];
        let rendered = reading.render(std::slice::from_ref(event)).await?;
        let mut result = json!({ "rank": 1.0, "result": rendered[0] });
        if let Some(context) = context {
            result["context"] = surroundings(reading, event, context).await?;
        }
        results.push(result);
    }
    Ok(results)
}

async fn surroundings(reading: &Reading<'_>, event: &Arc<StoredEvent>, wanted: &EventContext) -> Outcome<Value> {
    let env = reading.ctx.hub.env();
    let (pos, depth) = (event.pos.unwrap_or_default(), event.pdu.depth);
    let filter = RoomEventFilter::default();
    let mut sides = Vec::new();
    for (backwards, limit) in [(true, wanted.before_limit), (false, wanted.after_limit)] {
        let from = Token::History {
            depth,
            pos: if backwards { StreamPos(pos.0 - 1) } else { pos },
        };
        let limit = count(limit).min(MAX_CONTEXT);
        let query = PageQuery {
            from: Some(from),
            to: None,
            backwards,
            limit,
            filter: &filter,
        };
        let (events, end) = match limit {
            0 => (Vec::new(), from),
            _ => {
                let page = read::page(env, &reading.access, &query).await?;
                (page.events, page.end.unwrap_or(from))
            }
        };
        sides.push((events, end));
    }
    let (after, before) = (
        sides.pop().unwrap_or_else(|| (Vec::new(), Token::Live(pos))),
        sides.pop(),
    );
    let before = before.unwrap_or_else(|| (Vec::new(), Token::Live(pos)));
    let mut answer = json!({
        "start": before.1.to_string(),
        "end": after.1.to_string(),
        "events_before": reading.render(&before.0).await?,
        "events_after": reading.render(&after.0).await?,
    });
    if wanted.include_profile {
        let all = before.0.iter().chain([event]).chain(&after.0);
        answer["profile_info"] = profiles(&reading.access.room, all);
    }
    Ok(answer)
}

fn profiles<'e>(room: &RoomSnapshot, events: impl Iterator<Item = &'e Arc<StoredEvent>>) -> Value {
    let senders: BTreeSet<&str> = events.map(|event| event.pdu.sender.as_str()).collect();
    let mut profiles = Map::new();
    for sender in senders {
        let member = room.state_event("m.room.member", sender);
        let content: Map<String, Value> = member
            .and_then(|member| member.pdu.content_as().ok())
            .unwrap_or_default();
        let kept = content
            .into_iter()
            .filter(|(name, _)| name == "displayname" || name == "avatar_url");
        profiles.insert(sender.to_owned(), Value::Object(kept.collect()));
    }
    Value::Object(profiles)
}

/// The results by room or sender.
fn groups(criteria: &Criteria, found: &Found) -> Value {
    let mut groups = Map::new();
    for key in criteria
        .groupings
        .group_by
        .iter()
        .filter_map(|grouping| grouping.key.as_ref())
    {
        let name = |event: &StoredEvent| match key {
            GroupingKey::RoomId => Some(event.pdu.room_id.to_string()),
            GroupingKey::Sender => Some(event.pdu.sender.to_string()),
            _ => None,
        };
        let mut by_name: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        let mut order: Vec<String> = Vec::new();
        for (event, _) in &found.results {
            let Some(name) = name(event) else { continue };
            if !order.contains(&name) {
                order.push(name.clone());
            }
            by_name.entry(name).or_default().push(event.event_id().as_str());
        }
        let group = |(name, results): (String, Vec<&str>)| {
            let place = order.iter().position(|other| *other == name).unwrap_or_default();
            (name, json!({ "order": place + 1, "results": results }))
        };
        let by_name: Map<String, Value> = by_name.into_iter().map(group).collect();
        groups.insert(key.to_string(), Value::Object(by_name));
    }
    Value::Object(groups)
}

/// The current state of every room with a result.
async fn states(ctx: &Ctx, found: &Found) -> Outcome<Value> {
    let rooms: HashSet<&RoomId> = found.results.iter().map(|(_, room)| &*room.room_id).collect();
    let mut states = Map::new();
    for room in rooms {
        let reading = Reading::open(ctx, room).await?;
        let state = read::state(ctx.hub.env(), &reading.access).await?;
        let state = serde_json::to_value(reading.render_state(&state))
            .map_err(|e| DomainError::internal(format!("state does not serialise: {e}")))?;
        states.insert(room.to_string(), state);
    }
    Ok(Value::Object(states))
}
