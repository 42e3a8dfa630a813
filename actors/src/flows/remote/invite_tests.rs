//! Invites of other servers' users. The test plays their server.

use std::sync::Arc;

use ruma::api::client::room::create_room::v3::Request as CreateRequest;
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};

use super::super::create_room::create_room;
use super::super::membership::{Change, change, send_state};
use super::testing::{NAME, Resident, raw, sent, user, with_resident, yves};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::peer::testing::{answer, unreachable};
use crate::room::commands::Draft;
use crate::room::membership::Action;

fn refusal<T: std::fmt::Debug>(outcome: Outcome<T>) -> (u16, String) {
    match outcome.expect_err("refused") {
        DomainError::Matrix { status, errcode, .. } => (status, errcode.into_owned()),
        other => panic!("{other:?}"),
    }
}

/// A room of Alice's.
async fn own_room(hub: &Arc<Hub>, version: &str, invite: &[OwnedUserId]) -> OwnedRoomId {
    let mut request = CreateRequest::new();
    request.room_version = Some(version.try_into().expect("a version"));
    request.invite = invite.to_vec();
    create_room(hub, &user("alice"), &request).await.expect("made")
}

async fn invite(hub: &Hub, room_id: &OwnedRoomId) -> Outcome<()> {
    let inviting = Change {
        room_id,
        sender: &user("alice"),
        target: &yves(),
        reason: None,
    };
    change(hub, &inviting, Action::Invite { is_direct: false }).await
}

/// The room of the other server stands for the one that it is invited to.
fn stands_for(resident: &Resident, room_id: &OwnedRoomId) {
    resident.room().room_id = room_id.clone();
}

#[test]
fn the_invited_users_server_signs() {
    for version in ["1", "10", "12"] {
        with_resident(version, move |world, hub, resident| async move {
            let room_id = own_room(&hub, version, &[]).await;
            stands_for(&resident, &room_id);
            invite(&hub, &room_id).await.expect("invited");
            let room = hub.rooms().existing(&room_id).await.expect("there");
            let event = room.state_event("m.room.member", yves().as_str()).expect("there");
            assert!(event.pdu.has_membership("invite"));
            assert_eq!(room.extremities.len(), 1);
            let json = sent(&event.pdu);
            assert!(
                json["signatures"][NAME].is_object() && json["signatures"]["x"].is_object(),
                "{json}"
            );
            let heard = world.wire.heard_by(NAME);
            let asked = heard
                .iter()
                .find(|heard| heard.path.contains("/v2/invite/"))
                .expect("asked")
                .json();
            assert_eq!(asked["room_version"], version);
            let state = asked["invite_room_state"].as_array().expect("a list");
            assert_eq!(state[0]["type"], "m.room.create");
            assert!(state.iter().all(|event| event["signatures"].is_object()), "PDUs");
            assert!(
                state.iter().any(|event| event["state_key"] == "@alice:x"),
                "who invites"
            );
        });
    }
}

#[test]
fn what_the_other_server_says_reaches_who_invites() {
    with_resident("10", |_, hub, resident| async move {
        let room_id = own_room(&hub, "10", &[]).await;
        stands_for(&resident, &room_id);
        for ((status, errcode), told) in [
            ((403, "M_INVITE_BLOCKED"), (403, "M_INVITE_BLOCKED")),
            ((403, "M_FORBIDDEN"), (403, "M_FORBIDDEN")),
            (
                (400, "M_INCOMPATIBLE_ROOM_VERSION"),
                (400, "M_UNSUPPORTED_ROOM_VERSION"),
            ),
            ((400, "M_INVALID_PARAM"), (502, "M_UNKNOWN")),
        ] {
            resident.room().refused.insert("invite", (status, errcode));
            assert_eq!(refusal(invite(&hub, &room_id).await), (told.0, told.1.to_owned()));
        }
        resident.room().refused.clear();
        resident.room().silent.insert("invite");
        assert_eq!(refusal(invite(&hub, &room_id).await), (502, "M_UNKNOWN".into()));
        resident.room().silent.clear();
        type Twist = fn(&str, &mut Value);
        let twists: [Twist; 3] = [
            |_, body| body["event"]["content"]["membership"] = json!("join"),
            |_, body| {
                drop(
                    body["event"]["signatures"]
                        .as_object_mut()
                        .expect("an object")
                        .remove(NAME),
                )
            },
            |_, body| body["event"]["signatures"][NAME] = json!({ "ed25519:1": "bm90IGEgc2lnbmF0dXJl" }),
        ];
        for twist in twists {
            resident.room().twist = Some(Box::new(twist));
            assert_eq!(refusal(invite(&hub, &room_id).await), (502, "M_UNKNOWN".into()));
        }
        let room = hub.rooms().existing(&room_id).await.expect("there");
        assert!(
            room.state_event("m.room.member", yves().as_str()).is_none(),
            "nobody was invited"
        );
    });
}

#[test]
fn older_servers_sign_as_well() {
    with_resident("2", |world, hub, resident| async move {
        let room_id = own_room(&hub, "2", &[]).await;
        stands_for(&resident, &room_id);
        resident.room().old = true;
        invite(&hub, &room_id).await.expect("invited");
        let heard = world.wire.heard_by(NAME);
        let asked = heard
            .iter()
            .find(|heard| heard.path.contains("/v1/invite/"))
            .expect("asked")
            .json();
        assert_eq!(asked["unsigned"]["invite_room_state"][0]["type"], "m.room.create");
        assert_eq!(asked["content"]["membership"], "invite");
    });
}

#[test]
fn state_that_invites_is_signed_too() {
    with_resident("11", |_, hub, resident| async move {
        let room_id = own_room(&hub, "11", &[]).await;
        stands_for(&resident, &room_id);
        let content = raw(&json!({ "membership": "invite", "displayname": "Y" }));
        let draft = Draft::state(user("alice"), "m.room.member", yves().as_str(), content);
        let event_id = send_state(&hub, &room_id, draft.clone()).await.expect("sent");
        let room = hub.rooms().existing(&room_id).await.expect("there");
        let event = room.state_event("m.room.member", yves().as_str()).expect("there");
        assert_eq!(event.pdu.event_id, event_id);
        assert!(sent(&event.pdu)["signatures"][NAME].is_object());
        let stranger = Draft {
            sender: user("bob"),
            ..draft
        };
        assert_eq!(
            refusal(send_state(&hub, &room_id, stranger).await),
            (403, "M_FORBIDDEN".into())
        );
    });
}

#[test]
fn a_new_room_invites_whom_it_can() {
    with_resident("11", |world, hub, resident| async move {
        // Any room: it is not known before it is made.
        let handed = resident.clone();
        world.wire.script(move |heard| {
            let room = heard.json()["event"]["room_id"]
                .as_str()
                .map(|room| room.try_into().expect("a room id"));
            if let (Some(room), true) = (room, heard.server == NAME) {
                handed.room().room_id = room;
                return answer(handed.room().answer(heard));
            }
            answer(unreachable())
        });
        let others = [yves(), "@nobody:down".try_into().expect("a user"), user("bob")];
        let room_id = own_room(&hub, "11", &others).await;
        let room = hub.rooms().existing(&room_id).await.expect("there");
        assert_eq!(room.membership(&yves()), "invite");
        assert_eq!(room.membership(&user("bob")), "invite");
        assert_eq!(room.membership(&others[1]), "leave", "its server is down");
    });
}
