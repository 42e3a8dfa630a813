//! Random lives, checked at random times.

use std::collections::BTreeMap;

use ruma::api::client::filter::RoomEventFilter;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId};
use serde_json::{Value, json};

use super::client::{Client, Room};
use super::world::{World, user, with_world};
use crate::rng::Rng;
use crate::room::membership::Action;
use crate::room::read::{self, PageQuery};

/// Actions in one life.
const STEPS: u64 = 260;

struct Life {
    world: World,
    rng: Rng,
    rooms: Vec<OwnedRoomId>,
    /// Events that somebody sent, to be read and redacted.
    sent: BTreeMap<OwnedRoomId, Vec<OwnedEventId>>,
    clients: Vec<Client>,
    number: u64,
}

#[test]
fn a_client_never_misses_anything() {
    with_world(|world| async move {
        let mut world = world;
        for seed in 0..6 {
            world = live(world, seed).await;
        }
    });
}

async fn live(world: World, seed: u64) -> World {
    let me = world.register(&format!("bob{seed}"), &["A", "B", "C", "D"]).await;
    for name in ["alice", "carol"] {
        world.register(&format!("{name}{seed}"), &["A"]).await;
    }
    let threads = json!({ "room": { "timeline": { "unread_thread_notifications": true, "limit": 3 } } });
    let lazy = json!({ "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 5 } } });
    let picky = json!({ "room": { "timeline": { "types": ["m.room.message"], "limit": 4 } } });
    let clients = vec![
        Client::new(&me, "A", &json!({}), false),
        Client::new(&me, "B", &threads, true),
        Client::new(&me, "C", &lazy, false),
        Client::new(&me, "D", &picky, false),
    ];
    let mut life = Life {
        world,
        rng: Rng::seeded(seed),
        rooms: Vec::new(),
        sent: BTreeMap::new(),
        clients,
        number: seed * 10_000,
    };
    let alice = user(&format!("alice{seed}"));
    for (preset, visibility) in [
        ("public_chat", "shared"),
        ("public_chat", "joined"),
        ("private_chat", "invited"),
    ] {
        let room = life.world.create(&alice, preset, visibility).await;
        life.rooms.push(room);
    }
    let knock = json!({ "join_rule": "knock" });
    let closed = &life.rooms[2];
    life.world
        .state(&alice, closed, "m.room.join_rules", "", &knock)
        .await
        .expect("allowed");
    for step in 0..STEPS {
        life.world.tick();
        life.act(seed).await;
        if life.rng.below(4) == 0 {
            let which = usize::try_from(life.rng.below(4)).expect("small");
            life.sync(which, &format!("seed {seed}, step {step}")).await;
        }
        if life.rng.below(60) == 0 {
            life.restart(&format!("seed {seed}, step {step}")).await;
        }
    }
    for which in 0..life.clients.len() {
        life.sync(which, &format!("seed {seed}, at the end")).await;
    }
    life.world
}

impl Life {
    fn pick<T: Clone>(&self, list: &[T]) -> T {
        let at = self.rng.below(u64::try_from(list.len()).expect("small"));
        list[usize::try_from(at).expect("small")].clone()
    }

    async fn act(&mut self, seed: u64) {
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| user(&format!("{name}{seed}")));
        let room = self.pick(&self.rooms);
        let who = self.pick(&[alice.clone(), alice.clone(), carol.clone(), bob.clone()]);
        self.number += 1;
        let (world, number) = (&self.world, self.number);
        // Whatever is forbidden at the moment does not happen.
        match self.rng.below(25) {
            0..6 => self.speak(&who, &bob, &room).await,
            6 => drop(
                world
                    .state(&who, &room, "m.room.topic", "", &json!({ "topic": number.to_string() }))
                    .await,
            ),
            7 => drop(
                world
                    .state(&who, &room, "m.x", &(number % 3).to_string(), &json!({ "n": number }))
                    .await,
            ),
            8 => {
                let content = json!({ "membership": "join", "displayname": format!("{who} {number}") });
                if world.hub.rooms().joined(&room, &who).await.is_ok() {
                    drop(world.state(&who, &room, "m.room.member", who.as_str(), &content).await);
                }
            }
            9 | 10 => drop(world.join(&bob, &room).await),
            11 => drop(world.leave(&bob, &room).await),
            12 => drop(world.invite(&alice, &room, &bob).await),
            13 => {
                let action = self.pick(&[Action::Kick, Action::Ban, Action::Unban]);
                drop(world.change(&alice, &room, &bob, action).await);
            }
            14 => drop(world.join(&carol, &room).await),
            15 => drop(world.leave(&carol, &room).await),
            16..19 => self.read(&who, &room).await,
            19 => drop(
                world
                    .keep(&bob, self.pick(&[None, Some(&room)]), "m.note", &json!({ "n": number }))
                    .await,
            ),
            20 => drop(world.whisper(&alice, &bob, number).await),
            21 => {
                if let Some(target) = self.sent.get(&room).map(|sent| self.pick(sent)) {
                    drop(world.redact(&alice, &room, &target).await);
                }
            }
            22 => {
                let visibility = self.pick(&["shared", "joined", "invited", "world_readable"]);
                let content = json!({ "history_visibility": visibility });
                drop(
                    world
                        .state(&alice, &room, "m.room.history_visibility", "", &content)
                        .await,
                );
            }
            23 => drop(world.knock(&bob, &room).await),
            _ => drop(world.hub.rooms().forget(&room, &bob).await),
        }
    }

    async fn speak(&mut self, who: &OwnedUserId, to: &OwnedUserId, room: &OwnedRoomId) {
        let mut content = json!({ "msgtype": "m.text", "body": self.number.to_string() });
        if self.rng.below(5) == 0 {
            content["m.mentions"] = json!({ "user_ids": [to] });
        }
        let root = self.sent.get(room).and_then(|sent| sent.first());
        if let (Some(root), 0) = (root, self.rng.below(4)) {
            content["m.relates_to"] = json!({ "rel_type": "m.thread", "event_id": root });
        }
        if let Ok(event_id) = self.world.say(who, room, &content).await {
            self.sent.entry(room.clone()).or_default().push(event_id);
        }
    }

    async fn read(&self, who: &OwnedUserId, room: &OwnedRoomId) {
        let Some(sent) = self.sent.get(room) else { return };
        let kind = self.pick(&["m.read", "m.read", "m.read.private"]);
        let root = sent.first().map(|id| id.to_string());
        let thread = self.pick(&[None, None, Some("main"), root.as_deref()]);
        drop(self.world.read(who, room, &self.pick(sent), kind, thread).await);
    }

    async fn sync(&mut self, which: usize, when: &str) {
        let client = &self.clients[which];
        let told = client.ask(&self.world, true).await;
        let read = client.ask(&self.world, false).await;
        if !client.is_lazy() {
            assert_eq!(told, read, "with and without the feed, {when}, client {which}");
        }
        let mut client = client.clone();
        client.take(&told);
        self.check(&client, &format!("{when}, client {which}")).await;
        self.clients[which] = client;
    }

    /// Answers are the same before and after; whatever counts positions differs.
    async fn restart(&mut self, when: &str) {
        let mut before = Vec::new();
        for client in &self.clients {
            before.push((
                client.ask(&self.world, true).await,
                client.fresh().ask(&self.world, true).await,
            ));
        }
        self.world.restart().await;
        for (client, (told, first)) in self.clients.iter().zip(before) {
            if client.is_lazy() {
                continue;
            }
            let again = client.ask(&self.world, true).await;
            assert_eq!(timeless(again), timeless(told), "restarted, {when}");
            let again = client.fresh().ask(&self.world, true).await;
            assert_eq!(timeless(again), timeless(first), "restarted, {when}");
        }
    }

    /// What the client knows is what a new one is told, and the truth.
    async fn check(&self, client: &Client, when: &str) {
        let mut fresh = client.fresh();
        fresh.sync(&self.world).await;
        assert_eq!(
            client.rooms.keys().collect::<Vec<_>>(),
            fresh.rooms.keys().collect::<Vec<_>>(),
            "{when}"
        );
        assert_eq!(
            (&client.invited, &client.knocked),
            (&fresh.invited, &fresh.knocked),
            "{when}"
        );
        assert_eq!(client.data, fresh.data, "{when}");
        for (id, room) in &client.rooms {
            let room_id = RoomId::parse(id.as_str()).expect("a room id");
            let when = format!("{when}, room {id}");
            let new = &fresh.rooms[id];
            assert_eq!(room.data, new.data, "{when}");
            assert_eq!(room.receipts, new.receipts, "{when}");
            assert_eq!(
                room.summary.get("m.joined_member_count"),
                new.summary.get("m.joined_member_count"),
                "{when}"
            );
            assert_eq!(room.summary.get("m.heroes"), new.summary.get("m.heroes"), "{when}");
            assert!(
                room.timeline.ends_with(&new.timeline) || new.timeline.ends_with(&room.timeline),
                "{when}"
            );
            self.check_state(client, &room_id, room, &when).await;
            self.check_state(client, &room_id, new, &format!("{when}, anew")).await;
            self.check_timeline(client, &room_id, room, &when).await;
            self.check_timeline(client, &room_id, new, &format!("{when}, anew"))
                .await;
            if which_counts(client) {
                assert_eq!((&room.unread, &room.threads), (&new.unread, &new.threads), "{when}");
            }
        }
    }

    async fn check_state(&self, client: &Client, room_id: &RoomId, room: &Room, when: &str) {
        let truth = self.world.hub.rooms().existing(room_id).await.expect("there");
        let truth: BTreeMap<(String, String), String> = truth
            .state
            .iter()
            .map(|(key, entry)| {
                let key = (key.0.to_string(), key.1.to_string());
                (key, entry.event.event_id().to_string())
            })
            .collect();
        if !client.is_lazy() {
            assert_eq!(room.state, truth, "{when}");
            return;
        }
        for (key, id) in &truth {
            let known = room.state.get(key);
            let may_lack = key.0 == "m.room.member";
            assert!(known == Some(id) || may_lack && known.is_none(), "{key:?}, {when}");
        }
        assert!(room.state.keys().all(|key| truth.contains_key(key)), "{when}");
        let own = ("m.room.member".to_owned(), client.user.to_string());
        assert!(room.state.contains_key(&own), "own membership, {when}");
    }

    /// Since the last gap nothing is missing; before the gap `/messages` goes on.
    async fn check_timeline(&self, client: &Client, room_id: &RoomId, room: &Room, when: &str) {
        let access = read::access(self.world.env(), &client.user, room_id)
            .await
            .expect("a member");
        let filter = &client.filter.room.timeline;
        let query = PageQuery {
            from: None,
            to: None,
            backwards: true,
            limit: 500,
            filter,
        };
        let mut all = read::page(self.world.env(), &access, &query)
            .await
            .expect("a page")
            .events;
        all.reverse();
        let all: Vec<String> = all.iter().map(|event| event.event_id().to_string()).collect();
        assert!(
            all.ends_with(&room.timeline),
            "{when}: {:#?} does not end with {:#?}",
            all,
            room.timeline
        );
        let Some(from) = room.prev_batch else { return };
        let older = PageQuery {
            from: Some(from),
            filter: &RoomEventFilter::default(),
            ..query
        };
        let older = read::page(self.world.env(), &access, &older)
            .await
            .expect("a page")
            .events;
        let whole = PageQuery {
            filter: &RoomEventFilter::default(),
            ..query
        };
        let whole = read::page(self.world.env(), &access, &whole)
            .await
            .expect("a page")
            .events;
        let first = room.timeline.first();
        let at = whole
            .iter()
            .position(|event| first.is_some_and(|id| event.event_id() == id.as_str()));
        if let (Some(at), false) = (at, which_filters(client)) {
            let ids = |events: &[std::sync::Arc<crate::room::event::StoredEvent>]| -> Vec<OwnedEventId> {
                events.iter().map(|event| event.event_id().to_owned()).collect()
            };
            assert_eq!(ids(&older), ids(&whole[at + 1..]), "behind the gap, {when}");
        }
    }
}

/// Whether every event shows, so that counts are told with every event.
fn which_counts(client: &Client) -> bool {
    !which_filters(client)
}

fn which_filters(client: &Client) -> bool {
    client.filter.room.timeline.types.is_some()
}

/// An answer without tokens.
pub(super) fn timeless(mut answer: Value) -> Value {
    if let Some(answer) = answer.as_object_mut() {
        answer.remove("next_batch");
    }
    for kind in ["join", "leave"] {
        for (_, block) in answer["rooms"][kind].as_object_mut().into_iter().flatten() {
            if let Some(timeline) = block["timeline"].as_object_mut() {
                timeline.remove("prev_batch");
            }
        }
    }
    answer
}
