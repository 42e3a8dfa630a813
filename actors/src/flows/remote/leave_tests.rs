//! Invites and knocks in a room of another server, and how they end. The test plays that server.

use ruma::{OwnedRoomId, OwnedUserId, RoomOrAliasId};
use serde_json::{Value, json};

use super::super::membership::{Change, change, join, knock};
use super::testing::{NAME, Resident, raw, sent, user, with_resident, yves};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::peer::testing::{answer, unreachable};
use crate::room::commands::{Incoming, OutOfRoom};
use crate::room::membership::Action;

fn refusal<T: std::fmt::Debug>(outcome: Outcome<T>) -> (u16, String) {
    match outcome.expect_err("refused") {
        DomainError::Matrix { status, errcode, .. } => (status, errcode.into_owned()),
        other => panic!("{other:?}"),
    }
}

/// Yves invites Alice into his room.
async fn invited(hub: &Hub, resident: &Resident) -> OwnedRoomId {
    let (invite, version, name) = {
        let mut room = resident.room();
        let invite = room.set("m.room.member", "@alice:x", json!({ "membership": "invite" }));
        let name = sent(&room.state[&("m.room.name".to_owned(), String::new())]);
        (invite, room.version, name)
    };
    let event = OutOfRoom {
        version: version.to_owned(),
        event: Incoming::of(&invite),
        stripped: vec![raw(
            &json!({ "type": "m.room.name", "state_key": "", "sender": yves(), "content": name["content"] }),
        )],
    };
    hub.rooms().out_of_room(&invite.room_id, event).await.expect("taken");
    invite.room_id.clone()
}

async fn leave(hub: &Hub, user: &OwnedUserId, room_id: &OwnedRoomId) -> Outcome<()> {
    let leaving = Change {
        room_id,
        sender: user,
        target: user,
        reason: Some("no"),
    };
    change(hub, &leaving, Action::Leave).await
}

async fn membership(hub: &Hub, user: &OwnedUserId, room_id: &OwnedRoomId) -> String {
    let store = &hub.env().store;
    let room = store
        .room_by_id(room_id.as_str())
        .await
        .expect("readable")
        .expect("known");
    let row = store.membership(room.nid, user.as_str()).await.expect("readable");
    row.map(|row| row.membership).unwrap_or_default()
}

#[test]
fn an_invite_is_rejected_by_way_of_the_inviters_server() {
    for version in ["1", "10", "12"] {
        with_resident(version, |world, hub, resident| async move {
            let alice = user("alice");
            let room_id = invited(&hub, &resident).await;
            assert_eq!(membership(&hub, &alice, &room_id).await, "invite");
            leave(&hub, &alice, &room_id).await.expect("left");
            assert_eq!(membership(&hub, &alice, &room_id).await, "leave");
            let theirs = resident.room().state[&("m.room.member".to_owned(), "@alice:x".to_owned())].clone();
            let content: Value = theirs.content_as().expect("an object");
            assert_eq!(content, json!({ "membership": "leave", "reason": "no" }));
            assert!(
                world
                    .wire
                    .heard()
                    .iter()
                    .any(|heard| heard.path.contains("/v2/send_leave/"))
            );
            hub.rooms().forget(&room_id, &alice).await.expect("forgotten");
            assert_eq!(
                refusal(leave(&hub, &alice, &room_id).await),
                (403, "M_FORBIDDEN".into())
            );
        });
    }
}

#[test]
fn nobody_is_stuck_with_an_invite() {
    for version in ["1", "10", "12"] {
        with_resident(version, |world, hub, resident| async move {
            let alice = user("alice");
            let room_id = invited(&hub, &resident).await;
            world.wire.script(|_| answer(unreachable()));
            leave(&hub, &alice, &room_id).await.expect("left all the same");
            assert_eq!(membership(&hub, &alice, &room_id).await, "leave");
            hub.rooms().forget(&room_id, &alice).await.expect("forgotten");
        });
    }
}

#[test]
fn an_invite_names_the_server_to_join_by() {
    with_resident("12", |_, hub, resident| async move {
        let alice = user("alice");
        let room_id = invited(&hub, &resident).await;
        let target: &RoomOrAliasId = (&*room_id).into();
        join(&hub, &alice, target, &[], None).await.expect("joined");
        assert!(hub.rooms().existing(&room_id).await.expect("there").is_joined(&alice));
        assert_eq!(membership(&hub, &alice, &room_id).await, "join");
    });
}

#[test]
fn one_knocks_and_thinks_better_of_it() {
    for version in ["7", "12"] {
        with_resident(version, |world, hub, resident| async move {
            let alice = user("alice");
            resident
                .room()
                .set("m.room.join_rules", "", json!({ "join_rule": "knock" }));
            let room_id = resident.room().room_id.clone();
            let target: &RoomOrAliasId = (&*room_id).into();
            let via = [NAME.try_into().expect("a name")];
            knock(&hub, &alice, target, &via, Some("please"))
                .await
                .expect("knocked");
            assert_eq!(membership(&hub, &alice, &room_id).await, "knock");
            let store = &hub.env().store;
            let nid = store
                .room_by_id(room_id.as_str())
                .await
                .expect("readable")
                .expect("known")
                .nid;
            let told = store
                .stripped_state(nid, alice.as_str())
                .await
                .expect("readable")
                .expect("there");
            let told: Vec<Value> = serde_json::from_str(&told.events).expect("JSON");
            let name = told.iter().find(|event| event["type"] == "m.room.name").expect("named");
            assert_eq!(name["content"]["name"], "The room");
            assert!(name.get("signatures").is_none(), "clients get no PDUs");
            leave(&hub, &alice, &room_id).await.expect("taken back");
            assert_eq!(membership(&hub, &alice, &room_id).await, "leave");
            assert!(
                world
                    .wire
                    .heard()
                    .iter()
                    .any(|heard| heard.path.contains("/v2/send_leave/"))
            );
        });
    }
}

#[test]
fn rooms_without_knocking_take_none() {
    with_resident("10", |_, hub, resident| async move {
        let room_id = resident.room().room_id.clone();
        let target: &RoomOrAliasId = (&*room_id).into();
        let via = [NAME.try_into().expect("a name")];
        resident.room().refused.insert("make_knock", (403, "M_FORBIDDEN"));
        let outcome = knock(&hub, &user("alice"), target, &via, None).await;
        assert_eq!(refusal(outcome), (403, "M_FORBIDDEN".into()));
    });
}
