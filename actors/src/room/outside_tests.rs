//! Invites and knocks to rooms of other servers, on both databases.

use entities::ids::RoomNid;
use entities::testing::each_backend;
use serde_json::json;

use super::super::commands::Incoming;
use super::super::commit::tests::{check_stored, env, raw, user};
use super::super::elsewhere::Elsewhere;
use super::super::import;
use super::super::import::tests::ingest;
use super::super::plan;
use super::*;

fn empty(room: &Elsewhere) -> Arc<RoomSnapshot> {
    let version = RoomVersionId::try_from(room.version.as_str()).expect("a version");
    Arc::new(plan::empty_room(
        RoomNid(0),
        room.room_id.clone(),
        version,
        room.rules.clone(),
    ))
}

async fn tell(env: &Arc<Env>, standing: &Arc<RoomSnapshot>, room: &Elsewhere, pdu: &Pdu) -> Outcome<Arc<RoomSnapshot>> {
    let command = OutOfRoom {
        version: room.version.clone(),
        event: Incoming::of(pdu),
        stripped: vec![raw(
            &json!({ "type": "m.room.name", "state_key": "", "content": { "name": "n" } }),
        )],
    };
    take(env, standing, command).await.map_err(|failed| match failed {
        Failed::Refused(error) => error,
        Failed::InDoubt(error) => panic!("{error}"),
    })
}

async fn standing_of(env: &Env, room: &Elsewhere) -> Option<(String, i64, bool)> {
    let row = env.store.room_by_id(room.room_id.as_str()).await.expect("readable")?;
    let membership = env.store.membership(row.nid, "@alice:x").await.expect("readable")?;
    let stripped = env.store.stripped_state(row.nid, "@alice:x").await.expect("readable");
    Some((membership.membership, membership.pos, stripped.is_some()))
}

