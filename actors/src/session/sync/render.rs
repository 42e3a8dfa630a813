//! Events in the form that the filter asks for (client-server API, "Filtering": `event_fields`, `event_format`).

use std::sync::Arc;

use entities::ids::StreamPos;
use ruma::api::client::filter::EventFormat;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::Context;
use super::look::Candidate;
use super::timeline::Slice;
use crate::error::Outcome;
use crate::room::bundle;
use crate::room::event::StoredEvent;
use crate::room::render::{Extras, RoomIdField, Viewer, client_event};
use crate::room::visibility::membership_before;

/// How a device wants its events.
pub struct Renderer {
    viewer: Viewer,
    /// Paths of names; `None` for whole events.
    fields: Option<Vec<Vec<String>>>,
    federation: bool,
}

impl Renderer {
    pub fn of(cx: &Context<'_>) -> Self {
        let filter = &cx.args.filter;
        let fields = filter.event_fields.as_ref();
        Self {
            viewer: Viewer {
                user: cx.args.user.clone(),
                device: Some(cx.args.device.clone()),
                now: cx.now,
            },
            fields: fields.map(|fields| fields.iter().map(|field| path(field)).collect()),
            federation: filter.event_format == EventFormat::Federation,
        }
    }

    /// State events, which carry nothing bundled.
    pub fn state(&self, events: &[Arc<StoredEvent>]) -> Vec<Box<RawValue>> {
        events
            .iter()
            .map(|event| self.event(event, Extras::default()))
            .collect()
    }

    /// The events of a timeline with what relates to them up to the end of the answer.
    pub async fn timeline(&self, cx: &Context<'_>, room: &Candidate, slice: &Slice) -> Outcome<Vec<Box<RawValue>>> {
        let reader = bundle::Reader {
            env: cx.env,
            viewer: &self.viewer,
            ignored: &cx.view.ignored,
            upto: cx.upto,
        };
        let bundles = bundle::bundles(reader, &room.snapshot, &slice.events).await?;
        let stays = stays(cx, room, slice).await?;
        let render = |event: &Arc<StoredEvent>| {
            let extras = Extras {
                membership: membership_at(&stays, event.pos),
                ..bundles.extras(event)
            };
            self.event(event, extras)
        };
        Ok(slice.events.iter().map(render).collect())
    }

    fn event(&self, event: &StoredEvent, extras: Extras<'_>) -> Box<RawValue> {
        let pdu = self
            .federation
            .then(|| RawValue::from_string(event.pdu.json.to_string()).ok());
        let whole = match pdu.flatten() {
            Some(pdu) => pdu,
            None => client_event(event, &self.viewer, RoomIdField::Omitted, extras),
        };
        match &self.fields {
            None => whole,
            Some(fields) => pick(&whole, fields).unwrap_or(whole),
        }
    }
}

/// A membership, and from where on it holds.
type Stay = (Option<StreamPos>, String);

/// The user's memberships over a slice, in order: its own member events tell, since it sees all of them.
async fn stays(cx: &Context<'_>, room: &Candidate, slice: &Slice) -> Outcome<Vec<Stay>> {
    let user = cx.args.user.as_str();
    let own = slice.events.iter().chain(&slice.dropped);
    let mut own: Vec<_> = own.filter(|event| event.pdu.is_state("m.room.member", user)).collect();
    own.sort_by_key(|event| event.pos);
    let before = match own.first() {
        Some(first) => membership_before(&cx.env.rooms, first).await?,
        None if slice.start.as_ref().is_none_or(|start| start.pos > Some(room.own.pos)) => {
            Some(room.own.membership.clone())
        }
        None => return Ok(Vec::new()),
    };
    let leave = || "leave".to_owned();
    let mut stays = vec![(None, before.unwrap_or_else(leave))];
    let later = own
        .into_iter()
        .map(|event| (event.pos, event.pdu.membership().unwrap_or_else(leave)));
    stays.extend(later);
    Ok(stays)
}

fn membership_at(stays: &[Stay], pos: Option<StreamPos>) -> Option<&str> {
    let at = stays.iter().rev().find(|(since, _)| *since <= pos)?;
    Some(&at.1)
}

/// `content.body` is the path to a field; `\.` and `\\` stand for themselves in a name.
fn path(field: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        match c {
            '.' => names.push(String::new()),
            '\\' => names.last_mut().into_iter().for_each(|name| name.extend(chars.next())),
            c => names.last_mut().into_iter().for_each(|name| name.push(c)),
        }
    }
    names
}

fn pick(event: &RawValue, fields: &[Vec<String>]) -> Option<Box<RawValue>> {
    let whole: Value = serde_json::from_str(event.get()).ok()?;
    let mut picked = Map::new();
    for field in fields {
        copy(&whole, field, &mut picked);
    }
    to_raw_value(&picked).ok()
}

fn copy(from: &Value, path: &[String], into: &mut Map<String, Value>) {
    let Some((name, rest)) = path.split_first() else { return };
    let Some(value) = from.get(name) else { return };
    if rest.is_empty() {
        into.insert(name.clone(), value.clone());
    } else if value.is_object() {
        let inner = into.entry(name).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(inner) = inner {
            copy(value, rest, inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_membership_holds_from_its_event_on() {
        let stays = [(None, "leave".to_owned()), (Some(StreamPos(5)), "join".to_owned())];
        for (pos, expected) in [(-3, "leave"), (4, "leave"), (5, "join"), (9, "join")] {
            assert_eq!(membership_at(&stays, Some(StreamPos(pos))), Some(expected), "{pos}");
        }
        assert_eq!(membership_at(&[], Some(StreamPos(1))), None);
    }

    #[test]
    fn only_the_fields_asked_for() {
        let event =
            json!({ "type": "m.x", "content": { "body": "b", "a.b": 1, "c": { "d": 2, "e": 3 } }, "sender": "@a:x" });
        let event = to_raw_value(&event).expect("serializes");
        let fields = [
            "type",
            "content.body",
            "content.a\\.b",
            "content.c.d",
            "content.none",
            "none.at",
            "sender.x",
        ];
        let fields: Vec<_> = fields.iter().map(|field| path(field)).collect();
        let picked: Value = serde_json::from_str(pick(&event, &fields).expect("an object").get()).expect("json");
        assert_eq!(
            picked,
            json!({ "type": "m.x", "content": { "body": "b", "a.b": 1, "c": { "d": 2 } } })
        );
    }
}
