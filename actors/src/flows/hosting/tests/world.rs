//! Server `x` with its hub, and server `y` with a key.

use std::sync::Arc;

use entities::server_key;
use ruma::api::client::room::create_room::v3::Request;
use ruma::signatures::PublicKeyMap;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::error::{DomainError, Outcome};
use crate::flows::hosting::{Accepted, Asked, Sent, Step, Template, make, send};
use crate::flows::tests::with_hub;
use crate::hub::Hub;
use crate::room::commands::Draft;
use crate::room::export::document::Document;
use crate::room::parse;
use crate::room::rules::rules_of;
use crate::room::snapshot::RoomSnapshot;
use ::rules::testing::Origin;

pub fn local(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:x")).expect("a user id")
}

pub fn remote(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:y")).expect("a user id")
}

pub fn y() -> &'static ServerName {
    ruma::server_name!("y")
}

pub fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).expect("serializes")
}

pub fn read(document: Outcome<Document>) -> Value {
    serde_json::from_slice(&document.expect("an answer").into_bytes()).expect("JSON")
}

/// Status and errcode of a refusal.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(outcome: Outcome<T>) -> (u16, String) {
    match outcome {
        Err(DomainError::Matrix { status, errcode, .. }) => (status, errcode.into_owned()),
        other => panic!("not refused: {other:?}"),
    }
}

#[track_caller]
pub fn is_refused<T: std::fmt::Debug>(outcome: Outcome<T>, status: u16, errcode: &str) {
    assert_eq!(refusal(outcome), (status, errcode.to_owned()));
}

pub struct World {
    pub hub: Arc<Hub>,
    pub y: Origin,
}

/// Runs a test on both databases.
pub fn with_world<F: Future<Output = ()> + Send + 'static>(test: impl Fn(World) -> F + Clone + Send + Sync + 'static) {
    with_hub(move |hub| {
        let test = test.clone();
        async move {
            let world = World::of(hub);
            world.know(&world.y).await;
            test(world).await;
        }
    });
}

impl World {
    /// A hub that knows server `y` already.
    pub fn of(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            y: Origin::new("y"),
        }
    }

    /// Server `x` has fetched the key of another one.
    pub async fn know(&self, server: &Origin) {
        let mut keys = PublicKeyMap::new();
        server.publish(&mut keys);
        let now = self.hub.env().clock.now_ms();
        for (name, keys) in keys {
            let row = |(key_id, key): (String, ruma::serde::Base64)| server_key::Model {
                server_name: name.clone(),
                key_id,
                public_key: key.as_bytes().to_vec(),
                valid_until_ts: now + 86_400_000,
                expired: false,
                fetched_ts: now,
            };
            let rows: Vec<_> = keys.into_iter().map(row).collect();
            self.hub
                .env()
                .store
                .save_server_keys(&name, None, &rows)
                .await
                .expect("stored");
        }
    }

    /// A room of `@alice:x`.
    pub async fn room(&self, version: &str, preset: &str) -> OwnedRoomId {
        let mut request = Request::new();
        request.preset = Some(preset.into());
        request.room_version = Some(version.try_into().expect("a version"));
        let alice = local("alice");
        crate::flows::create_room::create_room(&self.hub, &alice, &request)
            .await
            .expect("made")
    }

    pub async fn view(&self, room_id: &RoomId) -> Arc<RoomSnapshot> {
        self.hub.rooms().existing(room_id).await.expect("there")
    }

    pub async fn state(&self, room_id: &RoomId, kind: &str, key: &str, content: &Value) -> OwnedEventId {
        let draft = Draft::state(local("alice"), kind, key, raw(content));
        self.hub.rooms().send(room_id, draft).await.expect("allowed")
    }

    pub async fn make(&self, room_id: &RoomId, user: &UserId, step: Step) -> Outcome<Template> {
        let versions = crate::room::rules::supported();
        let asked = Asked {
            origin: y(),
            room_id,
            user,
            step,
            versions: Some(&versions),
        };
        make(&self.hub, &asked).await
    }

    /// The template, completed and signed by `y`, with its id.
    pub fn sign(&self, template: &Template) -> (OwnedEventId, Value) {
        let event = serde_json::to_value(&template.event).expect("JSON");
        self.sign_value(&event, template.room_version.as_str())
    }

    pub fn sign_value(&self, event: &Value, version: &str) -> (OwnedEventId, Value) {
        let rules = rules_of(version).expect("supported");
        let mut event = event.clone();
        event["origin"] = json!("y");
        if rules.event_format.require_event_id {
            event["event_id"] = json!(format!("$e{}:y", self.hub.env().rng.alphanumeric(8)));
        }
        let object = self.y.sign(&event, &rules);
        let id = parse::event_id_of(&object, &rules).expect("hashable");
        (id, serde_json::to_value(object).expect("JSON"))
    }

    pub async fn send(&self, room_id: &RoomId, (event_id, pdu): (&EventId, &Value), step: Step) -> Outcome<Accepted> {
        let pdu = raw(pdu);
        let sent = Sent {
            origin: y(),
            room_id,
            event_id,
            pdu: &pdu,
            step,
        };
        send(&self.hub, &sent).await
    }

    /// A whole handshake.
    pub async fn shake(&self, room_id: &RoomId, user: &UserId, step: Step) -> Outcome<Accepted> {
        let template = self.make(room_id, user, step).await?;
        let (id, pdu) = self.sign(&template);
        self.send(room_id, (&id, &pdu), step).await
    }

    /// The id of an event of a version.
    pub fn id_of(pdu: &Value, version: &str) -> OwnedEventId {
        let rules = rules_of(version).expect("supported");
        let object = serde_json::from_value(pdu.clone()).expect("canonical JSON");
        parse::event_id_of(&object, &rules).expect("hashable")
    }
}
