//! Rooms of other servers that local users join, on both databases.

use entities::testing::each_backend;
use ruma::UserId;
use serde_json::json;

use super::super::commands::{Incoming, Ingest, Verdict};
use super::super::commit::tests::{check_stored, env, user};
use super::super::elsewhere::Elsewhere;
use super::super::event::Pdu;
use super::super::receive::{Received, receive};
use super::super::snapshot::Gap;
use super::*;
use crate::env::Env;

fn empty(room: &Elsewhere) -> Arc<RoomSnapshot> {
    let version = RoomVersionId::try_from(room.version.as_str()).expect("a version");
    Arc::new(plan::empty_room(
        RoomNid(0),
        room.room_id.clone(),
        version,
        room.rules.clone(),
    ))
}

async fn take_over(env: &Arc<Env>, standing: &Arc<RoomSnapshot>, command: Import) -> Result<Made, DomainError> {
    import(env, standing, command).await.map_err(|failed| match failed {
        Failed::Refused(error) => error,
        Failed::InDoubt(error) => panic!("{error}"),
    })
}

pub(in crate::room) async fn ingest(
    env: &Arc<Env>,
    room: &Arc<RoomSnapshot>,
    pdus: Vec<Incoming>,
) -> (Arc<RoomSnapshot>, Vec<Verdict>) {
    ingest_all(env, room, pdus, &[]).await
}

/// With events that others may need.
pub(in crate::room) async fn ingest_all(
    env: &Arc<Env>,
    room: &Arc<RoomSnapshot>,
    pdus: Vec<Incoming>,
    outliers: &[Arc<Pdu>],
) -> (Arc<RoomSnapshot>, Vec<Verdict>) {
    let ingest = Ingest {
        outliers: if pdus.iter().any(|event| event.state_before.is_some()) {
            outliers.iter().map(|event| Incoming::of(event)).collect()
        } else {
            Vec::new()
        },
        pdus,
    };
    match receive(env, room, ingest).await {
        Received::Settled(room, verdicts) => (room, verdicts.expect("placed")),
        Received::InDoubt(error) => panic!("{error}"),
    }
}

fn same_state(room: &RoomSnapshot, elsewhere: &Elsewhere) {
    let here: Vec<_> = room.state.iter().map(|(key, e)| (key, &e.event.pdu.event_id)).collect();
    let there: Vec<_> = elsewhere.state.iter().map(|(key, e)| (key, &e.event_id)).collect();
    assert_eq!(here, there, "room version {}", elsewhere.version);
}

