//! `make_join` and `send_join`.

use std::collections::BTreeSet;
use std::time::Duration;

use ruma::canonical_json::CanonicalJsonValue;
use ruma::{OwnedUserId, RoomVersionId, room_id, server_name};
use serde_json::{Value, json};

use super::world::{World, is_refused, local, read, remote, with_world, y};
use crate::flows::hosting::{Asked, Sent, Step, Template, join, make, send};
use crate::room::rules::rules_of;
use crate::stream::fact::FactKind;
use ::rules::testing::Origin;

fn kinds(pdus: &Value) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let key = |pdu: &Value| (text(&pdu["type"]), text(&pdu["state_key"]));
    pdus.as_array().expect("a list").iter().map(key).collect()
}

async fn joins(world: &World, version: &str) {
    let room_id = world.room(version, "public_chat").await;
    let yves = remote("yves");
    let template = world.make(&room_id, &yves, Step::Join).await.expect("public");
    assert_eq!(template.room_version.as_str(), version);
    let event = serde_json::to_value(&template.event).expect("JSON");
    assert_eq!(
        (
            &event["type"],
            &event["sender"],
            &event["state_key"],
            &event["room_id"],
            &event["content"]
        ),
        (
            &json!("m.room.member"),
            &json!(yves),
            &json!(yves),
            &json!(room_id),
            &json!({ "membership": "join" })
        )
    );
    assert_eq!(event["origin"], "x");
    assert!(event.get("signatures").is_none() && event.get("hashes").is_none());

    let before = world.view(&room_id).await;
    let (id, pdu) = world.sign(&template);
    let accepted = world
        .send(&room_id, (&id, &pdu), Step::Join)
        .await
        .expect("well signed");
    let room = world.view(&room_id).await;
    assert!(
        room.is_joined(&yves) && room.joined_servers.iter().any(|server| server == y()),
        "{version}"
    );

    let answer = read(join(world.hub.env(), &accepted, false).await);
    assert_eq!(answer["event"], pdu, "as it was sent");
    let expected: BTreeSet<_> = before
        .state
        .keys()
        .map(|(kind, key)| (kind.to_string(), key.to_string()))
        .collect();
    assert_eq!(kinds(&answer["state"]), expected, "the state before the join");
    assert_eq!(answer["servers_in_room"], json!(["x"]));
    let chain = kinds(&answer["auth_chain"]);
    for kind in ["m.room.create", "m.room.power_levels", "m.room.join_rules"] {
        assert!(chain.contains(&(kind.to_owned(), String::new())), "{version}: {kind}");
    }
    assert!(!chain.contains(&("m.room.member".to_owned(), yves.to_string())));

    // Whoever did not get the answer asks again.
    let again = world
        .send(&room_id, (&id, &pdu), Step::Join)
        .await
        .expect("known already");
    assert_eq!(again.event.nid, accepted.event.nid);
    let again = read(join(world.hub.env(), &again, false).await);
    assert_eq!(kinds(&again["state"]), expected);
}

#[test]
fn users_of_other_servers_join() {
    with_world(|world| async move {
        for version in ["1", "5", "10", "11", "12"] {
            joins(&world, version).await;
        }
    });
}

#[test]
fn members_can_be_left_out() {
    with_world(|world| async move {
        let room_id = world.room("11", "public_chat").await;
        for n in 0..12 {
            world
                .shake(&room_id, &remote(&format!("member{n}")), Step::Join)
                .await
                .expect("public");
        }
        let members = |answer: &Value| {
            let mut members = Vec::new();
            for pdu in answer["state"].as_array().expect("a list") {
                if pdu["type"] == "m.room.member" {
                    members.push(pdu["state_key"].as_str().expect("text").to_owned());
                }
            }
            members
        };
        // A room without a name is named after its members.
        let accepted = world
            .shake(&room_id, &remote("late"), Step::Join)
            .await
            .expect("public");
        let answer = read(join(world.hub.env(), &accepted, true).await);
        assert_eq!(answer["members_omitted"], true);
        assert_eq!(answer["servers_in_room"], json!(["x", "y"]));
        assert_eq!(members(&answer).len(), 5);
        let told: BTreeSet<_> = answer["state"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|pdu| World::id_of(pdu, "11"))
            .collect();
        let chain = answer["auth_chain"].as_array().expect("a list");
        assert!(
            chain.iter().all(|pdu| !told.contains(&World::id_of(pdu, "11"))),
            "nothing is told twice"
        );
        // Everything that is named is there.
        let all: BTreeSet<_> = chain
            .iter()
            .map(|pdu| World::id_of(pdu, "11"))
            .chain(told.iter().cloned())
            .collect();
        let named = chain
            .iter()
            .chain(answer["state"].as_array().expect("a list"))
            .chain([&answer["event"]]);
        for id in named.flat_map(|pdu| pdu["auth_events"].as_array().expect("a list")) {
            assert!(
                all.iter().any(|known| known == id.as_str().expect("text")),
                "{id} is missing"
            );
        }

        world
            .state(&room_id, "m.room.name", "", &json!({ "name": "Cats" }))
            .await;
        let accepted = world
            .shake(&room_id, &remote("later"), Step::Join)
            .await
            .expect("public");
        let answer = read(join(world.hub.env(), &accepted, true).await);
        assert_eq!((&answer["members_omitted"], members(&answer).len()), (&json!(true), 0));
        assert!(kinds(&answer["state"]).contains(&("m.room.name".to_owned(), String::new())));
        // Whoever was there before needs its former membership.
        world
            .shake(&room_id, &remote("later"), Step::Leave)
            .await
            .expect("joined");
        let accepted = world
            .shake(&room_id, &remote("later"), Step::Join)
            .await
            .expect("public");
        let answer = read(join(world.hub.env(), &accepted, true).await);
        assert_eq!(members(&answer), ["@later:y"]);
        let whole = read(join(world.hub.env(), &accepted, false).await);
        assert!(whole.get("members_omitted").is_none() && members(&whole).len() == 15);
    });
}

