//! A client: what it knows after a number of answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use entities::ids::StreamPos;
use ruma::api::client::filter::FilterDefinition;
use ruma::{OwnedDeviceId, OwnedUserId};
use serde_json::Value;

use super::world::World;
use crate::session::load;
use crate::session::sync::{SyncArgs, compute};
use crate::stream::feed::Feeds;
use crate::stream::token::{SyncToken, Token};

/// What a client knows of a room it is in.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// Event ids by type and state key.
    pub state: BTreeMap<(String, String), String>,
    /// Event ids since the last gap.
    pub timeline: Vec<String>,
    /// Where the last gap ends.
    pub prev_batch: Option<Token>,
    pub unread: Value,
    pub threads: Value,
    /// Event ids of receipts without a thread, by user and type.
    pub receipts: BTreeMap<(String, String), String>,
    pub summary: BTreeMap<String, Value>,
    pub data: BTreeMap<String, Value>,
}

/// A client of one device.
#[derive(Clone, Debug)]
pub struct Client {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    pub filter: Arc<FilterDefinition>,
    pub state_after: bool,
    pub since: Option<SyncToken>,
    pub rooms: BTreeMap<String, Room>,
    pub left: BTreeMap<String, Room>,
    pub invited: BTreeSet<String>,
    pub knocked: BTreeSet<String>,
    pub data: BTreeMap<String, Value>,
    pub messages: Vec<u64>,
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value, key: &str) -> String {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {value}"))
        .to_owned()
}

impl Client {
    pub fn new(user: &OwnedUserId, device: &str, filter: &Value, state_after: bool) -> Self {
        Self {
            user: user.clone(),
            device: device.into(),
            filter: serde_json::from_value(filter.clone()).expect("a filter"),
            state_after,
            since: None,
            rooms: BTreeMap::new(),
            left: BTreeMap::new(),
            invited: BTreeSet::new(),
            knocked: BTreeSet::new(),
            data: BTreeMap::new(),
            messages: Vec::new(),
        }
    }

    /// The same client before it has ever synced.
    pub fn fresh(&self) -> Self {
        Self {
            since: None,
            rooms: BTreeMap::new(),
            left: BTreeMap::new(),
            invited: BTreeSet::new(),
            knocked: BTreeSet::new(),
            data: BTreeMap::new(),
            messages: Vec::new(),
            ..self.clone()
        }
    }

    pub fn is_lazy(&self) -> bool {
        !self.filter.room.state.lazy_load_options.is_disabled()
    }

    fn args(&self) -> SyncArgs {
        SyncArgs {
            user: self.user.clone(),
            device: self.device.clone(),
            since: self.since.map(|token| token.pos),
            inbox_since: self.since.map_or(StreamPos(0), |token| token.inbox),
            filter: self.filter.clone(),
            full_state: false,
            use_state_after: self.state_after,
        }
    }

    /// An answer. Without the feed everything comes from the database.
    pub async fn ask(&self, world: &World, with_feed: bool) -> Value {
        let env = world.env();
        let forgetful = Feeds::new(env.visible());
        let feeds = if with_feed { &env.feeds } else { &forgetful };
        let feed = feeds.open(&self.user, 0);
        let upto = env.visible();
        let view = load::view(env, &self.user).await.expect("a read").expect("a user");
        let response = compute(env, &self.args(), &view, &feed, upto).await.expect("an answer");
        serde_json::to_value(response).expect("serializes")
    }

    /// Asks and takes the answer in.
    pub async fn sync(&mut self, world: &World) -> Value {
        let answer = self.ask(world, true).await;
        self.take(&answer);
        answer
    }

    pub fn take(&mut self, answer: &Value) {
        self.since = Some(SyncToken::parse(&text(answer, "next_batch")).expect("a token"));
        let rooms = &answer["rooms"];
        for (id, block) in rooms["leave"].as_object().into_iter().flatten() {
            self.invited.remove(id);
            self.knocked.remove(id);
            let mut room = self.rooms.remove(id).unwrap_or_default();
            room.take(block, self.state_after, id);
            self.left.insert(id.clone(), room);
        }
        for (id, block) in rooms["join"].as_object().into_iter().flatten() {
            self.invited.remove(id);
            self.knocked.remove(id);
            self.left.remove(id);
            self.rooms
                .entry(id.clone())
                .or_default()
                .take(block, self.state_after, id);
        }
        for (kind, invited) in [("invite", true), ("knock", false)] {
            for id in rooms[kind].as_object().into_iter().flatten().map(|(id, _)| id) {
                self.rooms.remove(id);
                self.left.remove(id);
                let (here, there) = match invited {
                    true => (&mut self.invited, &mut self.knocked),
                    false => (&mut self.knocked, &mut self.invited),
                };
                here.insert(id.clone());
                there.remove(id);
            }
        }
        for event in list(&answer["account_data"]["events"]) {
            self.data.insert(text(event, "type"), event["content"].clone());
        }
        for event in list(&answer["to_device"]["events"]) {
            self.messages
                .push(event["content"]["number"].as_u64().expect("a number"));
        }
    }
}

impl Room {
    fn take(&mut self, block: &Value, state_after: bool, id: &str) {
        let timeline = &block["timeline"];
        if timeline["limited"] == true {
            self.timeline.clear();
        }
        if self.timeline.is_empty() {
            self.prev_batch = Some(Token::parse(&text(timeline, "prev_batch")).expect("a token"));
        }
        assert_eq!(block.get("state").is_none(), state_after, "one of both in {id}");
        assert_eq!(block.get("state_after").is_some(), state_after, "one of both in {id}");
        for event in list(&block["state"]["events"]) {
            self.set(event);
        }
        for event in list(&timeline["events"]) {
            let event_id = text(event, "event_id");
            assert!(!self.timeline.contains(&event_id), "{event} came twice in {id}");
            self.timeline.push(event_id);
            if !state_after && event.get("state_key").is_some() {
                self.set(event);
            }
        }
        for event in list(&block["state_after"]["events"]) {
            self.set(event);
        }
        if let Some(unread) = block.get("unread_notifications") {
            self.unread = unread.clone();
            self.threads = block["unread_thread_notifications"].clone();
        }
        for (key, value) in block["summary"].as_object().into_iter().flatten() {
            self.summary.insert(key.clone(), value.clone());
        }
        for event in list(&block["account_data"]["events"]) {
            self.data.insert(text(event, "type"), event["content"].clone());
        }
        for event in list(&block["ephemeral"]["events"]) {
            if event["type"] == "m.receipt" {
                self.take_receipts(&event["content"]);
            }
        }
    }

    fn take_receipts(&mut self, content: &Value) {
        for (event_id, types) in content.as_object().into_iter().flatten() {
            for (kind, users) in types.as_object().into_iter().flatten() {
                for (user, receipt) in users.as_object().into_iter().flatten() {
                    if receipt.get("thread_id").is_none() {
                        self.receipts.insert((user.clone(), kind.clone()), event_id.clone());
                    }
                }
            }
        }
    }

    fn set(&mut self, event: &Value) {
        let key = (text(event, "type"), text(event, "state_key"));
        self.state.insert(key, text(event, "event_id"));
    }
}
