//! What two servers must do together. Each scenario runs between two processes of ours (`tests/federation`) and between
//! ours and another homeserver, in both directions (`tests/e2e/tests/foreign`).

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::common::client::{Answer, AnswerExt, User, encode, text, timeline};

pub mod convergence;
pub mod directory;
pub mod ephemeral;
pub mod history;
pub mod invites;
pub mod joining;
pub mod keys;
pub mod media;
pub mod messages;
pub mod moderation;
pub mod outage;
pub mod signing;
pub mod spaces;

/// How long anything that must come may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(45);
/// Long enough that nothing of a test's rooms is left out of a timeline.
const FILTER: &str = r#"{"room":{"timeline":{"limit":200}}}"#;

/// Hands the list of all scenarios to another macro, as `module { (name first-version how) .. } ..`.
///
/// `first-version` is the oldest room version that has what is needed; `how` says whether the room version makes a
/// difference (`each`) or not (`once`), and whether a server goes down meanwhile (`alone`). `each_to_ours` is `each`
/// for what Synapse cannot do as the server of those who come, and `ours` is what it cannot do on either side.
#[macro_export]
macro_rules! every_scenario {
    ($take:ident) => {
        $take! {
            joining {
                (by_alias 1 each)
                (by_id 1 each)
                (leave_and_return 1 each)
                (knock 7 each)
                (knock_withdrawn 7 each_to_ours)
                (knock_denied 7 ours)
                (restricted 8 each)
                (restricted_through_the_other 8 each)
                (guests 1 ours)
            }
            invites {
                (accepted 1 each)
                (rejected 1 each)
                (retracted 1 each)
                (direct_message 1 once)
            }
            messages {
                (both_ways 1 each)
                (redactions 1 each)
                (relations 1 once)
            }
            moderation {
                (kick 1 each)
                (ban_and_unban 1 each)
                (power_levels 1 each)
                (acl 1 each)
                (upgrade 1 each)
            }
            convergence {
                (simultaneous_messages 1 each)
                (simultaneous_state 1 each)
                (bans_beat_what_they_race_with 1 each)
            }
            history {
                (for_a_late_joiner 1 each)
                (hidden_from_a_late_joiner 1 each)
                (by_time 1 once)
            }
            ephemeral {
                (typing 1 once)
                (receipts 1 once)
                (presence 1 once)
            }
            keys {
                (device_lists 1 once)
                (claims 1 once)
                (to_device 1 once)
                (cross_signing 1 once)
            }
            media {
                (download 1 once)
                (thumbnail 1 once)
            }
            directory {
                (profiles 1 once)
                (aliases 1 once)
                (public_rooms 1 once)
            }
            spaces {
                (hierarchy 1 each)
            }
            outage {
                (of_the_other 1 alone)
                (to_device 1 alone)
                (device_lists 1 alone)
                (receiver_killed 1 alone)
                (sender_killed 1 alone)
            }
        }
    };
}

/// Looks again and again until there is something; fails the test when patience runs out.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    eventually_within(PATIENCE, what, look).await
}

/// As [`eventually`], with another patience. An error says what was found instead.
pub async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(last) => assert!(Instant::now() < deadline, "did not come: {what}; last: {last}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What one device learns through /sync from the moment of [`Feed::open`] on.
pub struct Feed {
    user: User,
    since: String,
}

impl Feed {
    pub async fn open(user: &User) -> Self {
        let first = user.sync(None, 0, Some(FILTER)).await;
        Self {
            user: user.clone(),
            since: text(&first, "next_batch"),
        }
    }

    /// Syncs on until an answer has what is looked for.
    pub async fn until<T>(&mut self, what: &str, mut look: impl FnMut(&Value) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.user.sync(Some(&self.since), 2_000, Some(FILTER)).await;
            self.since = text(&answer, "next_batch");
            if let Some(found) = look(&answer) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "{} did not get: {what}; last: {answer:#}",
                self.user.user_id
            );
        }
    }
}

/// Waits until an event is in the timeline of a room that the user is in; returns it.
pub async fn sees(user: &User, room: &str, event_id: &str) -> Value {
    eventually(&format!("{event_id} at {}", user.user_id), async || {
        let answer = user.sync(None, 0, Some(FILTER)).await;
        let found = timeline(&answer, room)
            .iter()
            .find(|event| event["event_id"] == event_id);
        found.cloned().ok_or_else(|| format!("{:#}", answer["rooms"]))
    })
    .await
}

