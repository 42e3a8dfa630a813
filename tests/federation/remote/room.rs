//! Rooms as the peer inside the test sees them, and the events that it makes there.

use ruma::{
    CanonicalJsonObject, RoomVersionId,
    room_version_rules::RoomVersionRules,
    signatures::{hash_and_sign_event, reference_hash},
};
use serde_json::{Value, json};

use super::{Remote, now};
use crate::common::{
    client::{AnswerExt, encode, text},
    homeserver::Ours,
};

/// The room version of everything that the peer does.
pub const VERSION: &str = "11";

fn rules() -> RoomVersionRules {
    RoomVersionId::V11.rules().expect("the version is known")
}

fn object(event: &Value) -> CanonicalJsonObject {
    serde_json::from_value(event.clone()).expect("the event is canonical JSON")
}

/// Hashes and signs an event as this peer.
pub fn sign(remote: &Remote, event: &Value) -> Value {
    countersign(remote.name(), remote.key(), event)
}

/// An event with one more signature.
pub fn countersign(server: &str, key: &super::Key, event: &Value) -> Value {
    let mut object = object(event);
    let signed = hash_and_sign_event(server, &key.0, &mut object, &rules().redaction);
    signed.expect("the event is complete");
    serde_json::to_value(object).expect("canonical JSON is JSON")
}

pub fn event_id(event: &Value) -> String {
    let hash = reference_hash(&object(event), &rules()).expect("the event is complete");
    format!("${hash}")
}

/// A room that the peer is in, and where it stands there.
pub struct Membership<'a> {
    remote: &'a Remote,
    pub room_id: String,
    pub user_id: String,
    /// Create event, power levels, and the user's own membership.
    auth: Vec<String>,
    pub latest: Vec<String>,
    pub depth: u64,
}

impl<'a> Membership<'a> {
    /// Joins a room of another server.
    pub async fn join(remote: &'a Remote, to: &Ours, room_id: &str, localpart: &str) -> Self {
        let user_id = remote.user(localpart);
        let event = join_event(remote, to, room_id, &user_id).await;
        let id = event_id(&event);
        let path = format!("/_matrix/federation/v2/send_join/{}/{}", encode(room_id), encode(&id));
        let answer = remote.put(to, &path, &event).await.ok();
        let state = answer["state"].as_array().expect("an answer to a join has the state");
        let find = |event_type: &str| {
            let event = state.iter().find(|event| event["type"] == event_type);
            event_id(event.unwrap_or_else(|| panic!("no {event_type}: {answer}")))
        };
        Self {
            remote,
            room_id: room_id.to_owned(),
            user_id,
            auth: vec![find("m.room.create"), find("m.room.power_levels"), id.clone()],
            latest: vec![id],
            depth: event["depth"].as_u64().expect("a template has a depth"),
        }
    }

    /// An event that is neither hashed nor signed.
    pub fn draft(&self, event_type: &str, content: Value) -> Value {
        json!({
            "room_id": self.room_id,
            "sender": self.user_id,
            "type": event_type,
            "content": content,
            "origin_server_ts": now(),
            "depth": self.depth + 1,
            "prev_events": self.latest,
            "auth_events": self.auth,
        })
    }

    pub fn sign(&self, draft: &Value) -> Value {
        sign(self.remote, draft)
    }

    /// A good message.
    pub fn message(&self, body: &str) -> Value {
        let content = json!({ "msgtype": "m.text", "body": body });
        self.sign(&self.draft("m.room.message", content))
    }

    /// The next events come after this one.
    pub fn follow(&mut self, event: &Value) {
        self.latest = vec![event_id(event)];
        self.depth = event["depth"].as_u64().expect("an event has a depth");
    }
}

/// The signed join of a user, from the template that the other server gives.
pub async fn join_event(remote: &Remote, to: &Ours, room_id: &str, user_id: &str) -> Value {
    let (room, user) = (encode(room_id), encode(user_id));
    let path = format!("/_matrix/federation/v1/make_join/{room}/{user}?ver={VERSION}");
    let template = remote.get(to, &path).await.ok();
    assert_eq!(text(&template, "room_version"), VERSION);
    let mut event = template["event"].clone();
    event["origin_server_ts"] = json!(now());
    sign(remote, &event)
}

/// A room that the peer has made itself.
pub struct Hosted {
    pub room_id: String,
    /// Create event, the creator's join, power levels, join rules.
    pub state: Vec<Value>,
}

impl Hosted {
    pub fn new(remote: &Remote, name: &str) -> Self {
        let (room_id, creator) = (format!("!{name}:{}", remote.name()), remote.user("creator"));
        let mut state = Vec::<Value>::new();
        let contents = [
            ("m.room.create", "", json!({ "room_version": VERSION })),
            ("m.room.member", creator.as_str(), json!({ "membership": "join" })),
            ("m.room.power_levels", "", json!({ "users": { &creator: 100 } })),
            ("m.room.join_rules", "", json!({ "join_rule": "public" })),
        ];
        for (event_type, state_key, content) in contents {
            let ids: Vec<String> = state.iter().take(3).map(event_id).collect();
            let draft = json!({
                "room_id": room_id,
                "sender": creator,
                "type": event_type,
                "state_key": state_key,
                "content": content,
                "origin_server_ts": now(),
                "depth": state.len() + 1,
                "prev_events": state.last().map(event_id).into_iter().collect::<Vec<_>>(),
                "auth_events": ids,
            });
            state.push(sign(remote, &draft));
        }
        Self { room_id, state }
    }

    /// The answer to `make_join`.
    pub fn template(&self, user_id: &str) -> Value {
        let auth: Vec<String> = [0, 2, 3]
            .into_iter()
            .map(|at: usize| event_id(&self.state[at]))
            .collect();
        json!({
            "room_version": VERSION,
            "event": {
                "room_id": self.room_id,
                "sender": user_id,
                "state_key": user_id,
                "type": "m.room.member",
                "content": { "membership": "join" },
                "origin_server_ts": now(),
                "depth": self.state.len() + 1,
                "prev_events": [event_id(&self.state[3])],
                "auth_events": auth,
            },
        })
    }

    /// The answer to `send_join`; `event` is what was sent.
    pub fn welcome(&self, remote_name: &str, event: &Value) -> Value {
        json!({
            "origin": remote_name,
            "state": self.state,
            "auth_chain": self.state,
            "event": event,
            "members_omitted": false,
        })
    }
}
