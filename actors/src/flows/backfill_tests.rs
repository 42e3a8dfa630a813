//! Readers go back beyond what their server has.

use std::sync::Mutex as StdMutex;

use entities::server_key;
use ruma::api::client::filter::RoomEventFilter;
use ruma::{UserId, user_id};
use serde_json::{Value, json};

use super::*;
use crate::clock::Clock;
use crate::peer::testing::{Heard, World, answer, ok, refuse, with_world};
use crate::room::commands::{Incoming, Ingest};
use crate::room::elsewhere::Elsewhere;
use crate::room::event::Pdu;

type Shared = Arc<StdMutex<Elsewhere>>;

fn sent(pdu: &Pdu) -> Value {
    serde_json::from_str(&pdu.json).expect("JSON")
}

/// What the other server says about its room.
fn told(room: &Elsewhere, heard: &Heard) -> Option<Value> {
    let (path, query) = heard.path.split_once('?').unwrap_or((&heard.path, ""));
    let query: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let all = |name: &str| -> Vec<String> {
        let named = query.iter().filter(|(key, _)| key == name);
        named.map(|(_, value)| value.clone()).collect()
    };
    let event = |id: &str| room.events.iter().find(|event| event.event_id == id);
    let kind = path.split('/').nth(4)?;
    match kind {
        "backfill" => {
            let newest = all("v")
                .iter()
                .filter_map(|id| room.events.iter().position(|e| e.event_id == *id))
                .max()?;
            let limit: usize = all("limit").first()?.parse().ok()?;
            // In pages, also where more was asked for.
            let first = (newest + 1).saturating_sub(limit.min(10));
            let pdus: Vec<Value> = room.events[first..=newest].iter().rev().map(|pdu| sent(pdu)).collect();
            Some(json!({ "origin": "y", "origin_server_ts": 1, "pdus": pdus }))
        }
        "state_ids" => {
            let event = event(all("event_id").first()?)?;
            let chain: Vec<_> = room.chain(&room.before[&event.event_id], event);
            let chain: Vec<&str> = chain.iter().map(|event| event.event_id.as_str()).collect();
            Some(json!({ "pdu_ids": room.ids_before(event).to_vec(), "auth_chain_ids": chain }))
        }
        "event" => {
            let id = path.split('/').nth(5)?;
            let id = url::form_urlencoded::parse(id.as_bytes()).next()?.0;
            Some(json!({ "origin": "y", "origin_server_ts": 1, "pdus": [sent(event(&id)?)] }))
        }
        _ => None,
    }
}

async fn joined(hub: &Arc<Hub>, world: &World, room: Elsewhere) -> Shared {
    let mut keys = ruma::signatures::PublicKeyMap::new();
    room.origin.publish(&mut keys);
    let row = |(id, key): (&String, &ruma::serde::Base64)| server_key::Model {
        server_name: "y".to_owned(),
        key_id: id.clone(),
        public_key: key.as_bytes().to_vec(),
        valid_until_ts: i64::MAX,
        expired: false,
        fetched_ts: hub.env().clock.now_ms(),
    };
    let rows: Vec<_> = keys["y"].iter().map(row).collect();
    hub.env()
        .store
        .save_server_keys("y", None, &rows)
        .await
        .expect("stored");
    let room = Arc::new(StdMutex::new(room));
    let import = room.lock().expect("not poisoned").import("@alice:x");
    let room_id = room.lock().expect("not poisoned").room_id.clone();
    hub.rooms().import(&room_id, import).await.expect("a valid room");
    let there = room.clone();
    world.wire.script(move |heard| {
        let told = told(&there.lock().expect("not poisoned"), heard);
        answer(told.map_or_else(|| refuse(404, "M_NOT_FOUND"), |body| ok(&body)))
    });
    room
}

/// Everything, read page by page from the newest event on; and how many pages it took.
async fn read_all(hub: &Arc<Hub>, room_id: &RoomId, user: &UserId, limit: usize) -> (Vec<OwnedEventId>, usize) {
    let filter = RoomEventFilter::default();
    let (mut all, mut from, mut pages) = (Vec::new(), None, 0);
    loop {
        let mut access = read::access(hub.env(), user, room_id).await.expect("a member");
        let query = PageQuery {
            from,
            to: None,
            backwards: true,
            limit,
            filter: &filter,
        };
        let page = page(hub, &mut access, &query).await.expect("readable");
        assert!(page.events.len() <= limit);
        all.extend(page.events.iter().map(|event| event.pdu.event_id.clone()));
        pages += 1;
        match page.end {
            Some(end) => from = Some(end),
            None => return (all, pages),
        }
    }
}

