//! What must hold after a restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};

use super::load::{ALGORITHM, Cast, Kind, Ledger, Write};
use crate::common::client::{AnswerExt, User, encode, text, timeline};

/// The whole timeline, so that a gap does not hide a message.
const FILTER: &str = r#"{"room":{"timeline":{"limit":1000}}}"#;

/// A client that syncs on and on, with each token it is given.
pub struct Watch {
    user: User,
    token: String,
    /// Event ids of the hall's messages, as they came.
    messages: Vec<String>,
    hall: String,
}

impl Watch {
    pub async fn open(cast: &Cast) -> Self {
        let mut watch = Self {
            user: cast.watcher.clone(),
            token: String::new(),
            messages: Vec::new(),
            hall: cast.hall.clone(),
        };
        let first = watch.user.sync(None, 0, None).await;
        watch.token = text(&first, "next_batch");
        watch
    }

    /// Syncs until the server is gone.
    pub async fn follow(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) && self.step(200).await {}
    }

    async fn step(&mut self, timeout_ms: u64) -> bool {
        let path = format!(
            "sync?timeout={timeout_ms}&filter={}&since={}",
            encode(FILTER),
            encode(&self.token)
        );
        let answer = self
            .user
            .client
            .try_request("GET", &path, Some(&self.user.token), None)
            .await;
        let Ok((200, sync)) = answer else { return false };
        for event in timeline(&sync, &self.hall) {
            if event["type"] == "m.room.message" {
                self.messages.push(text(event, "event_id"));
            }
        }
        let next = text(&sync, "next_batch");
        assert!(position(&next) >= position(&self.token), "{next} after {}", self.token);
        self.token = next;
        true
    }

    /// After the restart: the last token still works, and what is written now is above it.
    pub async fn catch_up(&mut self, cast: &Cast) {
        let before = position(&self.token);
        cast.alice.send(&self.hall, "org.example.mark", json!({})).await;
        for _ in 0..3 {
            assert!(self.step(0).await, "/sync from before the restart");
        }
        assert!(position(&self.token) > before, "a position was used again");
    }
}

/// The stream position of a sync token.
fn position(token: &str) -> i64 {
    let digits: String = token.chars().skip(1).take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{token} is no sync token"))
}

/// Repeats what was not acknowledged and enters everything into the ledger. Claims may not be repeated: what was claimed
/// in vain is lost, as it must be.
pub async fn settle(cast: &Cast, ledger: &mut Ledger, written: Ledger) {
    let token = &cast.alice.token;
    let device = cast
        .alice
        .client
        .request("GET", "account/whoami", Some(token), None)
        .await
        .ok();
    assert_eq!(device["device_id"], cast.alice.device_id.as_str());
    for (kind, mut writes) in written {
        assert!(writes.iter().rev().skip(1).all(|write| write.answer.is_some()));
        // What had been acknowledged says the same when it is repeated.
        if let (Kind::Message, Some(last)) = (kind, writes.iter().rfind(|write| write.answer.is_some())) {
            assert_eq!(
                Some(&last.again().await["event_id"]),
                last.answer.as_ref().map(|a| &a["event_id"])
            );
        }
        if let (Kind::ToDevice, Some(last)) = (kind, writes.iter().rfind(|write| write.answer.is_some())) {
            last.again().await;
        }
        if let Some(last) = writes
            .last_mut()
            .filter(|write| write.answer.is_none() && kind != Kind::Claim)
        {
            last.repeat(kind.settled()).await;
        }
        ledger.entry(kind).or_default().extend(writes);
    }
}

