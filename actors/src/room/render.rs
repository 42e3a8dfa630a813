//! Events as clients get them (client-server API, "Room event format").

use std::io::Write as _;

use ruma::events::TimelineEventType;
use ruma::{OwnedDeviceId, OwnedUserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::event::{Pdu, StoredEvent};
use crate::clock::Millis;

/// Stands for the sender's device in events that were sent later than their device was there (MSC4140); the transaction is
/// then the id of the delayed event.
pub const DELAYED_DEVICE: &str = "org.matrix.msc4140.delayed_event";

/// Who reads, which decides what stands under `unsigned`.
#[derive(Clone, Debug)]
pub struct Viewer {
    /// The reader.
    pub user: OwnedUserId,
    /// Its device: a transaction id is shown to the device that sent the event only.
    pub device: Option<OwnedDeviceId>,
    /// Unix milliseconds, for `age`.
    pub now: Millis,
}

/// What else is known of an event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// Bundled aggregations: the object under `m.relations`.
    pub relations: Option<&'a str>,
    /// The reader's membership when the event was sent (MSC4115).
    pub membership: Option<&'a str>,
}

/// With or without `room_id`: `/sync` leaves it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomIdField {
    /// As everywhere else.
    Shown,
    /// As in `/sync`.
    Omitted,
}

/// The event as `viewer` gets it.
#[must_use]
pub fn client_event(event: &StoredEvent, viewer: &Viewer, room_id: RoomIdField, extras: Extras<'_>) -> Box<RawValue> {
    let pdu = &event.pdu;
    let mut out = Vec::with_capacity(pdu.content.get().len() + 400);
    out.extend_from_slice(b"{\"content\":");
    push_content(&mut out, pdu);
    push_field(&mut out, "event_id", &pdu.event_id);
    push_field(&mut out, "origin_server_ts", &pdu.origin_server_ts.get());
    if let Some(redacts) = &pdu.redacts {
        push_field(&mut out, "redacts", redacts);
    }
    if room_id == RoomIdField::Shown {
        push_field(&mut out, "room_id", &pdu.room_id);
    }
    push_field(&mut out, "sender", &pdu.sender);
    if let Some(state_key) = &pdu.state_key {
        push_field(&mut out, "state_key", state_key);
    }
    push_field(&mut out, "type", &pdu.kind);
    out.extend_from_slice(b",\"unsigned\":");
    push_unsigned(&mut out, event, viewer, extras);
    out.push(b'}');
    raw(out)
}

/// The event as those get it who are not in the room yet (stripped state): content, sender, state key and type.
#[must_use]
pub fn stripped_event(pdu: &Pdu) -> Box<RawValue> {
    let mut out = Vec::with_capacity(pdu.content.get().len() + 150);
    out.extend_from_slice(b"{\"content\":");
    out.extend_from_slice(pdu.content.get().as_bytes());
    push_field(&mut out, "sender", &pdu.sender);
    push_field(&mut out, "state_key", &pdu.state_key.as_deref().unwrap_or_default());
    push_field(&mut out, "type", &pdu.kind);
    out.push(b'}');
    raw(out)
}

/// Redactions name their target in the content since room version 11 and beside it before; clients get both.
fn push_content(out: &mut Vec<u8>, pdu: &Pdu) {
    let content = pdu.content.get();
    match &pdu.redacts {
        Some(redacts) if pdu.kind == TimelineEventType::RoomRedaction && !content.contains("\"redacts\"") => {
            let body = content.trim_end().strip_suffix('}').unwrap_or("{").trim_end();
            out.extend_from_slice(body.as_bytes());
            if !body.ends_with('{') {
                out.push(b',');
            }
            out.extend_from_slice(b"\"redacts\":");
            push_json(out, redacts);
            out.push(b'}');
        }
        _ => out.extend_from_slice(content.as_bytes()),
    }
}