async fn joins(env: Arc<Env>, version: &str) {
    let mut room = Elsewhere::new(version);
    room.join("@zoe:z");
    room.text("@zoe:z", "before");
    room.member("@zoe:z", "@zoe:z", "leave");
    let before = room.head.clone();
    let command = room.import("@alice:x");
    let made = take_over(&env, &empty(&room), command.clone())
        .await
        .expect("a valid room");
    let snapshot = made.room;
    check_stored(&env, &snapshot).await;
    same_state(&snapshot, &room);
    assert_eq!((made.imported.state, made.imported.left_out), (room.state.len() - 1, 0));
    assert_eq!(snapshot.local_joined.to_vec(), [user("alice")]);
    assert_eq!((snapshot.joined_count, snapshot.joined_servers.len()), (2, 2));
    assert_eq!(snapshot.extremities.len(), 1);
    assert_eq!(snapshot.timeline.len(), 1, "the join is the first event");
    let gap = Gap {
        depth: room.head.depth,
        hole: None,
    };
    assert_eq!(snapshot.gaps, imbl::OrdMap::unit(before.event_id.clone(), gap));
    // The join is visible, with the rest of the state.
    assert!(snapshot.pos <= env.visible());
    assert_eq!(made.imported.pos, snapshot.pos.0);
    let rows = env.store.memberships_of_room(snapshot.nid.0).await.expect("readable");
    assert_eq!(rows.len(), 3);
    // The same import again changes nothing.
    let again = take_over(&env, &snapshot, command).await.expect("known");
    assert!(Arc::ptr_eq(&again.room, &snapshot));
    // Life goes on.
    let next = [room.text("@yves:y", "hello"), room.join("@bob:x")];
    let (snapshot, verdicts) = ingest(&env, &snapshot, next.iter().map(|e| Incoming::of(e)).collect()).await;
    assert_eq!(verdicts, [Verdict::Accepted, Verdict::Accepted]);
    check_stored(&env, &snapshot).await;
    same_state(&snapshot, &room);
    let error = take_over(&env, &snapshot, room.import("@carol:x"))
        .await
        .err()
        .expect("refused");
    assert_eq!(error.errcode(), Some("M_CONFLICT"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_of_another_server_is_joined() {
    each_backend(|db| async move {
        for version in ["1", "2", "3", "6", "8", "10", "11", "12"] {
            let seed = version.parse().expect("a number");
            joins(env(db.store().await, seed).await, version).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_authorized_is_left_out() {
    each_backend(|db| async move {
        let env = env(db.store().await, 1).await;
        let mut room = Elsewhere::new("11");
        room.join("@zoe:z");
        // Zoe has no power to set the topic; one more event says nothing of what authorizes it.
        let (head, state) = (room.head.clone(), room.state.clone());
        let content = json!({ "topic": "mine" });
        let topic = Arc::new(room.event_on(&[&head], &state, "m.room.topic", "@zoe:z", Some(""), &content));
        let mut unknown = state.clone();
        unknown.remove(&(Arc::from("m.room.power_levels"), Arc::from("")));
        let stranger = Arc::new(room.event_on(&[&head], &unknown, "x", "@zoe:z", Some("@zoe:z"), &json!({})));
        let mut command = room.import("@alice:x");
        for event in [&topic, &stranger] {
            command.events.push(Incoming::of(event));
            command.state.push(event.event_id.clone());
        }
        command.state.push("$unknown".try_into().expect("an id"));
        let made = take_over(&env, &empty(&room), command).await.expect("a valid room");
        assert_eq!(made.imported.left_out, 3);
        check_stored(&env, &made.room).await;
        same_state(&made.room, &room);
        let stored = env
            .rooms
            .event_by_id(&topic.event_id)
            .await
            .expect("readable")
            .expect("stored");
        assert_eq!(stored.status, Status::Rejected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_none_is_refused() {
    each_backend(|db| async move {
        let env = env(db.store().await, 1).await;
        let mut room = Elsewhere::new("11");
        room.member("@yves:y", "@mallory:x", "ban");
        let command = room.import("@alice:x");
        let standing = empty(&room);
        let refused = async |change: &dyn Fn(&mut Import)| {
            let mut command = command.clone();
            change(&mut command);
            let error = take_over(&env, &standing, command).await.err().expect("refused");
            assert!(env.rooms.view(&room.room_id).await.expect("readable").is_none());
            error.errcode().expect("a Matrix error").to_owned()
        };
        let create = room.events[0].event_id.clone();
        let without_create = |command: &mut Import| command.state.retain(|id| *id != create);
        assert_eq!(refused(&without_create).await, "M_BAD_STATE");
        assert_eq!(
            refused(&|command| command.version = "10".to_owned()).await,
            "M_BAD_STATE"
        );
        let wrong = |command: &mut Import| command.version = "99".to_owned();
        assert_eq!(refused(&wrong).await, "M_UNSUPPORTED_ROOM_VERSION");
        assert_eq!(refused(&|command| command.events.clear()).await, "M_BAD_STATE");
        let other = Elsewhere::new("10").import("@alice:x");
        assert_eq!(
            refused(&move |command| command.join = other.join.clone()).await,
            "M_BAD_STATE"
        );
        // The banned do not get in.
        let banned = room.import("@mallory:x");
        let error = take_over(&env, &standing, banned).await.err().expect("refused");
        assert_eq!(error.errcode(), Some("M_FORBIDDEN"));
        // After all that it still works.
        let made = take_over(&env, &standing, command.clone()).await.expect("a valid room");
        check_stored(&env, &made.room).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_in_between_leaves_nothing_visible() {
    each_backend(|db| async move {
        let store = db.store().await;
        let mut room = Elsewhere::new("11");
        room.join("@zoe:z");
        let first = room.import("@alice:x");
        let env_one = env(store.clone(), 1).await;
        // As far as the pieces, and no further.
        let row = room_row(&env_one, &room).await;
        let snapshot = plan::empty_room(
            RoomNid(row.nid),
            room.room_id.clone(),
            RoomVersionId::V11,
            room.rules.clone(),
        );
        let given = Given {
            room_id: room.room_id.clone(),
            version: RoomVersionId::V11,
            rules: room.rules.clone(),
            server: env_one.server_name.clone(),
            state: first.state.clone(),
            events: first.events.clone(),
            join: first.join.clone(),
            stored: HashMap::new(),
            elsewhere: HashSet::new(),
        };
        let checked = check::check(given).expect("valid");
        let (snapshot, numbered) = number(&env_one, snapshot, checked).await.expect("numbered");
        write::outliers(&env_one, &numbered).await.expect("written");
        write::state(&env_one, &snapshot).await.expect("written");
        drop(env_one);
        let env_two = env(store, 2).await;
        assert!(env_two.rooms.view(&room.room_id).await.expect("readable").is_none());
        for user in ["@alice:x", "@yves:y"] {
            let user = UserId::parse(user).expect("a user id");
            let shared = env_two
                .store
                .users_sharing_rooms(user.as_str())
                .await
                .expect("readable");
            assert!(shared.is_empty() || !env_two.is_local(&user));
        }
        // Zoe has left meanwhile: the second attempt has another state.
        let head = room.events[room.events.len() - 2].clone();
        room.head = head;
        room.state.remove(&(Arc::from("m.room.member"), Arc::from("@alice:x")));
        room.member("@zoe:z", "@zoe:z", "leave");
        let made = take_over(&env_two, &empty(&room), room.import("@alice:x"))
            .await
            .expect("a valid room");
        check_stored(&env_two, &made.room).await;
        same_state(&made.room, &room);
        assert_eq!(made.room.nid.0, row.nid);
    })
    .await;
}

async fn room_row(env: &Env, room: &Elsewhere) -> entities::room::Model {
    let row = entities::room::Model {
        nid: env.ids.take(1).await.expect("a number"),
        room_id: room.room_id.to_string(),
        version: room.version.clone(),
        creator: "@yves:y".to_owned(),
        created_ts: 1,
    };
    env.store.begin_import(&row).await.expect("written");
    row
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_was_left_is_taken_up_again() {
    each_backend(|db| async move {
        let env = env(db.store().await, 1).await;
        let mut room = Elsewhere::new("11");
        let made = take_over(&env, &empty(&room), room.import("@alice:x"))
            .await
            .expect("a valid room");
        let said = room.text("@yves:y", "hello");
        let left = room.member("@alice:x", "@alice:x", "leave");
        let events = [said, left].map(|event| Incoming::of(&event)).to_vec();
        let (snapshot, _) = ingest(&env, &made.room, events).await;
        assert!(snapshot.local_joined.is_empty());
        let old = snapshot.timeline.len();
        // Meanwhile elsewhere.
        room.join("@zoe:z");
        room.member("@yves:y", "@bob:x", "invite");
        room.text("@zoe:z", "unheard");
        let unheard = room.head.clone();
        let made = take_over(&env, &snapshot, room.import("@alice:x"))
            .await
            .expect("a valid room");
        let snapshot = made.room;
        check_stored(&env, &snapshot).await;
        same_state(&snapshot, &room);
        assert_eq!(snapshot.timeline.len(), old + 1);
        assert_eq!(snapshot.extremities.len(), 1);
        let gap = snapshot.gaps[&unheard.event_id];
        let hole = snapshot.holes[&gap.hole.expect("in the middle")];
        let timeline = &snapshot.timeline;
        let positions = timeline.iter().rev().take(2).filter_map(|event| event.pos);
        let positions: Vec<i64> = positions.map(|pos| pos.0).collect();
        assert!(
            positions[1] < hole.low && hole.next <= positions[0],
            "{positions:?} {hole:?}"
        );
        let bob = env
            .store
            .membership(snapshot.nid.0, "@bob:x")
            .await
            .expect("readable")
            .expect("there");
        assert_eq!((bob.membership.as_str(), bob.pos), ("invite", snapshot.pos.0));
    })
    .await;
}
