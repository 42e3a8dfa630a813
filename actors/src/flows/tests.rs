//! Flows through a whole hub: actors, journal and database.

use std::sync::Arc;
use std::time::Duration;

use entities::testing::TestDb;
use ruma::api::client::room::create_room::v3::Request;
use ruma::{OwnedRoomId, OwnedUserId, RoomOrAliasId, UserId};
use serde_json::{Value, json};

use super::deactivate::{deactivate, resume};
use super::membership::{Change, change, join, resolve_alias};
use super::upgrade::upgrade;
use crate::clock::Clock;
use crate::env::Parts;
use crate::error::Outcome;
use crate::hub::Hub;
use crate::key::ServerKey;
use crate::rng::Rng;
use crate::room::commands::{Append, Draft, SetTyping};
use crate::room::membership::Action;
use crate::session::account::Registration;
use crate::settings::Settings;
use crate::stream::fact::FactKind;
use crate::supervisor::Arbiters;

/// Runs a test against a hub on a fresh database of each kind.
pub(super) fn with_hub<F: Future<Output = ()> + Send + 'static>(test: impl Fn(Arc<Hub>) -> F + Send + Sync + 'static) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = Arc::new(runtime.expect("a runtime"));
    let system = actix_rt::System::with_tokio_rt(|| runtime.clone());
    let test = Arc::new(test);
    let databases = runtime.block_on(async { [Some(TestDb::sqlite().await), TestDb::postgres().await] });
    for db in databases.into_iter().flatten() {
        let arbiters = system.block_on(async { Arbiters::start(&runtime, 2) });
        let store = runtime.block_on(db.store());
        let parts = Parts {
            settings: Settings::default(),
            server_name: "x".try_into().expect("a server name"),
            key: ServerKey::new(&[7; 32], "a"),
            store,
            clock: Clock::system(),
            rng: Rng::system(),
            io: runtime.handle().clone(),
        };
        let (test, handed) = (test.clone(), arbiters.clone());
        // On the io runtime, where requests are handled.
        let done = runtime.spawn(async move {
            let hub = Hub::open(parts, handed).await.expect("the database answers");
            test(hub).await;
        });
        runtime.block_on(done).expect("the test passes");
        arbiters.stop();
    }
}

fn user(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:x")).expect("a user id")
}

fn raw(value: &Value) -> Box<serde_json::value::RawValue> {
    serde_json::value::to_raw_value(value).expect("serializes")
}

async fn made(hub: &Arc<Hub>, more: Value) -> Outcome<OwnedRoomId> {
    let mut request = Request::new();
    request.preset = more["preset"].as_str().map(Into::into);
    request.room_version = more["room_version"]
        .as_str()
        .map(|version| version.try_into().expect("a version"));
    request.room_alias_name = more["room_alias_name"].as_str().map(str::to_owned);
    request.name = more["name"].as_str().map(str::to_owned);
    if more["visibility"] == "public" {
        request.visibility = ruma::api::client::room::Visibility::Public;
    }
    super::create_room::create_room(hub, &user("alice"), &request).await
}

async fn joined(hub: &Hub, name: &str, target: &str) -> Outcome<OwnedRoomId> {
    join(
        hub,
        &user(name),
        <&RoomOrAliasId>::try_from(target).expect("an id or alias"),
        &[],
        None,
    )
    .await
}

async fn state(hub: &Hub, room: &OwnedRoomId, kind: &str) -> Value {
    let room = hub.rooms().existing(room).await.expect("there");
    room.state_event(kind, "")
        .map_or(Value::Null, |event| event.pdu.content_as().expect("an object"))
}

fn text(name: &str, body: &str) -> Draft {
    Draft::message(user(name), "m.room.message", raw(&json!({ "body": body })), None)
}

fn code<T: std::fmt::Debug>(outcome: Outcome<T>) -> String {
    outcome.expect_err("a refusal").errcode().unwrap_or("none").to_owned()
}