fn talk(room: &mut Elsewhere, count: usize) {
    for nth in 0..count {
        if nth % 12 == 5 {
            room.send(
                "m.room.topic",
                "@yves:y",
                Some(""),
                &json!({ "topic": nth.to_string() }),
            );
        } else {
            room.text("@yves:y", &nth.to_string());
        }
    }
}

fn ids(room: &Shared) -> Vec<OwnedEventId> {
    let room = room.lock().expect("not poisoned");
    room.events.iter().rev().map(|event| event.event_id.clone()).collect()
}

#[test]
fn history_before_the_join_is_fetched_page_by_page() {
    for version in ["1", "11", "12"] {
        with_world(&Clock::system(), move |world| async move {
            let hub = world.hub().await;
            let mut room = Elsewhere::new(version);
            talk(&mut room, 45);
            let room_id = room.room_id.clone();
            let room = joined(&hub, &world, room).await;
            let (all, _) = read_all(&hub, &room_id, user_id!("@alice:x"), 7).await;
            assert_eq!(all, ids(&room), "room version {version}");
            let snapshot = hub.rooms().existing(&room_id).await.expect("there");
            assert!(snapshot.gaps.is_empty());
            // Nothing more is asked, and the same is read again.
            let asked = world.wire.heard().len();
            assert_eq!(read_all(&hub, &room_id, user_id!("@alice:x"), 20).await.0, ids(&room));
            assert_eq!(world.wire.heard().len(), asked);
            // Lines of messages needed no state.
            let states = world
                .wire
                .heard()
                .iter()
                .filter(|heard| heard.path.contains("/state_ids/"))
                .count();
            let pages = world
                .wire
                .heard()
                .iter()
                .filter(|heard| heard.path.contains("/backfill/"))
                .count();
            assert!(states < pages, "{states} of {pages}");
        });
    }
}

#[test]
fn a_gap_is_filled_when_a_reader_comes_to_it() {
    with_world(&Clock::system(), |world| async move {
        let hub = world.hub().await;
        let room = Elsewhere::new("11");
        let room_id = room.room_id.clone();
        let room = joined(&hub, &world, room).await;
        let last = {
            let mut room = room.lock().expect("not poisoned");
            talk(&mut room, 33);
            let last = room.text("@yves:y", "last");
            Incoming::of(&last).with_state(room.ids_before(&last))
        };
        let outliers = {
            let room = room.lock().expect("not poisoned");
            let needed = room.chain(&room.state, &room.head);
            needed.iter().map(|event| Incoming::of(event)).collect()
        };
        let pdus = vec![last];
        let verdicts = hub
            .rooms()
            .ingest(&room_id, Ingest { pdus, outliers })
            .await
            .expect("taken");
        assert_eq!(verdicts, [Verdict::Accepted]);
        let snapshot = hub.rooms().existing(&room_id).await.expect("there");
        assert_eq!(snapshot.holes.len(), 1);
        let (all, _) = read_all(&hub, &room_id, user_id!("@alice:x"), 9).await;
        assert_eq!(all, ids(&room));
        let snapshot = hub.rooms().existing(&room_id).await.expect("there");
        assert!(snapshot.holes.is_empty() && snapshot.gaps.is_empty());
    });
}

#[test]
fn a_page_is_answered_where_nobody_helps() {
    with_world(&Clock::system(), |world| async move {
        let hub = world.hub().await;
        let mut room = Elsewhere::new("11");
        talk(&mut room, 5);
        let room_id = room.room_id.clone();
        let room = joined(&hub, &world, room).await;
        world.wire.script(|_| answer(refuse(403, "M_FORBIDDEN")));
        let (all, pages) = read_all(&hub, &room_id, user_id!("@alice:x"), 9).await;
        assert_eq!((all.len(), pages), (1, 1));
        assert_eq!(all[0], ids(&room)[0]);
        // They are left alone for a while.
        let asked = world.wire.heard().len();
        read_all(&hub, &room_id, user_id!("@alice:x"), 9).await;
        assert_eq!(world.wire.heard().len(), asked);
    });
}
