//! Whatever is committed, a snapshot read back from the database equals the one that was published.

use std::collections::HashMap;

use entities::store::Store;
use entities::testing::each_backend;
use ruma::api::client::room::create_room::v3::Request;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, UserId};
use serde_json::{Value, json};

use super::*;
use crate::clock::Clock;
use crate::env::Parts;
use crate::key::ServerKey;
use crate::rng::Rng;
use crate::room::commands::Draft;
use crate::room::create::{self, NewRoom, Options};
use crate::room::event::StoredEvent;
use crate::room::membership::{Action, Ask, Profile};
use crate::room::snapshot::StateKey;
use crate::settings::Settings;

pub(in crate::room) async fn env(store: Store, seed: u64) -> Arc<Env> {
    let parts = Parts {
        settings: Settings::default(),
        server_name: "x".try_into().expect("a server name"),
        key: ServerKey::new(&[7; 32], "a"),
        store,
        clock: Clock::system(),
        rng: Rng::seeded(seed),
        io: tokio::runtime::Handle::current(),
    };
    Env::open(parts).await.expect("the database answers")
}

pub(in crate::room) fn user(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:x")).expect("a user id")
}

pub(in crate::room) fn raw(value: &Value) -> Box<serde_json::value::RawValue> {
    serde_json::value::to_raw_value(value).expect("serializes")
}

fn new_room(env: &Env, version: &str) -> NewRoom {
    let mut request = Request::new();
    request.room_version = Some(version.try_into().expect("a version"));
    request.preset = Some("public_chat".into());
    request.room_alias_name = Some(format!("room{}", env.rng.alphanumeric(8).to_lowercase()));
    let options = Options {
        request: &request,
        creator: &user("alice"),
        profiles: &HashMap::new(),
        default_version: &env.settings.default_room_version,
        now: env.clock.now_ms(),
        origin: &origin(env),
    };
    create::build(&options).expect("buildable")
}

pub(in crate::room) async fn made(env: &Arc<Env>, version: &str) -> Arc<RoomSnapshot> {
    let new = new_room(env, version);
    create(env, new.room_id.as_str(), new.create)
        .await
        .expect("a valid room")
        .0
}

type Shape = (Value, Vec<(StateKey, i64, Event)>, Vec<Event>);
type Event = (
    i64,
    Option<i64>,
    OwnedEventId,
    String,
    Option<OwnedEventId>,
    Option<String>,
    Option<i64>,
);

fn event(event: &StoredEvent) -> Event {
    let unsigned = event.unsigned.as_deref().map(str::to_owned);
    let (pos, group) = (event.pos.map(|p| p.0), event.state_group.map(|g| g.0));
    let pdu = &event.pdu;
    assert_eq!(pdu.content.get().is_empty(), pdu.json.is_empty());
    (
        event.nid.0,
        pos,
        pdu.event_id.clone(),
        pdu.json.to_string(),
        event.redacted_by.clone(),
        unsigned,
        group,
    )
}

/// Everything a snapshot says, in a form that can be compared.
fn shape(room: &RoomSnapshot) -> Shape {
    let mut extremities: Vec<_> = room
        .extremities
        .iter()
        .map(|e| (e.nid.0, e.event_id.clone(), e.depth))
        .collect();
    extremities.sort();
    let rest = json!([
        room.nid.0,
        room.room_id,
        room.version,
        room.pos.0,
        extremities,
        room.state_group.0,
        format!("{:?}", room.state_chain),
        room.timeline_complete,
        room.local_joined.to_vec(),
        room.joined_servers.to_vec(),
        room.joined_count,
        room.invited_count,
        format!("{:?} {:?}", room.gaps, room.holes),
        room.server_members.iter().collect::<Vec<_>>(),
    ]);
    let state = room
        .state
        .iter()
        .map(|(key, e)| (key.clone(), e.key_nid.0, event(&e.event)))
        .collect();
    (rest, state, room.timeline.iter().map(|e| event(e)).collect())
}

