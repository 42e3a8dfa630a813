//! Signed events for the tests of rooms.

use std::collections::BTreeMap;

use ruma::OwnedEventId;
use ruma::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use ruma::room_version_rules::RoomVersionRules;
use ruma::serde::Base64;
use ruma::signatures::{Ed25519KeyPair, PublicKeyMap};
use ruma::state_res::StateMap;
use ruma::state_res::utils::event_id_set::EventIdSet;
use serde_json::{Value, json};

use super::event::Pdu;
use super::parse;
use super::resolve::{EventMap, StateIds, resolve_state, state_key};

/// A server with a key of its own.
pub struct Origin {
    /// Its name.
    pub name: String,
    key: Ed25519KeyPair,
}

impl Origin {
    /// The same key for the same name.
    pub fn new(name: &str) -> Self {
        // PKCS#8, version 1, of an Ed25519 seed.
        let mut der = vec![
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
        ];
        der.extend((0..32u8).map(|at| name.as_bytes()[usize::from(at) % name.len()] ^ at));
        let key = Ed25519KeyPair::from_der(&der, "1".to_owned()).expect("a well-formed key");
        Self {
            name: name.to_owned(),
            key,
        }
    }

    /// Adds this server's key.
    pub fn publish(&self, keys: &mut PublicKeyMap) {
        let key = Base64::new(self.key.public_key().to_vec());
        keys.insert(self.name.clone(), BTreeMap::from([("ed25519:1".to_owned(), key)]));
    }

    /// Hashes and signs.
    pub fn sign(&self, event: &Value, rules: &RoomVersionRules) -> CanonicalJsonObject {
        let mut object: CanonicalJsonObject =
            serde_json::from_value(event.clone()).expect("tests write canonical JSON objects");
        ruma::signatures::hash_and_sign_event(&self.name, &self.key, &mut object, &rules.redaction).expect("signable");
        object
    }

    /// An event of this server, as a PDU. `event` lacks hashes and signatures, nothing else.
    pub fn pdu(&self, event: &Value, rules: &RoomVersionRules) -> Pdu {
        let object = self.sign(event, rules);
        parse::check_format(&object, rules).expect("well-formed");
        parse::pdu_from_object(&object, rules, None).expect("well-formed")
    }
}

/// The fields of an event; `prev` and `auth` are the events it refers to.
pub fn event(
    rules: &RoomVersionRules,
    kind: &str,
    sender: &str,
    state_key: Option<&str>,
    content: Value,
    (prev, auth): (&[&Pdu], &[&Pdu]),
    ts: i64,
) -> Value {
    let refs = |pdus: &[&Pdu]| -> Vec<CanonicalJsonValue> {
        pdus.iter()
            .map(|pdu| parse::reference(&pdu.event_id, Some(pdu), rules).expect("hashable"))
            .collect()
    };
    let mut event = json!({
        "type": kind,
        "sender": sender,
        "content": content,
        "origin_server_ts": ts,
        "depth": prev.iter().map(|pdu| pdu.depth).max().unwrap_or(0) + 1,
        "prev_events": refs(prev),
        "auth_events": refs(auth),
    });
    if let Some(key) = state_key {
        event["state_key"] = json!(key);
    }
    if rules.event_format.require_event_id {
        let server = sender.split_once(':').map_or("", |(_, server)| server);
        let id = format!("$e{ts}x{}:{server}", kind.len() + content_len(&event["content"]));
        event["event_id"] = json!(id);
    }
    event
}

fn content_len(content: &Value) -> usize {
    content.to_string().len()
}

/// The create event of a room.
pub fn create(origin: &Origin, rules: &RoomVersionRules, version: &str, creator: &str) -> Pdu {
    let mut content = json!({ "room_version": version });
    if !rules.authorization.use_room_create_sender {
        content["creator"] = json!(creator);
    }
    let mut create = event(rules, "m.room.create", creator, Some(""), content, (&[], &[]), 1);
    if rules.event_format.require_room_create_room_id {
        create["room_id"] = json!(format!("!room:{}", origin.name));
    }
    origin.pdu(&create, rules)
}

/// State resolution with all of every state and every whole auth chain, as the specification words it: slow.
pub fn resolve_by_the_book(rules: &RoomVersionRules, states: &[StateIds], events: &EventMap) -> StateIds {
    let Some(v2) = rules.state_res.v2_rules() else {
        return resolve_state(rules, states, events).expect("version 1 always answers");
    };
    let maps: Vec<StateMap<OwnedEventId>> = states
        .iter()
        .map(|state| {
            let entries = state.iter();
            entries
                .map(|((kind, key), id)| (((&**kind).into(), key.to_string()), id.clone()))
                .collect()
        })
        .collect();
    let chains = states.iter().map(|state| {
        let mut chain = EventIdSet::new();
        let mut open: Vec<OwnedEventId> = state.values().cloned().collect();
        while let Some(event) = open.pop().map(|id| &events[&id]) {
            for id in &event.auth_events {
                if chain.insert(id.clone()) {
                    open.push(id.clone());
                }
            }
        }
        chain
    });
    let chains: Vec<_> = chains.collect();
    let subgraph = |conflicted: &StateMap<Vec<OwnedEventId>>| {
        let ends: Vec<&OwnedEventId> = conflicted.values().flatten().collect();
        Some(paths(&ends, events))
    };
    let fetch = |id: &ruma::EventId| events.get(id).cloned();
    let resolved = ruma::state_res::resolve(&rules.authorization, v2, &maps, chains, fetch, subgraph);
    let resolved = resolved.expect("every event is here");
    resolved
        .into_iter()
        .map(|((kind, key), id)| (state_key(&kind.to_string(), &key), id))
        .collect()
}

/// Every event that one of `ends` reaches and that reaches one of them.
fn paths(ends: &[&OwnedEventId], events: &EventMap) -> EventIdSet<OwnedEventId> {
    let below = |from: &OwnedEventId| {
        let mut seen = EventIdSet::new();
        let mut open = vec![from.clone()];
        while let Some(id) = open.pop() {
            open.extend(events[&id].auth_events.iter().filter(|id| !seen.contains(id)).cloned());
            seen.insert(id);
        }
        seen
    };
    let mut all = EventIdSet::new();
    ends.iter().for_each(|end| all.extend(below(end)));
    let ends_below = |id: &OwnedEventId| {
        let below = below(id);
        ends.iter().any(|end| below.contains(end))
    };
    all.into_iter().filter(ends_below).collect()
}
