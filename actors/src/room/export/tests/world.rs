//! A room of server `x` in which server `y` takes part.

use std::sync::Arc;

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, ServerName, UserId, server_name};
use serde_json::{Value, json};

use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::room::auth;
use crate::room::commands::{Append, Draft, Incoming, Ingest, Verdict};
use crate::room::commit::tests::{made, raw, user};
use crate::room::commit::{End, Item, run};
use crate::room::event::Pdu;
use crate::room::export::document::Document;
use crate::room::receive::{Received, receive};
use crate::room::snapshot::RoomSnapshot;
use crate::room::testing::{Origin, event};

pub fn y() -> &'static ServerName {
    server_name!("y")
}

pub fn yves() -> OwnedUserId {
    UserId::parse("@yves:y").expect("a user id")
}

pub struct World {
    pub env: Arc<Env>,
    pub room_id: OwnedRoomId,
    remote: Origin,
    clock: i64,
}

impl World {
    /// A public room that nobody of `y` is in yet.
    pub async fn new(env: Arc<Env>, version: &str) -> Self {
        let room = made(&env, version).await;
        Self {
            env,
            room_id: room.room_id.clone(),
            remote: Origin::new("y"),
            clock: 10,
        }
    }

    /// … that `@yves:y` has joined.
    pub async fn joined(env: Arc<Env>, version: &str) -> Self {
        let mut world = Self::new(env, version).await;
        world.join().await;
        world
    }

    pub async fn room(&self) -> Arc<RoomSnapshot> {
        let room = self.env.rooms.view(&self.room_id).await.expect("the database answers");
        room.expect("there")
    }

    async fn head(&self) -> Vec<Arc<Pdu>> {
        let room = self.room().await;
        let ids: Vec<_> = room.extremities.iter().map(|e| e.event_id.clone()).collect();
        let events = self.env.rooms.events_by_id(&ids).await.expect("the database answers");
        events.into_values().map(|event| event.pdu.clone()).collect()
    }

    /// An event of `y` on top of `prev`, authorized by the current state.
    pub async fn event_on(&mut self, prev: &[&Pdu], kind: &str, key: Option<&str>, content: Value) -> Pdu {
        self.clock += 1;
        let (room, sender) = (self.room().await, yves());
        let state = |kind: &str, key: &str| room.state_event(kind, key).cloned();
        let auth = auth::auth_events_for(kind, &sender, key, &raw(&content), &room.rules, state).expect("well-formed");
        let auth: Vec<&Pdu> = auth.iter().map(|event| &*event.pdu).collect();
        let parts = (prev, auth.as_slice());
        let mut event = event(&room.rules, kind, sender.as_str(), key, content, parts, self.clock);
        event["room_id"] = self.room_id.to_string().into();
        self.remote.pdu(&event, &room.rules)
    }

    /// `@yves:y` sends an event on top of everything.
    pub async fn remote(&mut self, kind: &str, key: Option<&str>, content: Value) -> Arc<Pdu> {
        let head = self.head().await;
        let head: Vec<&Pdu> = head.iter().map(|pdu| &**pdu).collect();
        let pdu = self.event_on(&head, kind, key, content).await;
        assert_eq!(self.ingest(std::slice::from_ref(&pdu)).await, [Verdict::Accepted]);
        Arc::new(pdu)
    }

    pub async fn join(&mut self) -> Arc<Pdu> {
        self.remote("m.room.member", Some("@yves:y"), json!({ "membership": "join" }))
            .await
    }

    pub async fn ingest(&self, pdus: &[Pdu]) -> Vec<Verdict> {
        let ingest = Ingest {
            pdus: pdus.iter().map(Incoming::of).collect(),
            outliers: Vec::new(),
        };
        match receive(&self.env, &self.room().await, ingest).await {
            Received::Settled(_, verdicts) => verdicts.expect("placed"),
            Received::InDoubt(error) => panic!("{error}"),
        }
    }

    /// A local user sends an event.
    pub async fn local(&self, draft: Draft) -> Arc<Pdu> {
        let items = vec![Item::Append(Append { drafts: vec![draft] })];
        let End::Settled(room, mut answers) = run(&self.env, &self.room().await, items).await else {
            panic!("in doubt");
        };
        answers.remove(0).expect("allowed");
        room.timeline.last().expect("there").pdu.clone()
    }

    pub async fn text(&self, body: &str) -> Arc<Pdu> {
        let content = raw(&json!({ "msgtype": "m.text", "body": body }));
        self.local(Draft::message(user("alice"), "m.room.message", content, None))
            .await
    }

    pub async fn state(&self, kind: &str, content: Value) -> Arc<Pdu> {
        self.local(Draft::state(user("alice"), kind, "", raw(&content))).await
    }

    /// The id that a PDU of this room has.
    pub async fn id_of(&self, pdu: &Value) -> OwnedEventId {
        let rules = self.room().await.rules.clone();
        let object = serde_json::from_value(pdu.clone()).expect("canonical JSON");
        crate::room::parse::event_id_of(&object, &rules).expect("hashable")
    }
}

/// What a document says.
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

pub fn ids(pdus: &[&Arc<Pdu>]) -> Vec<OwnedEventId> {
    pdus.iter().map(|pdu| pdu.event_id.clone()).collect()
}

pub fn unknown() -> &'static EventId {
    ruma::event_id!("$unknown")
}