pub async fn check(cast: &Cast, ledger: &Ledger, watch: &Watch) {
    let of = |kind| ledger.get(&kind).map_or(&[][..], Vec::as_slice);
    messages(cast, of(Kind::Message), watch).await;
    states(cast, of(Kind::State)).await;
    membership(cast, &cast.hall, &cast.bob, of(Kind::Membership)).await;
    membership(cast, &cast.private, &cast.dave, of(Kind::Invite)).await;
    rooms(cast, of(Kind::Room)).await;
    to_device(cast, of(Kind::ToDevice)).await;
    carols_data(cast, of(Kind::AccountData), of(Kind::Receipt)).await;
    one_time_keys(cast, of(Kind::KeyUpload), of(Kind::Claim)).await;
    registrations(cast, of(Kind::Registration)).await;
    for write in of(Kind::Logout) {
        write.user.get("account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
    }
    backup(cast, of(Kind::Backup)).await;
}

impl Cast {
    /// Whether carol's receipt is on this event.
    pub async fn receipt_on(&self, event_id: &str) -> bool {
        let sync = self.watcher.sync(None, 0, None).await;
        let ephemeral = sync["rooms"]["join"][&self.hall]["ephemeral"]["events"].as_array();
        let receipt = ephemeral
            .into_iter()
            .flatten()
            .find(|event| event["type"] == "m.receipt");
        receipt.is_some_and(|event| event["content"][event_id]["m.read"][&self.carol.user_id].is_object())
    }
}

/// A room's whole history, newest first.
pub async fn history(user: &User, room: &str) -> Vec<Value> {
    let mut events = Vec::new();
    let mut from = String::new();
    loop {
        let path = format!("rooms/{}/messages?dir=b&limit=500{from}", encode(room));
        let page = user.get(&path).await.ok();
        events.extend(page["chunk"].as_array().expect("a page has a chunk").iter().cloned());
        match page["end"].as_str() {
            Some(end) => from = format!("&from={}", encode(end)),
            None => return events,
        }
    }
}

async fn messages(cast: &Cast, writes: &[Write], watch: &Watch) {
    let history = history(&cast.alice, &cast.hall).await;
    let sent = |event: &&Value| event["type"] == "m.room.message";
    let pair = |event: &Value| (text(&event["content"], "body"), text(event, "event_id"));
    let mut found: Vec<_> = history.iter().filter(sent).map(pair).collect();
    let mut expected: Vec<_> = writes
        .iter()
        .map(|write| {
            let answer = write.answer.as_ref().expect("repeated until answered");
            (text(&write.body, "body"), text(answer, "event_id"))
        })
        .collect();
    let order: Vec<String> = found.iter().rev().map(|(_, event_id)| event_id.clone()).collect();
    assert_eq!(watch.messages, order, "what /sync gave against the history");
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "messages in the history against those acknowledged");
}

async fn states(cast: &Cast, writes: &[Write]) {
    let Some(last) = writes.last() else { return };
    let path = format!("rooms/{}/state/org.example.count/x", encode(&cast.hall));
    assert_eq!(cast.alice.get(&path).await.ok(), last.body);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for event in history(&cast.alice, &cast.hall).await {
        if event["type"] == "org.example.count" {
            *counts.entry(text(&event["content"], "count")).or_default() += 1;
        }
    }
    let expected: BTreeMap<String, usize> = writes.iter().map(|write| (text(&write.body, "count"), 1)).collect();
    assert_eq!(counts, expected, "state events");
}

/// The last request decides.
async fn membership(cast: &Cast, room: &str, user: &User, writes: &[Write]) {
    let Some(last) = writes.last() else { return };
    let expected = last.leads_to();
    let path = format!("rooms/{}/state/m.room.member/{}", encode(room), encode(&user.user_id));
    assert_eq!(
        cast.alice.get(&path).await.ok()["membership"],
        expected,
        "{}",
        user.user_id
    );
}

/// Each room is there once, with everything that belongs to it.
async fn rooms(cast: &Cast, writes: &[Write]) {
    let mut expected = BTreeSet::from([cast.hall.clone(), cast.private.clone()]);
    let listed = cast.alice.get("publicRooms?limit=1000").await.ok();
    for write in writes {
        let name = text(&write.body, "name");
        let path = format!("directory/room/{}", encode(&format!("#{name}:localhost")));
        let room = text(&cast.alice.get(&path).await.ok(), "room_id");
        if let Some(answered) = write.answer.as_ref().and_then(|answer| answer["room_id"].as_str()) {
            assert_eq!(answered, room);
        }
        let state = cast.alice.get(&format!("rooms/{}/state", encode(&room))).await.ok();
        let state = state.as_array().expect("a list of events");
        let kinds: BTreeSet<&str> = state.iter().filter_map(|event| event["type"].as_str()).collect();
        for kind in [
            "create",
            "power_levels",
            "canonical_alias",
            "join_rules",
            "history_visibility",
            "guest_access",
            "name",
        ] {
            assert!(
                kinds.contains(format!("m.room.{kind}").as_str()),
                "{name} has only {kinds:?}"
            );
        }
        let invited = |event: &Value| {
            event["state_key"] == cast.carol.user_id.as_str() && event["content"]["membership"] == "invite"
        };
        assert!(state.iter().any(invited), "{name} invites nobody");
        let shown = listed["chunk"]
            .as_array()
            .is_some_and(|all| all.iter().any(|entry| entry["room_id"] == room.as_str()));
        assert!(shown, "{name} is not in the directory");
        expected.insert(room);
    }
    let joined = cast.alice.get("joined_rooms").await.ok();
    let joined: BTreeSet<String> = joined["joined_rooms"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|room| room.as_str().map(str::to_owned))
        .collect();
    assert_eq!(joined, expected, "alice's rooms");
}

