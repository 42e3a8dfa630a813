//! Joins by way of another server, which the test plays.

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomAliasId, RoomOrAliasId};
use serde_json::{Value, json};

use super::super::alias::resolve;
use super::super::membership::{Change, change, join};
use super::testing::{NAME, Resident, user, with_resident, yves};
use super::unfinished::round;
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::peer::testing::{World, answer, unreachable};
use crate::room::commands::Draft;
use crate::room::membership::Action;

async fn joins(hub: &Hub, user: &OwnedUserId, target: &str, via: &[&str]) -> Outcome<OwnedRoomId> {
    let target = <&RoomOrAliasId>::try_from(target).expect("an id or alias");
    let via: Vec<OwnedServerName> = via.iter().map(|name| (*name).try_into().expect("a name")).collect();
    join(hub, user, target, &via, Some("why")).await
}

fn refusal(outcome: Outcome<OwnedRoomId>) -> (u16, String) {
    match outcome.expect_err("refused") {
        DomainError::Matrix { status, errcode, .. } => (status, errcode.into_owned()),
        other => panic!("{other:?}"),
    }
}

/// How often one kind of request was made.
fn asked(world: &World, kind: &str) -> usize {
    let kind = format!("/{kind}/");
    world
        .wire
        .heard()
        .iter()
        .filter(|heard| heard.path.contains(&kind))
        .count()
}

#[test]
fn a_room_is_taken_over_in_every_version() {
    for version in ["1", "2", "3", "6", "10", "11", "12"] {
        with_resident(version, move |world, hub, resident| async move {
            let room_id = resident.room().room_id.clone();
            let alice = user("alice");
            joins(&hub, &alice, room_id.as_str(), &["x", NAME])
                .await
                .expect("joined");
            let room = hub.rooms().existing(&room_id).await.expect("there");
            assert!(room.is_joined(&alice) && room.is_joined(&yves()), "{version}");
            assert_eq!(room.version.as_str(), version);
            let theirs = resident.room().state.clone();
            assert_eq!(room.state.len(), theirs.len());
            for ((kind, key), event) in &theirs {
                let ours = room.state_event(kind, key).expect("there");
                assert_eq!(ours.pdu.event_id, event.event_id);
            }
            let content: Value = room
                .state_event("m.room.member", alice.as_str())
                .expect("there")
                .pdu
                .content_as()
                .expect("an object");
            assert_eq!(content, json!({ "membership": "join", "reason": "why" }));
            // Whoever comes next needs nobody else.
            let before = world.wire.heard().len();
            joins(&hub, &user("bob"), room_id.as_str(), &[NAME])
                .await
                .expect("joined");
            assert_eq!(asked(&world, "make_join") + asked(&world, "send_join"), 2);
            assert!(before >= 2);
            let body = serde_json::value::to_raw_value(&json!({ "body": "hi" })).expect("JSON");
            let draft = Draft::message(user("bob"), "m.room.message", body, None);
            hub.rooms().send(&room_id, draft).await.expect("a member");
        });
    }
}

#[test]
fn two_users_share_one_way_in() {
    with_resident("11", |world, hub, resident| async move {
        let room_id = resident.room().room_id.clone();
        let both = ["alice", "bob", "carol"].map(|name| {
            let (hub, room_id) = (hub.clone(), room_id.clone());
            tokio::spawn(async move { joins(&hub, &user(name), room_id.as_str(), &[NAME]).await })
        });
        for one in both {
            one.await.expect("no panic").expect("joined");
        }
        assert_eq!(asked(&world, "send_join"), 1);
        let room = hub.rooms().existing(&room_id).await.expect("there");
        assert_eq!(room.local_joined.len(), 3);
    });
}

#[test]
fn servers_are_asked_until_one_helps() {
    with_resident("10", |world, hub, resident| async move {
        let room_id = resident.room().room_id.clone();
        joins(&hub, &user("alice"), room_id.as_str(), &["down", "z"])
            .await
            .expect("the room's own server");
        let servers: Vec<String> = world
            .wire
            .heard()
            .iter()
            .map(|heard| heard.server.to_string())
            .collect();
        assert_eq!(&servers[..3], ["down", "z", NAME]);
    });
}