#[test]
fn rooms_are_made_found_joined_and_left() {
    with_hub(|hub| async move {
        let wish = json!({ "preset": "public_chat", "room_alias_name": "cats", "visibility": "public" });
        let room = made(&hub, wish.clone()).await.expect("made");
        assert_eq!(code(made(&hub, wish).await), "M_ROOM_IN_USE");
        assert!(hub.env().store.is_published(room.as_str()).await.expect("readable"));
        assert_eq!(joined(&hub, "bob", "#cats:x").await.expect("public"), room);
        assert_eq!(joined(&hub, "bob", "#cats:x").await.expect("in it already"), room);
        assert_eq!(code(joined(&hub, "bob", "#dogs:x").await), "M_NOT_FOUND");
        assert_eq!(code(joined(&hub, "bob", "!nowhere:x").await), "M_NOT_FOUND");
        assert_eq!(
            code(joined(&hub, "bob", "!nowhere:y").await),
            "M_FORBIDDEN",
            "this hub talks to nobody"
        );
        assert_eq!(state(&hub, &room, "m.room.canonical_alias").await["alias"], "#cats:x");
        let feed = hub.env().feeds.open(&user("bob"), 0);
        let since = hub.env().visible();
        let sent = hub
            .rooms()
            .append(
                &room,
                Append {
                    drafts: vec![text("alice", "hi")],
                },
            )
            .await
            .expect("sent");
        let changes = feed.changes(since, hub.env().visible()).expect("covered");
        assert_eq!(
            changes.rooms.values().map(|change| change.event_pos).max(),
            Some(sent.pos)
        );
        let bob = user("bob");
        assert_eq!(code(hub.rooms().forget(&room, &bob).await), "M_UNKNOWN");
        let leave = Change {
            room_id: &room,
            sender: &bob,
            target: &bob,
            reason: Some("bye"),
        };
        change(&hub, &leave, Action::Leave).await.expect("left");
        assert_eq!(code(hub.rooms().send(&room, text("bob", "hi")).await), "M_FORBIDDEN");
        hub.rooms().forget(&room, &bob).await.expect("forgotten");
        let nid = hub.rooms().existing(&room).await.expect("there").nid.0;
        let row = hub
            .env()
            .store
            .membership(nid, "@bob:x")
            .await
            .expect("readable")
            .expect("there");
        assert!(row.forgotten && row.membership == "leave");
    });
}

#[test]
fn concurrent_writers_are_all_heard_once() {
    with_hub(|hub| async move {
        let room = made(&hub, json!({ "preset": "public_chat" })).await.expect("made");
        let mut tasks = Vec::new();
        for n in 0..120 {
            let (hub, room) = (hub.clone(), room.clone());
            tasks.push(tokio::spawn(async move {
                let txn = Some(("D".to_owned(), format!("{}", n % 100)));
                let draft = Draft::message(user("alice"), "m.room.message", raw(&json!({ "body": n })), txn);
                (n % 100, hub.rooms().send(&room, draft).await.expect("sent"))
            }));
        }
        let mut ids = std::collections::BTreeMap::new();
        for task in tasks {
            let (txn, id) = task.await.expect("no panic");
            assert_eq!(ids.entry(txn).or_insert_with(|| id.clone()), &id);
        }
        let distinct: std::collections::BTreeSet<_> = ids.values().collect();
        assert_eq!((ids.len(), distinct.len()), (100, 100));
        let view = hub.rooms().existing(&room).await.expect("there");
        assert_eq!(view.extremities.len(), 1);
        let all = hub
            .env()
            .rooms
            .timeline_range(view.nid, None, None, 500, false)
            .await
            .expect("readable");
        let heads = all
            .windows(2)
            .all(|pair| pair[1].pdu.prev_events == [pair[0].pdu.event_id.clone()]);
        assert!(heads, "one line of events");
    });
}

#[test]
fn members_of_one_room_may_join_another() {
    with_hub(|hub| async move {
        let club = made(&hub, json!({ "preset": "public_chat" })).await.expect("made");
        let inner = made(&hub, json!({ "preset": "private_chat" })).await.expect("made");
        let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
        let rules = raw(&json!({ "join_rule": "restricted", "allow": allow }));
        hub.rooms()
            .send(&inner, Draft::state(user("alice"), "m.room.join_rules", "", rules))
            .await
            .expect("sent");
        assert_eq!(code(joined(&hub, "bob", inner.as_str()).await), "M_FORBIDDEN");
        joined(&hub, "bob", club.as_str()).await.expect("public");
        joined(&hub, "bob", inner.as_str()).await.expect("a member of the club");
    });
}

