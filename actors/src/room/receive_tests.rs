//! Events of another server, on both databases.

use entities::testing::each_backend;
use ruma::{OwnedUserId, UserId};
use serde_json::{Value, json};

use super::*;
use crate::env::Env;
use crate::room::commands::{Append, Draft};
use crate::room::commit::tests::{check_stored, env, made, raw, user};
use crate::room::commit::{End, Item, run};
use crate::room::event::StoredEvent;
use crate::room::resolve::state_key;
use crate::room::testing::{Origin, event};

/// A room of server `x` in which server `y` takes part.
struct World {
    env: Arc<Env>,
    room: Arc<RoomSnapshot>,
    remote: Origin,
    clock: i64,
}

fn yves() -> OwnedUserId {
    UserId::parse("@yves:y").expect("a user id")
}

impl World {
    async fn new(env: Arc<Env>, version: &str) -> Self {
        let room = made(&env, version).await;
        let mut world = Self {
            env,
            room,
            remote: Origin::new("y"),
            clock: 10,
        };
        let join = world.member(&yves(), &json!({ "membership": "join" }));
        assert_eq!(world.ingest(&[join]).await, [Verdict::Accepted]);
        world
    }

    fn state(&self, kind: &str, key: &str) -> Option<Arc<StoredEvent>> {
        self.room.state_event(kind, key).cloned()
    }

    /// An event of `y` on top of `prev`, authorized by the current state.
    fn event_on(&mut self, prev: &[&Pdu], kind: &str, sender: &OwnedUserId, key: Option<&str>, content: &Value) -> Pdu {
        self.clock += 1;
        let rules = self.room.rules.clone();
        let auth = auth::auth_events_for(kind, sender, key, &raw(content), &rules, |kind, key| {
            self.state(kind, key)
        })
        .expect("well-formed");
        let auth: Vec<&Pdu> = auth.iter().map(|event| &*event.pdu).collect();
        let mut event = event(
            &rules,
            kind,
            sender.as_str(),
            key,
            content.clone(),
            (prev, &auth),
            self.clock,
        );
        event["room_id"] = self.room.room_id.to_string().into();
        self.remote.pdu(&event, &rules)
    }

    fn heads(&self) -> Vec<Arc<Pdu>> {
        let head = |id: &OwnedEventId| {
            self.room
                .timeline
                .iter()
                .find(|e| e.pdu.event_id == *id)
                .map(|e| e.pdu.clone())
        };
        self.room.extremities.iter().filter_map(|e| head(&e.event_id)).collect()
    }

    fn member(&mut self, sender: &OwnedUserId, content: &Value) -> Pdu {
        let heads = self.heads();
        let heads: Vec<&Pdu> = heads.iter().map(|pdu| &**pdu).collect();
        self.event_on(&heads, "m.room.member", sender, Some(sender.as_str()), content)
    }

    fn text(&mut self, prev: &[&Pdu], body: &str) -> Pdu {
        self.event_on(prev, "m.room.message", &yves(), None, &json!({ "body": body }))
    }

    async fn ingest(&mut self, pdus: &[Pdu]) -> Vec<Verdict> {
        self.ingest_with(pdus, &[]).await
    }

    async fn ingest_with(&mut self, pdus: &[Pdu], outliers: &[Pdu]) -> Vec<Verdict> {
        let ingest = Ingest {
            pdus: pdus.iter().map(Incoming::of).collect(),
            outliers: outliers.iter().map(Incoming::of).collect(),
        };
        match receive(&self.env, &self.room, ingest).await {
            Received::Settled(room, verdicts) => {
                self.room = room;
                check_stored(&self.env, &self.room).await;
                verdicts.expect("placed")
            }
            Received::InDoubt(error) => panic!("{error}"),
        }
    }

    async fn local(&mut self, draft: Draft) -> Arc<Pdu> {
        let items = vec![Item::Append(Append { drafts: vec![draft] })];
        let End::Settled(room, mut answers) = run(&self.env, &self.room, items).await else {
            panic!("in doubt");
        };
        answers.remove(0).expect("allowed");
        self.room = room;
        check_stored(&self.env, &self.room).await;
        self.room.timeline.last().expect("there").pdu.clone()
    }

    fn topic(&self) -> String {
        let event = self.room.state_event("m.room.topic", "").expect("there");
        event.pdu.content_as::<Value>().expect("an object")["topic"]
            .as_str()
            .expect("text")
            .to_owned()
    }
}

fn topic(text: &str) -> Draft {
    Draft::state(user("alice"), "m.room.topic", "", raw(&json!({ "topic": text })))
}

