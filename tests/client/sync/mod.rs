//! `/sync`.

mod answers;
mod memberships;
mod polls;
mod restarts;

use serde_json::{Value, json};

use crate::common::client::{AnswerExt, User, encode, text};
use crate::common::server::TestServer;

/// Alice and Bob in a room that Alice made, and where each of them stands.
async fn pair(server: &TestServer) -> (User, User, String) {
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice
        .create_room(json!({ "preset": "public_chat", "name": "Kitchen" }))
        .await;
    bob.join(&room).await;
    (alice, bob, room)
}

/// `query` as it stands in the address. Nobody's presence changes by it: that would be news to others.
async fn ask(user: &User, query: &str) -> Value {
    user.get(&format!("sync?set_presence=offline&{query}")).await.ok()
}

/// A sync that does not wait; `query` begins with `&` if there is any.
async fn since(user: &User, token: &str, query: &str) -> Value {
    ask(user, &format!("since={}{query}", encode(token))).await
}

fn filter(filter: &Value) -> String {
    format!("&filter={}", encode(&filter.to_string()))
}

async fn now(user: &User) -> String {
    next(&ask(user, "timeout=0").await)
}

fn next(sync: &Value) -> String {
    text(sync, "next_batch")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn joined<'a>(sync: &'a Value, room: &str) -> &'a Value {
    &sync["rooms"]["join"][room]
}

fn kinds(events: &Value) -> Vec<&str> {
    list(&events["events"])
        .iter()
        .map(|event| event["type"].as_str().unwrap_or_default())
        .collect()
}

fn bodies(block: &Value) -> Vec<&str> {
    let events = list(&block["timeline"]["events"]);
    events
        .iter()
        .filter_map(|event| event["content"]["body"].as_str())
        .collect()
}