#[test]
fn refusals_reach_the_user() {
    with_resident("12", |world, hub, resident| async move {
        let room_id = resident.room().room_id.clone();
        let (alice, id) = (user("alice"), room_id.as_str());
        let refuse = |kind, status, errcode| {
            resident.room().refused.insert(kind, (status, errcode));
        };
        assert_eq!(refusal(joins(&hub, &alice, id, &[]).await), (404, "M_NOT_FOUND".into()));
        assert_eq!(
            refusal(joins(&hub, &alice, id, &["x"]).await),
            (404, "M_NOT_FOUND".into())
        );
        assert!(world.wire.heard().is_empty(), "there is nobody to ask");
        assert_eq!(
            refusal(joins(&hub, &alice, id, &["down"]).await),
            (502, "M_UNKNOWN".into())
        );
        refuse("make_join", 403, "M_FORBIDDEN");
        assert_eq!(
            refusal(joins(&hub, &alice, id, &["down", NAME]).await),
            (403, "M_FORBIDDEN".into())
        );
        refuse("make_join", 400, "M_INCOMPATIBLE_ROOM_VERSION");
        assert_eq!(
            refusal(joins(&hub, &alice, id, &[NAME]).await),
            (400, "M_INCOMPATIBLE_ROOM_VERSION".into())
        );
        resident.room().refused.clear();
        refuse("send_join", 403, "M_FORBIDDEN");
        assert_eq!(
            refusal(joins(&hub, &alice, id, &[NAME]).await),
            (403, "M_FORBIDDEN".into())
        );
        refuse("send_join", 400, "M_INVALID_PARAM");
        assert_eq!(
            refusal(joins(&hub, &alice, id, &[NAME]).await),
            (502, "M_UNKNOWN".into())
        );
        assert!(
            hub.rooms().view(&room_id).await.expect("readable").is_none(),
            "nothing came of it"
        );
        resident.room().refused.clear();
        joins(&hub, &alice, id, &[NAME]).await.expect("now");
    });
}

#[test]
fn answers_that_cannot_be_believed_are_not() {
    type Twist = fn(&str, &mut Value);
    let twists: [(&str, Twist); 8] = [
        ("another room's template", |kind, body| {
            if kind == "make_join" {
                body["event"]["room_id"] = json!("!other:y");
            }
        }),
        ("another user's template", |kind, body| {
            if kind == "make_join" {
                body["event"]["state_key"] = json!("@other:x");
            }
        }),
        ("a version that is none", |kind, body| {
            if kind == "make_join" {
                body["room_version"] = json!("99");
            }
        }),
        ("another version", |kind, body| {
            if kind == "make_join" {
                body["room_version"] = json!("9");
            }
        }),
        ("no create event", |kind, body| {
            if kind == "send_join" {
                let state = body["state"].as_array_mut().expect("a list");
                state.retain(|event| event["type"] != "m.room.create");
            }
        }),
        ("a forged create event", |kind, body| {
            if kind == "send_join" {
                for event in body["state"].as_array_mut().expect("a list") {
                    if event["type"] == "m.room.create" {
                        event["sender"] = json!("@mallory:y");
                    }
                }
                body["auth_chain"] = json!([]);
            }
        }),
        ("members left out unasked", |kind, body| {
            if kind == "send_join" {
                body["members_omitted"] = json!(true);
                body["servers_in_room"] = json!(["y"]);
            }
        }),
        ("nothing at all", |kind, body| {
            if kind == "send_join" {
                *body = json!({ "state": [] });
            }
        }),
    ];
    with_resident("10", move |_, hub, resident| async move {
        let room_id = resident.room().room_id.clone();
        for (what, twist) in twists {
            resident.room().twist = Some(Box::new(twist));
            let outcome = joins(&hub, &user("alice"), room_id.as_str(), &[NAME]).await;
            assert_eq!(refusal(outcome), (502, "M_UNKNOWN".into()), "{what}");
            assert!(hub.rooms().view(&room_id).await.expect("readable").is_none(), "{what}");
        }
        resident.room().twist = None;
        joins(&hub, &user("alice"), room_id.as_str(), &[NAME])
            .await
            .expect("an honest answer");
    });
}