#[test]
fn upgrades_carry_the_room_over() {
    with_hub(|hub| async move {
        for (from, to) in [("10", "11"), ("11", "12"), ("12", "11")] {
            let name = format!("old{from}");
            let wish = json!({
                "preset": "public_chat", "room_version": from, "room_alias_name": name, "name": "N", "visibility": "public",
            });
            let old = made(&hub, wish).await.expect("made");
            joined(&hub, "bob", old.as_str()).await.expect("public");
            let (alice, bob, eve) = (user("alice"), user("bob"), user("eve"));
            let ban = Change {
                room_id: &old,
                sender: &alice,
                target: &eve,
                reason: None,
            };
            change(&hub, &ban, Action::Ban).await.expect("banned");
            let to = to.try_into().expect("a version");
            assert_eq!(code(upgrade(&hub, &bob, &old, &to, &[]).await), "M_FORBIDDEN");
            let new = upgrade(&hub, &alice, &old, &to, &[]).await.expect("upgraded");
            assert_eq!(
                state(&hub, &old, "m.room.tombstone").await["replacement_room"],
                new.as_str()
            );
            assert_eq!(
                state(&hub, &new, "m.room.create").await["predecessor"]["room_id"],
                old.as_str()
            );
            assert_eq!(state(&hub, &new, "m.room.name").await["name"], "N");
            assert_eq!(state(&hub, &new, "m.room.join_rules").await["join_rule"], "public");
            assert_eq!(
                code(hub.rooms().send(&old, text("bob", "still here?")).await),
                "M_FORBIDDEN"
            );
            let view = hub.rooms().existing(&new).await.expect("there");
            assert_eq!(view.membership(&eve), "ban");
            let alias = format!("#{name}:x");
            let alias = <&ruma::RoomAliasId>::try_from(alias.as_str()).expect("an alias");
            assert_eq!(resolve_alias(&hub, alias).await.expect("moved"), new);
            assert_eq!(
                state(&hub, &new, "m.room.canonical_alias").await["alias"],
                alias.as_str()
            );
            assert!(hub.env().store.is_published(new.as_str()).await.expect("readable"));
            hub.rooms().send(&new, text("alice", "welcome")).await.expect("allowed");
            let levels = state(&hub, &new, "m.room.power_levels").await;
            let listed = levels["users"].get("@alice:x").is_some();
            assert_eq!(listed, to != ruma::RoomVersionId::V12, "{levels}");
        }
    });
}

#[test]
fn typing_is_told_and_ends_by_itself() {
    with_hub(|hub| async move {
        let room = made(&hub, json!({})).await.expect("made");
        let nid = hub.rooms().existing(&room).await.expect("there").nid;
        let mut facts = hub.env().journal.subscribe();
        let notice = |timeout_ms| SetTyping {
            user: user("alice"),
            timeout_ms,
        };
        hub.rooms().set_typing(&room, notice(Some(50))).await.expect("noted");
        let (users, first) = hub.rooms().typing(nid);
        assert_eq!(users, [user("alice")]);
        assert!(first.0 > 0 && first <= hub.env().visible());
        let mut told = 0;
        while told < 2 {
            let facts = tokio::time::timeout(Duration::from_secs(5), facts.recv())
                .await
                .expect("in time");
            let typing = |fact: &&crate::stream::fact::Fact| matches!(fact.kind, FactKind::Typing { .. });
            told += facts.expect("not lagging").iter().filter(typing).count();
        }
        let (users, last) = hub.rooms().typing(nid);
        assert!(users.is_empty() && last > first);
        let stranger = SetTyping {
            user: user("bob"),
            timeout_ms: Some(1),
        };
        assert_eq!(code(hub.rooms().set_typing(&room, stranger).await), "M_FORBIDDEN");
    });
}

/// Until nobody of `users` is in the room any more.
async fn all_left(hub: &Hub, room: &OwnedRoomId, users: &[&str]) {
    for _ in 0..500 {
        let view = hub.rooms().existing(room).await.expect("there");
        if users.iter().all(|name| !view.is_joined(&user(name))) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{users:?} are still in the room");
}

#[test]
fn a_deactivated_user_leaves_all_rooms() {
    with_hub(|hub| async move {
        let nobody = Registration {
            password_hash: None,
            guest: false,
            admin: false,
            displayname: None,
            device: None,
        };
        for name in ["bob", "carol"] {
            hub.sessions()
                .register(&user(name), nobody.clone())
                .await
                .expect("a new user");
        }
        let room = made(&hub, json!({ "preset": "public_chat" })).await.expect("made");
        for name in ["bob", "carol"] {
            joined(&hub, name, room.as_str()).await.expect("joined");
        }
        deactivate(&hub, &user("bob"), false).await.expect("done");
        all_left(&hub, &room, &["bob"]).await;

        // As if the server had stopped before the rooms were left.
        hub.sessions().deactivate(&user("carol"), false).await.expect("done");
        assert!(
            hub.rooms()
                .existing(&room)
                .await
                .expect("there")
                .is_joined(&user("carol"))
        );
        resume(&hub).await.expect("begun");
        all_left(&hub, &room, &["carol"]).await;
        assert!(
            hub.rooms()
                .existing(&room)
                .await
                .expect("there")
                .is_joined(&user("alice"))
        );
        assert_eq!(code(deactivate(&hub, &user("nobody"), false).await), "M_NOT_FOUND");
    });
}