#[test]
fn templates_are_refused() {
    with_world(|world| async move {
        let room_id = world.room("11", "public_chat").await;
        let yves = remote("yves");
        let nowhere = room_id!("!nowhere:x");
        is_refused(world.make(nowhere, &yves, Step::Join).await, 404, "M_NOT_FOUND");
        is_refused(
            world.make(&room_id, &local("bob"), Step::Join).await,
            403,
            "M_FORBIDDEN",
        );
        let old = [RoomVersionId::V1, RoomVersionId::V10];
        let asked = Asked {
            origin: y(),
            room_id: &room_id,
            user: &yves,
            step: Step::Join,
            versions: Some(&old),
        };
        let refused = make(&world.hub, &asked).await.expect_err("too new");
        let crate::error::DomainError::Matrix {
            status, errcode, extra, ..
        } = refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!(
            (status, &*errcode, &extra["room_version"]),
            (400, "M_INCOMPATIBLE_ROOM_VERSION", &json!("11"))
        );

        let closed = world.room("11", "private_chat").await;
        is_refused(world.make(&closed, &yves, Step::Join).await, 403, "M_FORBIDDEN");
        world
            .state(&room_id, "m.room.member", "@yves:y", &json!({ "membership": "ban" }))
            .await;
        is_refused(world.make(&room_id, &yves, Step::Join).await, 403, "M_FORBIDDEN");
        world
            .state(&room_id, "m.room.server_acl", "", &json!({ "allow": ["x"] }))
            .await;
        is_refused(
            world.make(&room_id, &remote("yvonne"), Step::Join).await,
            403,
            "M_FORBIDDEN",
        );
    });
}

#[test]
fn joins_are_refused() {
    with_world(|world| async move {
        let room_id = world.room("11", "public_chat").await;
        let yves = remote("yves");
        let template = world.make(&room_id, &yves, Step::Join).await.expect("public");
        let (id, pdu) = world.sign(&template);
        let refused = async |id: &ruma::EventId, pdu: &Value| {
            is_refused(
                world.send(&room_id, (id, pdu), Step::Join).await,
                400,
                "M_INVALID_PARAM",
            );
        };
        // Changed after it was signed.
        let mut changed = pdu.clone();
        changed["content"]["displayname"] = json!("Mallory");
        refused(&World::id_of(&changed, "11"), &changed).await;
        // Signed by somebody else, or by nobody.
        let other = Origin::new("q");
        let forged = serde_json::to_value(&template.event).expect("JSON");
        let rules = crate::room::rules::rules_of("11").expect("supported");
        let mut forged = serde_json::to_value(other.sign(&forged, &rules)).expect("JSON");
        let signature = forged["signatures"]["q"].take();
        forged["signatures"] = json!({ "y": signature });
        refused(&World::id_of(&forged, "11"), &forged).await;
        forged["signatures"] = json!({});
        refused(&World::id_of(&forged, "11"), &forged).await;
        // Signed with a key that is not to be had.
        let mut unknown = pdu.clone();
        unknown["signatures"] = json!({ "y": { "ed25519:9": pdu["signatures"]["y"]["ed25519:1"] } });
        refused(&World::id_of(&unknown, "11"), &unknown).await;
        // Under another id, or in another room.
        refused(ruma::event_id!("$other"), &pdu).await;
        let elsewhere = world.room("11", "public_chat").await;
        is_refused(
            world.send(&elsewhere, (&id, &pdu), Step::Join).await,
            400,
            "M_INVALID_PARAM",
        );
        // Not what the endpoint is for.
        is_refused(
            world.send(&room_id, (&id, &pdu), Step::Leave).await,
            400,
            "M_INVALID_PARAM",
        );
        let with = |field: &str, value: Value| {
            let mut event = serde_json::to_value(&template.event).expect("JSON");
            event[field] = value;
            world.sign_value(&event, "11")
        };
        for (field, value) in [
            ("type", json!("m.room.message")),
            ("state_key", json!("@other:y")),
            ("sender", json!("@alice:x")),
            ("content", json!({ "membership": "invite" })),
            ("depth", json!("deep")),
        ] {
            let (id, pdu) = with(field, value);
            refused(&id, &pdu).await;
        }
        assert!(!world.view(&room_id).await.is_joined(&yves));
        world
            .send(&room_id, (&id, &pdu), Step::Join)
            .await
            .expect("it was good all along");
    });
}