async fn invited(env: Arc<Env>, version: &str) {
    let mut room = Elsewhere::new(version);
    let standing = empty(&room);
    let invite = room.member("@yves:y", "@alice:x", "invite");
    let room_after = tell(&env, &standing, &room, &invite).await.expect("taken");
    assert!(room_after.extremities.is_empty());
    let (membership, pos, stripped) = standing_of(&env, &room).await.expect("there");
    assert_eq!((membership.as_str(), stripped), ("invite", true));
    assert_eq!(pos, env.visible().0);
    assert!(env.rooms.view(&room.room_id).await.expect("readable").is_none());
    let event = env
        .rooms
        .event_by_id(&invite.event_id)
        .await
        .expect("readable")
        .expect("stored");
    assert_eq!((event.status, event.pos.map(|p| p.0)), (Status::Outlier, Some(pos)));
    // Twice is once.
    tell(&env, &standing, &room, &invite).await.expect("known");
    assert_eq!(standing_of(&env, &room).await.expect("there").1, pos);
    // Somebody else's word does not end it, unless it names the invite.
    let state = room.before[&invite.event_id].clone();
    let leave = json!({ "membership": "leave" });
    let forged = room.event_on(
        &[&invite],
        &state,
        "m.room.member",
        "@mallory:m",
        Some("@alice:x"),
        &leave,
    );
    let error = tell(&env, &standing, &room, &forged).await.expect_err("refused");
    assert_eq!(error.errcode(), Some("M_FORBIDDEN"));
    let retracted = room.member("@yves:y", "@alice:x", "leave");
    tell(&env, &standing, &room, &retracted).await.expect("taken");
    let (membership, later, stripped) = standing_of(&env, &room).await.expect("there");
    assert_eq!((membership.as_str(), stripped), ("leave", false));
    assert!(later > pos);
    // It can be forgotten then.
    forget(&env, &room.room_id, &user("alice")).await.expect("over");
    assert!(forget(&env, &room.room_id, &user("bob")).await.is_err());
    // A new invite, which is taken back by its user.
    let invite = room.member("@yves:y", "@alice:x", "invite");
    tell(&env, &standing, &room, &invite).await.expect("taken");
    assert!(forget(&env, &room.room_id, &user("alice")).await.is_err());
    let rejected = room.member("@alice:x", "@alice:x", "leave");
    tell(&env, &standing, &room, &rejected).await.expect("taken");
    assert_eq!(standing_of(&env, &room).await.expect("there").0, "leave");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invites_come_and_go() {
    each_backend(|db| async move {
        for version in ["1", "6", "11", "12"] {
            let seed = version.parse().expect("a number");
            invited(env(db.store().await, seed).await, version).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_events_are_refused() {
    each_backend(|db| async move {
        let env = env(db.store().await, 1).await;
        let mut room = Elsewhere::new("11");
        let standing = empty(&room);
        let events = [
            room.join("@alice:x"),
            room.text("@yves:y", "hello"),
            room.member("@yves:y", "@zoe:z", "invite"),
        ];
        for event in events {
            let error = tell(&env, &standing, &room, &event).await.expect_err("refused");
            assert_eq!(error.errcode(), Some("M_BAD_JSON"));
        }
        let leave = room.member("@alice:x", "@alice:x", "leave");
        let error = tell(&env, &standing, &room, &leave)
            .await
            .expect_err("nothing is pending");
        assert_eq!(error.errcode(), Some("M_FORBIDDEN"));
        assert_eq!(standing_of(&env, &room).await, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_is_followed_by_a_join() {
    each_backend(|db| async move {
        let env = env(db.store().await, 1).await;
        let mut room = Elsewhere::new("11");
        let standing = empty(&room);
        let invite = room.member("@yves:y", "@alice:x", "invite");
        let other = room.member("@yves:y", "@bob:x", "invite");
        for event in [&invite, &other] {
            tell(&env, &standing, &room, event).await.expect("taken");
        }
        let made = import::import(&env, &standing, room.import("@alice:x"))
            .await
            .ok()
            .expect("a valid room");
        check_stored(&env, &made.room).await;
        assert_eq!(
            standing_of(&env, &room).await,
            Some(("join".to_owned(), made.room.pos.0, false))
        );
        // Bob's invite stands, with what came with it.
        let stripped = env
            .store
            .stripped_state(made.room.nid.0, "@bob:x")
            .await
            .expect("readable");
        assert!(stripped.is_some());
        // Where local users are joined, events come by the room.
        let more = room.member("@yves:y", "@carol:x", "invite");
        let same = tell(&env, &made.room, &room, &more).await.expect("nothing to do");
        assert!(Arc::ptr_eq(&same, &made.room));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_was_left_takes_invites_into_its_old_state() {
    each_backend(|db| async move {
        let env = env(db.store().await, 1).await;
        let mut room = Elsewhere::new("11");
        let made = import::import(&env, &empty(&room), room.import("@alice:x"))
            .await
            .ok()
            .expect("a valid room");
        let left = room.member("@alice:x", "@alice:x", "leave");
        let (snapshot, _) = ingest(&env, &made.room, vec![Incoming::of(&left)]).await;
        let events = snapshot.timeline.len();
        let invite = room.member("@yves:y", "@alice:x", "invite");
        let snapshot = tell(&env, &snapshot, &room, &invite).await.expect("taken");
        check_stored(&env, &snapshot).await;
        assert_eq!(snapshot.membership(&user("alice")), "invite");
        assert_eq!(
            (snapshot.timeline.len(), snapshot.extremities[0].event_id.clone()),
            (events, left.event_id.clone())
        );
        assert_eq!(
            standing_of(&env, &room).await,
            Some(("invite".to_owned(), snapshot.pos.0, true))
        );
        let rejected = room.member("@alice:x", "@alice:x", "leave");
        let snapshot = tell(&env, &snapshot, &room, &rejected).await.expect("taken");
        check_stored(&env, &snapshot).await;
        assert_eq!(snapshot.membership(&user("alice")), "leave");
        let made = import::import(&env, &snapshot, room.import("@alice:x"))
            .await
            .ok()
            .expect("a valid room");
        check_stored(&env, &made.room).await;
        assert_eq!(made.room.local_joined.to_vec(), [user("alice")]);
    })
    .await;
}