pub(in crate::room) async fn check_stored(env: &Arc<Env>, room: &RoomSnapshot) {
    env.rooms.invalidate(&room.room_id);
    let loaded = env.rooms.view(&room.room_id).await.expect("readable").expect("there");
    assert_eq!(shape(&loaded), shape(room));
    assert!(room.early_redactions || !loaded.early_redactions);
    let state = env.rooms.state_at_group(room.state_group).await.expect("readable");
    let current: Vec<_> = room
        .state
        .iter()
        .map(|(key, e)| (key.clone(), event(&e.event)))
        .collect();
    let state: Vec<_> = state.iter().map(|(key, e)| (key.clone(), event(e))).collect();
    assert_eq!(state, current);
    let rows = env.store.current_state_events(room.nid.0).await.expect("readable");
    let mut nids: Vec<_> = rows.iter().map(|row| row.nid).collect();
    nids.sort_unstable();
    let mut expected: Vec<_> = room.state.values().map(|e| e.event.nid.0).collect();
    expected.sort_unstable();
    assert_eq!(nids, expected);
    for row in env.store.memberships_of_room(room.nid.0).await.expect("readable") {
        let member = UserId::parse(row.user_id.as_str()).expect("a user id");
        assert_eq!(row.membership, room.membership(&member));
        let event = room.state_event("m.room.member", member.as_str()).expect("there");
        assert_eq!(row.event_nid, event.nid.0);
        // Where resolution brings an older event back, the row tells when that happened.
        assert!(event.pos.is_none_or(|pos| pos.0 <= row.pos));
    }
}

/// A random thing somebody might do; most are allowed.
fn random_draft(rng: &Rng, room: &RoomSnapshot) -> Option<Draft> {
    let names = ["alice", "bob", "carol", "dave"];
    let pick = |rng: &Rng| user(names[usize::try_from(rng.below(4)).expect("small")]);
    let (sender, target) = (pick(rng), pick(rng));
    let member = |sender: &OwnedUserId, target: &OwnedUserId, action| {
        let profile = Profile {
            displayname: Some(rng.alphanumeric(3)),
            avatar_url: None,
        };
        let ask = Ask {
            sender,
            target,
            action,
            reason: None,
            profile: &profile,
        };
        membership::draft(room, &ask, "x".try_into().expect("a server name")).ok()?
    };
    match rng.below(10) {
        0 | 1 => member(&sender, &sender, Action::Join { allowed: false }),
        2 => member(&sender, &sender, Action::Leave),
        3 => member(&sender, &target, Action::Invite { is_direct: false }),
        4 => member(&user("alice"), &target, Action::Kick),
        5 => member(
            &user("alice"),
            &target,
            if rng.below(2) == 0 { Action::Ban } else { Action::Unban },
        ),
        6 => {
            let key = format!("k{}", rng.below(5));
            Some(Draft::state(
                user("alice"),
                "m.test",
                &key,
                raw(&json!({ "v": rng.below(3) })),
            ))
        }
        7 => {
            let at = usize::try_from(rng.below(room.timeline.len() as u64)).expect("small");
            let mut draft = Draft::message(sender, "m.room.redaction", raw(&json!({})), None);
            draft.redacts = Some(room.timeline[at].pdu.event_id.clone());
            Some(draft)
        }
        _ => {
            let txn = ("D".to_owned(), format!("{}", rng.below(100)));
            Some(Draft::message(
                sender,
                "m.room.message",
                raw(&json!({ "body": rng.alphanumeric(5) })),
                Some(txn),
            ))
        }
    }
}