#[test]
fn the_rules_are_asked_again_when_the_join_comes() {
    with_world(|world| async move {
        let room_id = world.room("11", "public_chat").await;
        let template = world.make(&room_id, &remote("yves"), Step::Join).await.expect("public");
        let (id, pdu) = world.sign(&template);
        world
            .state(&room_id, "m.room.member", "@yves:y", &json!({ "membership": "ban" }))
            .await;
        is_refused(world.send(&room_id, (&id, &pdu), Step::Join).await, 403, "M_FORBIDDEN");
        // Known by now, and still no member.
        is_refused(world.send(&room_id, (&id, &pdu), Step::Join).await, 403, "M_FORBIDDEN");

        let template = world
            .make(&room_id, &remote("yvonne"), Step::Join)
            .await
            .expect("public");
        let cut = |mut template: Template| {
            let nowhere = CanonicalJsonValue::String("$nowhere".to_owned());
            template
                .event
                .insert("prev_events".to_owned(), CanonicalJsonValue::Array(vec![nowhere]));
            template
        };
        let (id, pdu) = world.sign(&cut(template.clone()));
        is_refused(
            world.send(&room_id, (&id, &pdu), Step::Join).await,
            400,
            "M_INVALID_PARAM",
        );
        world
            .state(&room_id, "m.room.server_acl", "", &json!({ "allow": ["x"] }))
            .await;
        let (id, pdu) = world.sign(&template);
        is_refused(world.send(&room_id, (&id, &pdu), Step::Join).await, 403, "M_FORBIDDEN");
    });
}

#[test]
fn the_rooms_other_servers_get_it_from_us() {
    with_world(|world| async move {
        let room_id = world.room("11", "public_chat").await;
        world
            .shake(&room_id, &remote("yves"), Step::Join)
            .await
            .expect("public");
        let mut facts = world.hub.env().journal.subscribe();
        // Server `z` comes in, and later leaves.
        let z = Origin::new("z");
        world.know(&z).await;
        let zoe: OwnedUserId = "@zoe:z".try_into().expect("a user id");
        for step in [Step::Join, Step::Leave] {
            let asked = Asked {
                origin: server_name!("z"),
                room_id: &room_id,
                user: &zoe,
                step,
                versions: None,
            };
            let template = make(&world.hub, &asked).await.expect("public");
            let event = serde_json::to_value(&template.event).expect("JSON");
            let rules = rules_of("11").expect("supported");
            let pdu = serde_json::to_value(z.sign(&event, &rules)).expect("JSON");
            let id = World::id_of(&pdu, "11");
            let raw = super::world::raw(&pdu);
            let sent = Sent {
                origin: server_name!("z"),
                room_id: &room_id,
                event_id: &id,
                pdu: &raw,
                step,
            };
            send(&world.hub, &sent).await.expect("well signed");
            let told = loop {
                let next = tokio::time::timeout(Duration::from_secs(10), facts.recv()).await;
                let facts = next.expect("in time").expect("not lagging");
                let ours = facts.iter().find_map(|fact| match &fact.kind {
                    FactKind::Event { event, servers, .. } if event.pdu.event_id == id => Some(servers.clone()),
                    _ => None,
                });
                if let Some(servers) = ours {
                    break servers;
                }
            };
            assert!(told.iter().any(|server| server == y()), "{step:?}: {told:?}");
            assert!(!told.iter().any(|server| *server == world.hub.env().server_name));
        }
    });
}