async fn branches(env: Arc<Env>, version: &str) {
    let mut world = World::new(env, version).await;
    assert!(world.room.is_joined(&yves()), "{version}");
    assert_eq!(world.room.joined_servers.len(), 2);
    let fork = world.heads().remove(0);
    // Both sides go on without knowing of each other.
    world.local(topic("here")).await;
    let there = world.text(&[&fork], "there");
    assert_eq!(world.ingest(std::slice::from_ref(&there)).await, [Verdict::Accepted]);
    assert_eq!(world.room.extremities.len(), 2, "{version}");
    assert_eq!(world.topic(), "here");
    assert_eq!(world.ingest(std::slice::from_ref(&there)).await, [Verdict::Duplicate]);
    // A local event joins the branches …
    let merge = world
        .local(Draft::message(user("alice"), "m.room.message", raw(&json!({})), None))
        .await;
    assert_eq!(merge.prev_events.len(), 2);
    assert_eq!(world.room.extremities.len(), 1);
    // … and one from elsewhere that follows it is the only head.
    let next = world.text(&[&merge], "next");
    assert_eq!(world.ingest(std::slice::from_ref(&next)).await, [Verdict::Accepted]);
    assert_eq!(*world.room.extremities[0].event_id, *next.event_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_grow_and_join() {
    each_backend(|db| async move {
        for version in ["1", "6", "11", "12"] {
            let seed = version.parse().expect("a number");
            branches(env(db.store().await, seed).await, version).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicting_state_is_resolved() {
    each_backend(|db| async move {
        let mut world = World::new(env(db.store().await, 2).await, "11").await;
        let mut levels: Value = world
            .state("m.room.power_levels", "")
            .expect("there")
            .pdu
            .content_as()
            .expect("an object");
        levels["users"]["@yves:y"] = 60.into();
        world
            .local(Draft::state(user("alice"), "m.room.power_levels", "", raw(&levels)))
            .await;
        let fork = world.heads().remove(0);
        let theirs = world.event_on(
            &[&fork],
            "m.room.topic",
            &yves(),
            Some(""),
            &json!({ "topic": "theirs" }),
        );
        world.local(topic("ours")).await;
        // Their clock stands at the beginning of time, so ours is the later one.
        assert_eq!(world.ingest(std::slice::from_ref(&theirs)).await, [Verdict::Accepted]);
        assert_eq!(world.room.extremities.len(), 2);
        assert_eq!(world.topic(), "ours");
        // On top of their branch alone, their topic is the state before.
        let after = world.text(&[&theirs], "after");
        assert_eq!(world.ingest(std::slice::from_ref(&after)).await, [Verdict::Accepted]);
        let stored = world.room.timeline.last().expect("there").clone();
        let before = world
            .env
            .rooms
            .state_at_group(stored.state_group.expect("has one"))
            .await
            .expect("readable");
        let seen = before.get(&state_key("m.room.topic", "")).expect("there");
        assert_eq!(seen.pdu.event_id, theirs.event_id);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_events_of_the_banned_are_not_shown() {
    each_backend(|db| async move {
        let mut world = World::new(env(db.store().await, 3).await, "11").await;
        let fork = world.heads().remove(0);
        let late = world.text(&[&fork], "before I knew");
        let ban = json!({ "membership": "ban" });
        let ban = world
            .local(Draft::state(user("alice"), "m.room.member", "@yves:y", raw(&ban)))
            .await;
        let pos = world.room.pos;
        assert_eq!(world.ingest(std::slice::from_ref(&late)).await, [Verdict::SoftFailed]);
        assert_eq!((world.room.pos, world.room.extremities.len()), (pos, 1));
        let stored = world
            .env
            .rooms
            .event_by_id(&late.event_id)
            .await
            .expect("readable")
            .expect("stored");
        assert_eq!((stored.status, stored.pos), (Status::SoftFailed, None));
        // After the ban nothing of theirs is even valid.
        let never = world.text(&[&ban], "let me in");
        assert!(matches!(
            world.ingest(std::slice::from_ref(&never)).await[0],
            Verdict::Rejected(_)
        ));
        assert_eq!(world.ingest(&[never]).await, [Verdict::Duplicate]);
        assert_eq!(world.room.joined_servers.len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_parents_are_asked_for() {
    each_backend(|db| async move {
        let mut world = World::new(env(db.store().await, 4).await, "11").await;
        let fork = world.heads().remove(0);
        let first = world.text(&[&fork], "1");
        let second = world.text(&[&first], "2");
        let missing = Verdict::Missing(vec![first.event_id.clone()]);
        assert_eq!(
            world.ingest(std::slice::from_ref(&second)).await,
            std::slice::from_ref(&missing)
        );
        // An outlier has no state, so it is no parent.
        assert_eq!(
            world
                .ingest_with(std::slice::from_ref(&second), std::slice::from_ref(&first))
                .await,
            [missing]
        );
        let stored = world
            .env
            .rooms
            .event_by_id(&first.event_id)
            .await
            .expect("readable")
            .expect("stored");
        assert_eq!(stored.status, Status::Outlier);
        // In order, the outlier finds its place and its child follows.
        assert_eq!(
            world.ingest(&[first.clone(), second]).await,
            [Verdict::Accepted, Verdict::Accepted]
        );
        let found = world
            .env
            .rooms
            .event_by_id(&first.event_id)
            .await
            .expect("readable")
            .expect("stored");
        assert_eq!((found.nid, found.status), (stored.nid, Status::Accepted));
        assert!(found.pos.is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redactions_of_others_prune() {
    each_backend(|db| async move {
        let mut world = World::new(env(db.store().await, 5).await, "11").await;
        let heads = world.heads();
        let said = world.text(&[&heads[0]], "oops");
        let unsaid = json!({ "redacts": said.event_id });
        let unsaid = world.event_on(&[&said], "m.room.redaction", &yves(), None, &unsaid);
        assert_eq!(
            world.ingest(&[said.clone(), unsaid]).await,
            [Verdict::Accepted, Verdict::Accepted]
        );
        let pruned = world
            .env
            .rooms
            .event_by_id(&said.event_id)
            .await
            .expect("readable")
            .expect("stored");
        assert_eq!(pruned.pdu.content.get(), "{}");
        let mine = world.local(topic("mine")).await;
        let not_theirs = json!({ "redacts": mine.event_id });
        let not_theirs = world.event_on(&[&mine], "m.room.redaction", &yves(), None, &not_theirs);
        assert_eq!(world.ingest(&[not_theirs]).await, [Verdict::Accepted]);
        assert_eq!(world.topic(), "mine");
    })
    .await;
}