/// Carol asks with a token from before the first death.
async fn to_device(cast: &Cast, writes: &[Write]) {
    let mut notes = Vec::new();
    let mut since = cast.carols_token.clone();
    loop {
        let sync = cast.carol.sync(Some(&since), 0, None).await;
        let events = sync["to_device"]["events"].as_array().cloned().unwrap_or_default();
        notes.extend(events.iter().map(|event| text(&event["content"], "note")));
        since = text(&sync, "next_batch");
        if events.is_empty() {
            break;
        }
    }
    let all: Vec<String> = writes
        .iter()
        .filter_map(|write| {
            let message = &write.body["messages"][&cast.carol.user_id][&cast.carol.device_id];
            message["note"].as_str().map(str::to_owned)
        })
        .collect();
    // Those of former rounds were fetched by the former check.
    let fetched = cast.fetched.swap(all.len(), Ordering::Relaxed);
    assert_eq!(notes, all[fetched..], "to-device messages");
}

async fn carols_data(cast: &Cast, data: &[Write], receipts: &[Write]) {
    let user = encode(&cast.carol.user_id);
    if let Some(last) = data.last() {
        let path = format!("user/{user}/account_data/org.example.counter");
        assert_eq!(cast.carol.get(&path).await.ok(), last.body);
    }
    let Some(last) = receipts.last() else { return };
    let on = last.subject();
    assert!(cast.receipt_on(&on).await, "the receipt on {on} is not there");
}

async fn one_time_keys(cast: &Cast, uploads: &[Write], claims: &[Write]) {
    let mut claimed = BTreeSet::new();
    for answer in claims.iter().filter_map(|claim| claim.answer.as_ref()) {
        let keys = answer["one_time_keys"][&cast.dave.user_id][&cast.dave.device_id].as_object();
        for (id, _) in keys.into_iter().flatten() {
            assert!(claimed.insert(id.clone()), "{id} was handed out twice");
        }
    }
    let unheard = claims.iter().filter(|claim| claim.answer.is_none()).count();
    let counts = cast.dave.post("keys/upload", json!({})).await.ok();
    let left = counts["one_time_key_counts"][ALGORITHM].as_u64().unwrap_or_default();
    let left = usize::try_from(left).expect("a small count");
    let known = claimed.len() + left;
    assert!(
        known <= uploads.len() && known + unheard >= uploads.len(),
        "{} uploaded, {} claimed, {unheard} claims without an answer, {left} left",
        uploads.len(),
        claimed.len()
    );
}

async fn registrations(cast: &Cast, writes: &[Write]) {
    for write in writes {
        let user = User::login(&cast.alice.client, &text(&write.body, "username")).await;
        user.get("devices").await.ok();
    }
}

async fn backup(cast: &Cast, writes: &[Write]) {
    let kept = cast
        .alice
        .get(&format!("room_keys/keys?version={}", cast.backup))
        .await
        .ok();
    let sessions = kept["rooms"]["!room:localhost"]["sessions"].as_object();
    let found: BTreeSet<&str> = sessions
        .into_iter()
        .flatten()
        .filter_map(|(_, key)| key["session_data"]["name"].as_str())
        .collect();
    let expected: BTreeSet<&str> = writes
        .iter()
        .filter_map(|write| write.body["session_data"]["name"].as_str())
        .collect();
    assert_eq!(found, expected, "keys in the backup");
}