fn push_unsigned(out: &mut Vec<u8>, event: &StoredEvent, viewer: &Viewer, extras: Extras<'_>) {
    let sent = i64::from(event.pdu.origin_server_ts.get());
    // Writing to memory cannot fail.
    let _ = write!(out, "{{\"age\":{}", (viewer.now - sent).max(0));
    if let Some(unsigned) = &event.unsigned {
        // An object: its members are continued here.
        let object = unsigned.trim();
        let members = object
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap_or_default();
        if !members.trim().is_empty() {
            out.push(b',');
            out.extend_from_slice(members.as_bytes());
        }
    }
    if let Some(membership) = extras.membership {
        push_field(out, "membership", &membership);
    }
    if let Some(relations) = extras.relations {
        out.extend_from_slice(b",\"m.relations\":");
        out.extend_from_slice(relations.as_bytes());
    }
    if let Some((device, txn_id)) = &event.txn
        && event.pdu.sender == viewer.user
    {
        if &**device == DELAYED_DEVICE {
            push_field(out, "org.matrix.msc4140.delay_id", txn_id);
        } else if viewer.device.as_ref().is_some_and(|d| d.as_str() == &**device) {
            push_field(out, "transaction_id", txn_id);
        }
    }
    out.push(b'}');
}

fn push_field(out: &mut Vec<u8>, name: &str, value: &(impl Serialize + ?Sized)) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    push_json(out, value);
}

fn push_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        // Strings and numbers always serialize; anything else is told apart by a reader.
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

/// The text was put together from valid JSON; should a stored part be broken, the reader gets an empty object.
fn raw(text: Vec<u8>) -> Box<RawValue> {
    // What serde writes and what stands in strings is UTF-8.
    let text = String::from_utf8(text).unwrap_or_default();
    RawValue::from_string(text).unwrap_or_else(|error| {
        tracing::error!(%error, "an event could not be rendered");
        RawValue::from_string("{}".to_owned()).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use entities::ids::{EventNid, RoomNid, StreamPos};
    use ruma::{OwnedEventId, event_id, room_id, user_id};
    use serde_json::{Value, json};

    use super::*;
    use crate::room::event::{Status, ts};

    fn event(kind: &str, content: &Value, redacts: Option<OwnedEventId>, unsigned: Option<&str>) -> StoredEvent {
        StoredEvent {
            nid: EventNid(1),
            room_nid: RoomNid(1),
            pos: Some(StreamPos(5)),
            state_group: None,
            status: Status::Accepted,
            redacted_by: None,
            txn: Some(("DEV".into(), "t1".into())),
            unsigned: unsigned.map(Arc::from),
            pdu: Arc::new(Pdu {
                event_id: event_id!("$e").to_owned(),
                room_id: room_id!("!r:x").to_owned(),
                sender: user_id!("@a:x").to_owned(),
                kind: kind.into(),
                state_key: None,
                origin_server_ts: ts(1_000),
                depth: 1,
                prev_events: vec![],
                auth_events: vec![],
                redacts,
                content: RawValue::from_string(content.to_string()).expect("json"),
                json: Arc::from("{}"),
                rejected: false,
            }),
        }
    }

    fn render(event: &StoredEvent, device: &str) -> Value {
        let viewer = Viewer {
            user: user_id!("@a:x").to_owned(),
            device: Some(device.into()),
            now: 1_500,
        };
        let text = client_event(event, &viewer, RoomIdField::Shown, Extras::default());
        serde_json::from_str(text.get()).expect("valid")
    }

    #[test]
    fn only_the_sending_device_sees_the_transaction_id() {
        let event = event(
            "m.room.message",
            &json!({"body": "hé\"llo"}),
            None,
            Some(r#"{"prev_content":{"a":{}}}"#),
        );
        let own = render(&event, "DEV");
        assert_eq!(
            own["unsigned"],
            json!({"age": 500, "transaction_id": "t1", "prev_content": {"a": {}}})
        );
        assert_eq!(own["content"]["body"], "hé\"llo");
        assert_eq!(own["room_id"], "!r:x");
        assert!(render(&event, "OTHER")["unsigned"].get("transaction_id").is_none());
    }

    #[test]
    fn redactions_name_their_target_in_both_places() {
        for content in [json!({}), json!({"reason": "x"}), json!({"redacts": "$t"})] {
            let event = event("m.room.redaction", &content, Some(event_id!("$t").to_owned()), None);
            let out = render(&event, "X");
            assert_eq!(out["redacts"], "$t");
            assert_eq!(out["content"]["redacts"], "$t");
        }
    }
}
