//! What federation costs, as figures: a join to a large room, and how quickly events are taken in. Nothing here passes
//! or fails by its time.

use std::{
    collections::HashSet,
    env,
    fmt::Write as _,
    future::Future,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use synapse_rust_e2e::{
    common::{
        authority::Authority,
        client::{AnswerExt, User, encode, text, timeline},
        db::{Backend, unique},
        homeserver::{Homeserver, Ours},
    },
    gauge::Gauge,
    scenarios::{join_via, meet},
    synapse::Synapse,
};

/// How many requests the clients have open at once.
const AT_ONCE: usize = 32;
/// The longest that a join may take until everything is there.
const PATIENCE: Duration = Duration::from_secs(1800);
const VERSION: &str = "12";
const FILTER: &str = r#"{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1000}}}"#;

/// A number that the environment may name.
fn number(name: &str, otherwise: usize) -> usize {
    env::var(name).map_or(otherwise, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} must be a number"))
    })
}

/// Does these one beside the other, but not all at once.
async fn all<T>(tasks: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    stream::iter(tasks).buffer_unordered(AT_ONCE).collect().await
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// A room with this many members and events on one server; returns its id and one of its members.
async fn large_room(server: &dyn Homeserver, members: usize, events: usize, report: &mut String) -> (String, User) {
    let begin = Instant::now();
    let owner = User::register(server.client(), &unique("owner")).await;
    let options = json!({ "preset": "public_chat", "name": "Large", "room_version": VERSION });
    let room = owner.create_room(options).await;
    let users = all((1..members).map(async |_| {
        let user = User::register(server.client(), &unique("member")).await;
        user.join(&room).await;
        user
    }))
    .await;
    let joined = begin.elapsed();
    let rest = events.saturating_sub(members);
    let speakers = &users[..users.len().min(500)];
    all((0..rest).map(async |number| {
        let speaker = &speakers[number % speakers.len()];
        speaker
            .send_text(&room, &format!("message {number} of a large room"))
            .await
    }))
    .await;
    let spoken = begin.elapsed() - joined;
    let (joined, spoken) = (seconds(joined), seconds(spoken));
    writeln!(
        report,
        "made: {members} members in {joined}, then {rest} messages in {spoken}"
    )
    .expect(WRITTEN);
    (room, owner)
}

const WRITTEN: &str = "a string can be written to";

/// One join of a user of `to` to a room of `from`.
async fn join(
    name: &str,
    room: &str,
    members: usize,
    (from, hosting): (&dyn Homeserver, &mut Gauge),
    (to, joining): (&dyn Homeserver, &mut Gauge),
    report: &mut String,
) {
    let user = User::register(to.client(), &unique("guest")).await;
    hosting.reset();
    joining.reset();
    let begin = Instant::now();
    let answered = async {
        while begin.elapsed() < PATIENCE {
            // A client asks again where the answer takes longer than it waits.
            let via = [from.name()];
            let path = format!(
                "join/{}?via={}&server_name={}",
                encode(room),
                encode(via[0]),
                encode(via[0])
            );
            let asked = user
                .client
                .try_request("POST", &path, Some(&user.token), Some(&json!({})))
                .await;
            match asked {
                Ok((200, _)) => break,
                answer => eprintln!("{name}: after {} the join got {answer:?}", seconds(begin.elapsed())),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        begin.elapsed()
    };
    let usable = async {
        let mut since: Option<String> = None;
        loop {
            let sync = user.sync(since.as_deref(), 1_000, Some(FILTER)).await;
            if !timeline(&sync, room).is_empty() {
                break begin.elapsed();
            }
            assert!(begin.elapsed() < PATIENCE, "{name}: the room never came");
            since = Some(text(&sync, "next_batch"));
        }
    };
    let (answered, usable) = tokio::join!(answered, usable);
    let path = format!("rooms/{}/joined_members", encode(room));
    let complete = loop {
        let answer = user.client.try_request("GET", &path, Some(&user.token), None).await;
        let count = answer
            .ok()
            .and_then(|(_, answer)| Some(answer["joined"].as_object()?.len()));
        if count.is_some_and(|count| count > members) {
            break begin.elapsed();
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "{name}: the state was never complete: {count:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let times = [answered, usable, complete].map(seconds);
    let [answered, usable, complete] = times;
    writeln!(
        report,
        "{name}: join answered {answered}, first usable sync {usable}, full state {complete}"
    )
    .expect(WRITTEN);
    for (who, gauge) in [("joining", joining), ("hosting", hosting)] {
        let (peak, cpu) = (gauge.peak_mib(), seconds(gauge.cpu()));
        writeln!(report, "    {who}: peak RSS {peak} MiB, CPU {cpu}").expect(WRITTEN);
    }
}

/// The ids of the messages among events.
fn messages(events: &[Value]) -> impl Iterator<Item = String> {
    let messages = events.iter().filter(|event| event["type"] == "m.room.message");
    messages.map(|event| text(event, "event_id"))
}

/// The messages that a shortened timeline left out.
async fn gap(reader: &User, room: &str, from: &str, since: &str) -> Vec<String> {
    let (mut found, mut from) = (Vec::new(), from.to_owned());
    loop {
        let (room, from_token, to) = (encode(room), encode(&from), encode(since));
        let path = format!("rooms/{room}/messages?dir=b&limit=1000&from={from_token}&to={to}");
        let page = reader.get(&path).await.ok();
        let chunk = page["chunk"].as_array().cloned().unwrap_or_default();
        found.extend(messages(&chunk));
        match page["end"].as_str() {
            Some(end) if !chunk.is_empty() => from = end.to_owned(),
            _ => return found,
        }
    }
}

/// Messages of one server that another one takes in, until a client there has seen all of them.
async fn intake(
    backend: Backend,
    authority: &Authority,
    (from, sender): (&dyn Homeserver, &mut Gauge),
    rooms: usize,
    report: &mut String,
) {
    let to = Ours::start(backend, authority, "localhost").await;
    let mut receiver = Gauge::new(to.server.process_id());
    let total = number("MEASURE_PDUS", 10_000);
    let reader = User::register(to.client(), &unique("reader")).await;
    let mut shared = Vec::new();
    for _ in 0..rooms {
        let writer = User::register(from.client(), &unique("writer")).await;
        let options = json!({ "preset": "public_chat", "room_version": VERSION });
        let room = writer.create_room(options).await;
        join_via(&reader, &room, &[from.name()]).await.ok();
        meet(&room, &[&writer, &reader]).await;
        shared.push((writer, room));
    }
    let mut since = text(&reader.sync(None, 0, Some(FILTER)).await, "next_batch");
    sender.reset();
    receiver.reset();
    let begin = Instant::now();
    let send = async {
        all((0..total).map(async |number| {
            let (writer, room) = &shared[number % rooms];
            writer.send_text(room, &format!("message {number}")).await
        }))
        .await;
        begin.elapsed()
    };
    let see = async {
        let mut seen = HashSet::new();
        while seen.len() < total && begin.elapsed() < PATIENCE {
            let sync = reader.sync(Some(&since), 2_000, Some(FILTER)).await;
            for (_, room) in &shared {
                seen.extend(messages(timeline(&sync, room)));
                let news = &sync["rooms"]["join"][room]["timeline"];
                if news["limited"] == true {
                    seen.extend(gap(&reader, room, &text(news, "prev_batch"), &since).await);
                }
            }
            since = text(&sync, "next_batch");
        }
        (begin.elapsed(), seen.len())
    };
    let (sent, (took, seen)) = tokio::join!(send, see);
    let rate = seen as f64 / took.as_secs_f64();
    let per_thousand = |gauge: &Gauge| gauge.cpu().as_secs_f64() * 1000.0 / total as f64;
    writeln!(
        report,
        "intake, {backend:?}, {rooms} room(s): {seen} of {total} PDUs in {} ({rate:.0}/s), sent in {}; \
         CPU per 1000 PDUs: receiver {:.2} s, sender {:.2} s; receiver's peak RSS {} MiB",
        seconds(took),
        seconds(sent),
        per_thousand(&receiver),
        per_thousand(sender),
        receiver.peak_mib(),
    )
    .expect(WRITTEN);
}

/// All figures, as text.
pub async fn measure() -> String {
    let authority = Authority::create();
    let mut report = String::new();
    let (members, events) = (number("MEASURE_MEMBERS", 10_000), number("MEASURE_EVENTS", 50_000));
    let host = Ours::start(Backend::Postgres, &authority, "localhost").await;
    let mut hosting = Gauge::new(host.server.process_id());
    for backend in [Backend::Postgres, Backend::Sqlite] {
        for rooms in [1, 8] {
            intake(backend, &authority, (&host, &mut hosting), rooms, &mut report).await;
            println!("{report}");
        }
    }
    let (room, _) = large_room(&host, members, events, &mut report).await;
    println!("{report}");
    // All of them stay up: who comes later needs their keys to check their joins.
    let mut guests = Vec::new();
    for backend in [Backend::Postgres, Backend::Sqlite] {
        let guest = Ours::start(backend, &authority, "localhost").await;
        let mut joining = Gauge::new(guest.server.process_id());
        let name = format!("join by ours, {backend:?}");
        join(
            &name,
            &room,
            members,
            (&host, &mut hosting),
            (&guest, &mut joining),
            &mut report,
        )
        .await;
        println!("{report}");
        guests.push(guest);
    }
    if env::var_os("SYNAPSE_RUST_TEST_SYNAPSE").is_some() {
        let guest = Synapse::start(&authority, "127.0.0.1").await;
        let mut joining = Gauge::new(guest.process_id());
        join(
            "join by Synapse, SQLite",
            &room,
            members,
            (&host, &mut hosting),
            (&guest, &mut joining),
            &mut report,
        )
        .await;
    }
    report
}