async fn random_history(store: Store, version: &str, seed: u64) {
    let env = env(store, seed).await;
    let rng = Rng::seeded(seed);
    let mut room = made(&env, version).await;
    check_stored(&env, &room).await;
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..25 {
        let drafts = (0..1 + rng.below(12)).filter_map(|_| random_draft(&rng, &room));
        let items: Vec<_> = drafts
            .map(|draft| Item::Append(Append { drafts: vec![draft] }))
            .collect();
        let before = room.pos;
        let End::Settled(newer, answers) = run(&env, &room, items).await else {
            panic!("in doubt");
        };
        room = newer;
        for answer in answers {
            match answer {
                Ok(Answer::Appended(appended)) => {
                    assert!(appended.pos <= env.visible().0);
                    accepted += 1;
                }
                Ok(Answer::Done) => panic!("no answer to an append"),
                Err(DomainError::Matrix { status, .. }) if status < 500 => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(room.pos >= before);
        assert_eq!(shape(&env.rooms.peek(&room.room_id).expect("published")), shape(&room));
        check_stored(&env, &room).await;
    }
    assert!(accepted > 40 && refused > 0, "{accepted} accepted, {refused} refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_what_the_database_holds() {
    each_backend(|db| async move {
        for (version, seed) in [("11", 1), ("12", 2), ("1", 3), ("6", 4)] {
            random_history(db.store().await, version, seed).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_outlives_the_batch() {
    each_backend(|db| async move {
        let env = env(db.store().await, 1).await;
        let mut room = made(&env, "11").await;
        let mut ids = Vec::new();
        for _ in 0..2 {
            let txn = Some(("D".to_owned(), "t".to_owned()));
            let draft = Draft::message(user("alice"), "m.room.message", raw(&json!({ "body": "once" })), txn);
            let End::Settled(newer, mut answers) =
                run(&env, &room, vec![Item::Append(Append { drafts: vec![draft] })]).await
            else {
                panic!("in doubt");
            };
            room = newer;
            match answers.pop() {
                Some(Ok(Answer::Appended(appended))) => ids.push(appended.event_ids),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(ids[0], ids[1]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_move_forwards_only() {
    each_backend(|db| async move {
        let env = env(db.store().await, 1).await;
        let room = made(&env, "11").await;
        let receipt = |at: usize| {
            Item::Receipt(SetReceipt {
                user: user("alice"),
                kind: "m.read".to_owned(),
                thread_id: None,
                event_id: room.timeline[at].pdu.event_id.clone(),
                ts: None,
            })
        };
        let mut positions = Vec::new();
        for at in [2, 4, 3, 4] {
            assert!(
                matches!(run(&env, &room, vec![receipt(at)]).await, End::Settled(_, answers) if answers[0].is_ok())
            );
            let rows = env
                .store
                .receipts_of_user("@alice:x", &[room.nid.0])
                .await
                .expect("readable");
            assert_eq!(rows.len(), 1);
            positions.push((rows[0].event_id.clone(), rows[0].pos));
        }
        assert_ne!(positions[0], positions[1]);
        assert!(positions[1] == positions[2] && positions[2] == positions[3]);
        let stranger = SetReceipt {
            user: user("bob"),
            kind: "m.read".to_owned(),
            thread_id: None,
            event_id: room.timeline[1].pdu.event_id.clone(),
            ts: None,
        };
        let End::Settled(_, answers) = run(&env, &room, vec![Item::Receipt(stranger)]).await else {
            panic!("in doubt");
        };
        assert_eq!(
            answers[0].as_ref().expect_err("not joined").errcode(),
            Some("M_FORBIDDEN")
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alias_belongs_to_one_room() {
    each_backend(|db| async move {
        let env = env(db.store().await, 1).await;
        let first = new_room(&env, "11");
        let mut second = new_room(&env, "12");
        second.create.aliases = first.create.aliases.clone();
        let room_id: OwnedRoomId = second.room_id.clone();
        create(&env, first.room_id.as_str(), first.create)
            .await
            .expect("a valid room");
        let refused = create(&env, second.room_id.as_str(), second.create)
            .await
            .expect_err("taken");
        assert_eq!(refused.errcode(), Some("M_CONFLICT"));
        assert!(env.rooms.view(&room_id).await.expect("readable").is_none());
    })
    .await;
}