#[test]
fn state_that_is_forged_is_left_out() {
    with_resident("10", |_, hub, resident| async move {
        let room_id = resident.room().room_id.clone();
        resident.room().twist = Some(Box::new(|kind, body| {
            if kind == "send_join" {
                for list in ["state", "auth_chain"] {
                    for event in body[list].as_array_mut().expect("a list") {
                        if event["type"] == "m.room.name" {
                            event["sender"] = json!("@mallory:y");
                        }
                    }
                }
            }
        }));
        joins(&hub, &user("alice"), room_id.as_str(), &[NAME])
            .await
            .expect("joined");
        let room = hub.rooms().existing(&room_id).await.expect("there");
        assert!(room.state_event("m.room.name", "").is_none());
        assert!(room.state_event("m.room.join_rules", "").is_some());
    });
}

#[test]
fn who_vouches_for_a_join_has_to_sign_it() {
    with_resident("10", |_, hub, resident| async move {
        let room_id = resident.room().room_id.clone();
        let allow = json!([{ "type": "m.room_membership", "room_id": "!club:y" }]);
        resident.room().set(
            "m.room.join_rules",
            "",
            json!({ "join_rule": "restricted", "allow": allow }),
        );
        resident.room().twist = Some(Box::new(|kind, body| {
            if kind == "send_join" {
                body["event"]["signatures"]
                    .as_object_mut()
                    .expect("an object")
                    .remove(NAME);
            }
        }));
        let outcome = joins(&hub, &user("alice"), room_id.as_str(), &[NAME]).await;
        assert_eq!(refusal(outcome), (502, "M_UNKNOWN".into()));
        resident.room().twist = None;
        joins(&hub, &user("alice"), room_id.as_str(), &[NAME])
            .await
            .expect("signed");
        let room = hub.rooms().existing(&room_id).await.expect("there");
        let join = room.state_event("m.room.member", "@alice:x").expect("there");
        let join: Value = serde_json::from_str(&join.pdu.json).expect("JSON");
        assert!(join["signatures"][NAME].is_object() && join["signatures"]["x"].is_object());
    });
}

#[test]
fn older_servers_let_users_in_as_well() {
    with_resident("3", |world, hub, resident| async move {
        let room_id = resident.room().room_id.clone();
        resident.room().old = true;
        joins(&hub, &user("alice"), room_id.as_str(), &[NAME])
            .await
            .expect("joined");
        let paths: Vec<String> = world.wire.heard().into_iter().map(|heard| heard.path).collect();
        assert!(paths.iter().any(|path| path.contains("/v1/send_join/")), "{paths:?}");
        assert!(
            hub.rooms()
                .existing(&room_id)
                .await
                .expect("there")
                .is_joined(&user("alice"))
        );
    });
}

#[test]
fn an_alias_of_another_server_leads_there() {
    with_resident("11", |world, hub, resident| async move {
        let room_id = resident.room().room_id.clone();
        let alias = <&RoomAliasId>::try_from("#room:y").expect("an alias");
        let lookups = || {
            let heard = world.wire.heard();
            heard
                .iter()
                .filter(|heard| heard.path.contains("/query/directory"))
                .count()
        };
        let target = resolve(&hub, alias).await.expect("there");
        assert_eq!(target.room_id, room_id);
        assert!(target.servers.iter().any(|server| server == NAME), "{target:?}");
        resolve(&hub, alias).await.expect("there");
        assert_eq!(lookups(), 1, "it is kept in mind");
        let joined = joins(&hub, &user("alice"), "#room:y", &[]).await;
        assert_eq!(joined.expect("joined"), room_id);
        resident.room().refused.insert("query", (404, "M_NOT_FOUND"));
        let outcome = joins(&hub, &user("bob"), "#other:y", &[]).await;
        assert_eq!(refusal(outcome), (404, "M_NOT_FOUND".into()));
        let outcome = joins(&hub, &user("bob"), "#room:down", &[]).await;
        assert_eq!(refusal(outcome), (502, "M_UNKNOWN".into()));
    });
}

