//! `kill -9` under load, several times: every acknowledged message, to-device message, receipt and account-data
//! write is there exactly once. `KILL_ROUNDS` sets the number of kills.

use std::{
    collections::{BTreeMap, HashSet},
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use synapse_rust_e2e::{
    both_databases,
    common::{
        client::{Answer, AnswerExt, User, encode, text},
        server::TestServer,
    },
    person::PATIENCE,
    tally::Tally,
};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

const DEFAULT_ROUNDS: u64 = 5;
/// Rooms under load; in each of them so many members write at once.
const ROOMS: usize = 3;
const WRITERS: usize = 3;
/// The whole timeline, so that a gap does not hide a message.
const FILTER: &str = r#"{"room":{"timeline":{"limit":1000}}}"#;

/// The people of one server: writers in shared rooms, and two devices that get to-device messages, of which one
/// syncs all the time and one only when everything is over.
struct Cast {
    writers: Vec<User>,
    rooms: Vec<String>,
    reader: User,
    sleeper: User,
}

impl Cast {
    async fn gather(server: &TestServer) -> Self {
        let reader = server.register("reader").await;
        let sleeper = server.register("sleeper").await;
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            writers.push(server.register(&format!("writer{number}")).await);
        }
        let mut rooms = Vec::new();
        for _ in 0..ROOMS {
            let room = reader.create_room(json!({ "preset": "public_chat" })).await;
            for writer in &writers {
                writer.join(&room).await;
            }
            rooms.push(room);
        }
        Self {
            writers,
            rooms,
            reader,
            sleeper,
        }
    }
}

/// Repeats a request until it is acknowledged: the server may be away, or be busy with its start.
/// A refusal is a bug of the server or of this test.
async fn insist(user: &User, method: &str, path: &str, body: &Value) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = user
            .client
            .try_request(method, path, Some(&user.token), Some(body))
            .await;
        match answer {
            Ok((200, body)) => return body,
            Ok((status, body)) if status < 500 => panic!("{method} {path} was refused with {status}: {body}"),
            answer => assert!(Instant::now() < deadline, "{method} {path} gets no answer: {answer:?}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Sends messages into a room and a read receipt after each; returns room, event id and body of the messages.
async fn write_messages(user: User, room: String, stop: Arc<AtomicBool>) -> Vec<(String, String, String)> {
    let mut acknowledged = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let txn_id = format!("{}-{}", user.next_txn_id(), room);
        let body = format!("{} {txn_id}", user.user_id);
        let path = format!("rooms/{}/send/m.room.message/{}", encode(&room), encode(&txn_id));
        let answer = insist(&user, "PUT", &path, &json!({ "msgtype": "m.text", "body": body })).await;
        acknowledged.push((room.clone(), text(&answer, "event_id"), body));
    }
    acknowledged
}

/// Marks the newest message of a room as read, again and again; returns the acknowledged receipts in order.
async fn write_receipts(user: User, room: String, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut acknowledged: Vec<String> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let path = format!("rooms/{}/messages?dir=b&limit=1", encode(&room));
        let newest = match user.client.try_request("GET", &path, Some(&user.token), None).await {
            Ok((200, page)) => text(&page["chunk"][0], "event_id"),
            _ => {
                sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        if acknowledged.last() == Some(&newest) {
            sleep(Duration::from_millis(5)).await;
            continue;
        }
        let path = format!("rooms/{}/receipt/m.read/{}", encode(&room), encode(&newest));
        insist(&user, "POST", &path, &json!({})).await;
        acknowledged.push(newest);
    }
    acknowledged
}

/// Sends numbered to-device messages to both devices; returns what they carry.
async fn write_to_device(user: User, cast: Arc<Cast>, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let txn_id = user.next_txn_id();
        let note = format!("{} {txn_id}", user.user_id);
        let mut messages = serde_json::Map::new();
        for device in [&cast.reader, &cast.sleeper] {
            messages.insert(
                device.user_id.clone(),
                json!({ device.device_id.clone(): { "note": note } }),
            );
        }
        let path = format!("sendToDevice/org.example.note/{}", encode(&txn_id));
        insist(&user, "PUT", &path, &json!({ "messages": messages })).await;
        acknowledged.push(note);
    }
    acknowledged
}

/// Counts upwards in one piece of account data; returns the last acknowledged number. After each kill the server
/// must hold that number or the one it was asked to write meanwhile.
async fn write_account_data(user: User, stop: Arc<AtomicBool>) -> u64 {
    let path = counter_path(&user);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let body = json!({ "number": number + 1 });
        let answer = user
            .client
            .try_request("PUT", &path, Some(&user.token), Some(&body))
            .await;
        if !matches!(answer, Ok((200, _))) {
            let held = read_after_restart(&user, &path).await["number"]
                .as_u64()
                .unwrap_or_default();
            assert!(
                (number..=number + 1).contains(&held),
                "account data is {held} after {number} was acknowledged"
            );
            insist(&user, "PUT", &path, &body).await;
        }
        number += 1;
    }
    number
}

