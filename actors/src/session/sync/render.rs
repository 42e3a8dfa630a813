//! Events in the form that the filter asks for (client-server API, "Filtering": `event_fields`, `event_format`).

use std::sync::Arc;

use ruma::api::client::filter::EventFormat;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::Context;
use crate::error::Outcome;
use crate::room::bundle;
use crate::room::event::StoredEvent;
use crate::room::render::{Extras, RoomIdField, Viewer, client_event};
use crate::room::snapshot::RoomSnapshot;

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

    /// Timeline events with what relates to them up to the end of the answer.
    pub async fn timeline(
        &self,
        cx: &Context<'_>,
        room: &RoomSnapshot,
        events: &[Arc<StoredEvent>],
    ) -> Outcome<Vec<Box<RawValue>>> {
        let reader = bundle::Reader {
            env: cx.env,
            viewer: &self.viewer,
            ignored: &cx.view.ignored,
            upto: cx.upto,
        };
        let bundles = bundle::bundles(reader, room, events).await?;
        Ok(events
            .iter()
            .map(|event| self.event(event, bundles.extras(event)))
            .collect())
    }

    fn event(&self, event: &StoredEvent, extras: Extras<'_>) -> Box<RawValue> {
        let whole = match RawValue::from_string(event.pdu.json.to_string()) {
            Ok(pdu) if self.federation => pdu,
            _ => client_event(event, &self.viewer, RoomIdField::Omitted, extras),
        };
        match &self.fields {
            None => whole,
            Some(fields) => pick(&whole, fields).unwrap_or(whole),
        }
    }
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