#[test]
fn a_room_that_was_left_is_taken_up_again() {
    with_resident("11", |world, hub, resident| async move {
        let (room_id, alice) = (resident.room().room_id.clone(), user("alice"));
        joins(&hub, &alice, room_id.as_str(), &[NAME]).await.expect("joined");
        let leave = Change {
            room_id: &room_id,
            sender: &alice,
            target: &alice,
            reason: None,
        };
        change(&hub, &leave, Action::Leave).await.expect("left");
        let left = hub.rooms().existing(&room_id).await.expect("there");
        let left = left
            .state_event("m.room.member", alice.as_str())
            .expect("there")
            .pdu
            .clone();
        resident.room().add(&left);
        resident.room().set("m.room.topic", "", json!({ "topic": "news" }));
        // The server is known from before.
        joins(&hub, &alice, room_id.as_str(), &[]).await.expect("joined again");
        assert_eq!(asked(&world, "send_join"), 2);
        let room = hub.rooms().existing(&room_id).await.expect("there");
        assert!(room.is_joined(&alice));
        assert!(room.state_event("m.room.topic", "").is_some());
    });
}

#[test]
fn nobody_is_asked_for_rooms_of_this_server() {
    with_resident("10", |world, hub, _| async move {
        world.wire.script(|_| answer(unreachable()));
        let outcome = joins(&hub, &user("alice"), "!nowhere:x", &[]).await;
        assert_eq!(refusal(outcome), (404, "M_NOT_FOUND".into()));
        assert!(world.wire.heard().is_empty());
    });
}

/// The servers that a join is noted to be under way to.
async fn unfinished(hub: &Hub) -> Vec<String> {
    let rows = hub.env().store.remote_joins(i64::MAX, 10).await.expect("readable");
    rows.into_iter().map(|row| row.via).collect()
}

#[test]
fn a_join_that_came_to_nothing_is_taken_back() {
    with_resident("10", |world, hub, resident| async move {
        let (room_id, alice) = (resident.room().room_id.clone(), user("alice"));
        let id = room_id.as_str();
        resident.room().refused.insert("send_join", (403, "M_FORBIDDEN"));
        joins(&hub, &alice, id, &[NAME]).await.expect_err("refused");
        assert!(unfinished(&hub).await.is_empty(), "nothing can come of it");
        resident.room().refused.clear();
        // The server lets the user in, and its answer gets lost.
        resident.room().twist = Some(Box::new(|kind, body| {
            if kind == "send_join" {
                *body = json!({});
            }
        }));
        joins(&hub, &alice, id, &[NAME]).await.expect_err("no answer");
        let member = |resident: &Resident| {
            let member = resident
                .room()
                .state
                .get(&("m.room.member".to_owned(), "@alice:x".to_owned()))
                .cloned();
            member.and_then(|event| event.membership())
        };
        assert_eq!(member(&resident).as_deref(), Some("join"));
        assert_eq!(unfinished(&hub).await, [NAME]);
        round(&hub).await.expect("readable");
        assert_eq!(member(&resident).as_deref(), Some("join"), "the user may try again");

        let mut row = hub
            .env()
            .store
            .remote_joins(i64::MAX, 1)
            .await
            .expect("readable")
            .remove(0);
        row.started_ts -= 3_600_000;
        hub.env().store.begin_remote_join(row.clone()).await.expect("noted");
        resident.room().silent.insert("make_leave");
        round(&hub).await.expect("readable");
        assert_eq!(unfinished(&hub).await, [NAME], "it is tried again");
        resident.room().silent.clear();
        round(&hub).await.expect("readable");
        assert_eq!(member(&resident).as_deref(), Some("leave"));
        assert!(unfinished(&hub).await.is_empty());

        resident.room().twist = None;
        joins(&hub, &alice, id, &[NAME]).await.expect("joined");
        assert!(unfinished(&hub).await.is_empty());
        // Noted when the process died, just after the room had come.
        hub.env().store.begin_remote_join(row).await.expect("noted");
        let before = world.wire.heard().len();
        round(&hub).await.expect("readable");
        assert!(unfinished(&hub).await.is_empty());
        assert_eq!(world.wire.heard().len(), before);
    });
}