/// A body that may be missing, as soon as the server answers again.
async fn read_after_restart(user: &User, path: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match user.client.try_request("GET", path, Some(&user.token), None).await {
            Ok((200, body)) => return body,
            Ok((404, _)) => return Value::Null,
            answer => assert!(Instant::now() < deadline, "GET {path} gets no answer: {answer:?}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

fn counter_path(user: &User) -> String {
    format!("user/{}/account_data/org.example.counter", encode(&user.user_id))
}

/// What a device has been given by /sync.
#[derive(Default)]
struct Delivered {
    messages: Vec<(String, String, String)>,
    notes: Vec<String>,
    /// Room and user of a read receipt, and the event it is on.
    receipts: BTreeMap<(String, String), String>,
}

impl Delivered {
    fn take(&mut self, sync: &Value) {
        for event in sync["to_device"]["events"].as_array().into_iter().flatten() {
            self.notes.extend(event["content"]["note"].as_str().map(str::to_owned));
        }
        for (room, joined) in sync["rooms"]["join"].as_object().into_iter().flatten() {
            for event in joined["timeline"]["events"].as_array().into_iter().flatten() {
                self.messages.extend(message(room, event));
            }
            for event in joined["ephemeral"]["events"].as_array().into_iter().flatten() {
                if event["type"] == "m.receipt" {
                    self.take_receipts(room, &event["content"]);
                }
            }
        }
    }

    fn take_receipts(&mut self, room: &str, content: &Value) {
        for (event_id, receipts) in content.as_object().into_iter().flatten() {
            for (user, _) in receipts["m.read"].as_object().into_iter().flatten() {
                self.receipts.insert((room.to_owned(), user.clone()), event_id.clone());
            }
        }
    }
}

fn message(room: &str, event: &Value) -> Option<(String, String, String)> {
    (event["type"] == "m.room.message").then(|| {
        (
            room.to_owned(),
            text(event, "event_id"),
            event["content"]["body"].as_str().unwrap_or("").to_owned(),
        )
    })
}

/// Syncs on until `stop` and nothing new comes; a token is used until it has been answered.
fn keep_syncing(user: User, stop: Arc<AtomicBool>) -> JoinHandle<Delivered> {
    tokio::spawn(async move {
        let mut delivered = Delivered::default();
        let mut since: Option<String> = None;
        loop {
            let stopping = stop.load(Ordering::Relaxed);
            let timeout = if stopping { 300 } else { 2_000 };
            let sync = sync_through(&user, since.as_deref(), timeout).await;
            delivered.take(&sync);
            let quiet = sync["rooms"]["join"].as_object().is_none_or(serde_json::Map::is_empty)
                && sync["to_device"]["events"].as_array().is_none_or(Vec::is_empty);
            since = Some(text(&sync, "next_batch"));
            if stopping && quiet {
                return delivered;
            }
        }
    })
}

/// One /sync, asked again with the same token while the server is away.
async fn sync_through(user: &User, since: Option<&str>, timeout_ms: u64) -> Value {
    let mut path = format!("sync?timeout={timeout_ms}&filter={}", encode(FILTER));
    if let Some(since) = since {
        path.push_str(&format!("&since={}", encode(since)));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer: Result<Answer, _> = user.client.try_request("GET", &path, Some(&user.token), None).await;
        match answer {
            Ok((200, sync)) => return sync,
            Ok((status, body)) if status < 500 => panic!("/sync was refused with {status}: {body}"),
            answer => assert!(Instant::now() < deadline, "/sync gets no answer: {answer:?}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// A room's whole history, oldest first.
async fn history(user: &User, room: &str) -> Vec<Value> {
    let mut events = Vec::new();
    let mut from = String::new();
    loop {
        let page = user
            .get(&format!("rooms/{}/messages?dir=b&limit=200{from}", encode(room)))
            .await
            .ok();
        events.extend(page["chunk"].as_array().expect("a page has a chunk").iter().cloned());
        match page["end"].as_str() {
            Some(end) => from = format!("&from={}", encode(end)),
            None => break,
        }
    }
    events.reverse();
    events
}

/// What the writers were told.
struct Acknowledged {
    messages: Vec<(String, String, String)>,
    notes: Vec<String>,
    /// For each writer, in its own room: the receipts in order.
    receipts: Vec<(User, String, Vec<String>)>,
    counters: Vec<(User, u64)>,
}

/// Writes of all kinds at once, while the server is killed again and again.
async fn load(server: &TestServer, cast: &Arc<Cast>, rounds: u64, tally: &mut Tally) -> Acknowledged {
    let stop = Arc::new(AtomicBool::new(false));
    let (mut messages, mut notes, mut receipts, mut counters) =
        (JoinSet::new(), JoinSet::new(), JoinSet::new(), JoinSet::new());
    for (number, writer) in cast.writers.iter().enumerate() {
        for room in &cast.rooms {
            messages.spawn(write_messages(writer.clone(), room.clone(), stop.clone()));
        }
        notes.spawn(write_to_device(writer.clone(), cast.clone(), stop.clone()));
        let (user, room, stopped) = (writer.clone(), cast.rooms[number % ROOMS].clone(), stop.clone());
        receipts.spawn(async move {
            let acknowledged = write_receipts(user.clone(), room.clone(), stopped).await;
            (user, room, acknowledged)
        });
        let (user, stopped) = (writer.clone(), stop.clone());
        counters.spawn(async move { (user.clone(), write_account_data(user, stopped).await) });
    }
    for round in 0..rounds {
        // Not always at the same moment after the start.
        sleep(Duration::from_millis(400 + round * 217 % 800)).await;
        server.kill();
        tally.kills += 1;
        tally.recovery.push(server.restart().await);
    }
    sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let acknowledged = Acknowledged {
        messages: messages.join_all().await.concat(),
        notes: notes.join_all().await.concat(),
        receipts: receipts.join_all().await,
        counters: counters.join_all().await,
    };
    // What was acknowledged last must outlive a kill as well.
    server.kill();
    tally.kills += 1;
    tally.recovery.push(server.restart().await);
    acknowledged
}

async fn check_rooms(cast: &Cast, acknowledged: &Acknowledged, delivered: &Delivered, tally: &mut Tally) {
    let mut found = Vec::new();
    let mut order = BTreeMap::new();
    for room in &cast.rooms {
        for (at, event) in history(&cast.reader, room).await.iter().enumerate() {
            found.extend(message(room, event));
            order.insert(text(event, "event_id"), at as u64);
        }
    }
    tally.compare("message in the history", &acknowledged.messages, &found);
    // The same text under two event ids is a doubled write as well.
    let distinct: HashSet<_> = found.iter().map(|(_, _, body)| body).collect();
    if distinct.len() < found.len() {
        tally.doubled += found.len() - distinct.len();
        tally
            .complaints
            .push("a message has been written under two event ids".to_owned());
    }
    tally.compare("message in /sync", &acknowledged.messages, &delivered.messages);

    let mut latest = Delivered::default();
    latest.take(&sync_through(&cast.reader, None, 0).await);
    for (user, room, receipts) in &acknowledged.receipts {
        tally.acknowledged += receipts.len();
        let place = |event_id: Option<&String>| event_id.and_then(|id| order.get(id)).copied().unwrap_or_default();
        let found = latest.receipts.get(&(room.clone(), user.user_id.clone()));
        let last = place(receipts.last());
        tally.at_least(
            &format!("place of the receipt of {} in {room}", user.user_id),
            last,
            place(found),
            last,
        );
    }
}

both_databases! {
    async fn every_acknowledged_write_survives_once(server) {
        let rounds = env::var("KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(DEFAULT_ROUNDS);
        let cast = Arc::new(Cast::gather(server).await);
        let stop = Arc::new(AtomicBool::new(false));
        let reading = keep_syncing(cast.reader.clone(), stop.clone());
        let mut tally = Tally::default();
        let acknowledged = load(server, &cast, rounds, &mut tally).await;
        stop.store(true, Ordering::Relaxed);
        let delivered = reading.await.expect("the reading task ends by itself");

        check_rooms(&cast, &acknowledged, &delivered, &mut tally).await;
        tally.compare("to-device message of the reader", &acknowledged.notes, &delivered.notes);
        let late = keep_syncing(cast.sleeper.clone(), stop).await.expect("the reading task ends by itself");
        tally.compare("to-device message of the sleeper", &acknowledged.notes, &late.notes);
        for (user, number) in &acknowledged.counters {
            let found = user.get(&counter_path(user)).await.ok();
            tally.acknowledged += usize::try_from(*number).expect("a count of requests");
            let found = found["number"].as_u64().unwrap_or_default();
            tally.at_least(&format!("account data of {}", user.user_id), *number, found, *number);
        }
        // A writer that never heard an answer repeats itself even now.
        let (room, event_id, body) = acknowledged.messages.last().expect("something was acknowledged");
        let (sender, txn_id) = body.split_once(' ').expect("a body is sender and transaction id");
        let writer = cast.writers.iter().find(|writer| writer.user_id == sender).expect("a writer sent it");
        let path = format!("rooms/{}/send/m.room.message/{}", encode(room), encode(txn_id));
        let again = insist(writer, "PUT", &path, &json!({ "msgtype": "m.text", "body": body })).await;
        assert_eq!(again["event_id"], event_id.as_str());
        tally.report("writes under kills");
    }
}