/// Everybody says something, and everybody else sees it, the same event everywhere.
pub async fn converse(room: &str, people: &[&User]) {
    for speaker in people {
        let body = format!("{} says hello", speaker.user_id);
        let event_id = speaker.send_text(room, &body).await;
        for listener in people {
            let event = sees(listener, room, &event_id).await;
            assert_eq!(event["content"]["body"], body.as_str(), "{event}");
            assert_eq!(event["sender"], speaker.user_id.as_str(), "{event}");
        }
    }
}

/// Waits until each of these users sees exactly these users in the room.
pub async fn meet(room: &str, people: &[&User]) {
    let expected: BTreeSet<&str> = people.iter().map(|user| user.user_id.as_str()).collect();
    for user in people {
        eventually(&format!("the members of {room} at {}", user.user_id), async || {
            let (status, answer) = user.get(&format!("rooms/{}/joined_members", encode(room))).await;
            let joined = answer["joined"]
                .as_object()
                .map(|all| all.keys().map(String::as_str).collect());
            if status == 200 && joined == Some(expected.clone()) {
                return Ok(());
            }
            Err(format!("{status} {answer}"))
        })
        .await;
    }
}

/// `servers` are those to ask; the target is a room id or alias.
pub async fn join_via(user: &User, target: &str, servers: &[&str]) -> Answer {
    go(user, "join", target, servers).await
}

pub async fn knock_via(user: &User, target: &str, servers: &[&str]) -> Answer {
    go(user, "knock", target, servers).await
}

async fn go(user: &User, how: &str, target: &str, servers: &[&str]) -> Answer {
    // Older servers know the second name only.
    let names = servers.iter().flat_map(|server| {
        let server = encode(server);
        [format!("via={server}"), format!("server_name={server}")]
    });
    let query: Vec<String> = names.collect();
    user.post(&format!("{how}/{}?{}", encode(target), query.join("&")), json!({}))
        .await
}

/// `invite`, `kick`, `ban` or `unban`.
pub async fn act(user: &User, room: &str, action: &str, target: &User) -> Answer {
    let path = format!("rooms/{}/{action}", encode(room));
    user.post(&path, json!({ "user_id": target.user_id })).await
}

/// The content of a state event as the user's server has it.
pub async fn state(user: &User, room: &str, event_type: &str, state_key: &str) -> Answer {
    let path = format!("rooms/{}/state/{event_type}/{}", encode(room), encode(state_key));
    user.get(&path).await
}

/// Waits until the content of a state event has a value at a JSON pointer.
pub async fn has_state(user: &User, room: &str, (event_type, state_key): (&str, &str), pointer: &str, value: Value) {
    let what = format!("{event_type} {state_key:?} with {value} at {}", user.user_id);
    eventually(&what, async || {
        let (status, content) = state(user, room, event_type, state_key).await;
        let found = status == 200 && content.pointer(pointer) == Some(&value);
        if found {
            Ok(())
        } else {
            Err(format!("{status} {content}"))
        }
    })
    .await;
}

/// Waits until the reader's server says that the user's membership is this one.
pub async fn has_membership(reader: &User, room: &str, user: &User, membership: &str) {
    let key = ("m.room.member", user.user_id.as_str());
    has_state(reader, room, key, "/membership", json!(membership)).await;
}

/// A room with a user of each server, made here and joined from there by its id.
pub async fn shared_room(town: &crate::common::homeserver::Town) -> (User, User, String) {
    let (alice, bob) = town.people().await;
    let room = town.room(&alice, json!({ "preset": "public_chat" })).await;
    join_via(&bob, &room, &[town.here.name()]).await.ok();
    meet(&room, &[&alice, &bob]).await;
    (alice, bob, room)
}

/// The events of a room from the newest that the user may see back to the first.
pub async fn pages(user: &User, room: &str) -> Vec<Value> {
    let mut events = Vec::new();
    let mut from = String::new();
    loop {
        let path = format!("rooms/{}/messages?dir=b&limit=50{from}", encode(room));
        let page = user.get(&path).await.ok();
        let chunk = page["chunk"].as_array().cloned().unwrap_or_default();
        events.extend(chunk);
        assert!(events.len() < 10_000, "the pages of {room} have no end");
        match page["end"].as_str() {
            Some(end) => from = format!("&from={}", encode(end)),
            None => return events,
        }
    }
}

/// The texts of a room's messages in the order of the user's server.
pub async fn texts(user: &User, room: &str) -> Vec<String> {
    let events = pages(user, room).await;
    let messages = events.iter().rev().filter(|event| event["type"] == "m.room.message");
    let bodies = messages.filter_map(|event| event["content"]["body"].as_str());
    bodies.map(str::to_owned).collect()
}

/// The entries of a list, as text.
pub fn strings(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}
