//! Invites that come from server `y`.

use ruma::api::federation::membership::RawStrippedState;
use ruma::canonical_json::CanonicalJsonObject;
use ruma::{OwnedRoomId, RoomId, server_name};
use serde_json::{Value, json};

use super::world::{World, is_refused, local, raw, with_world, y};
use crate::error::Outcome;
use crate::flows::hosting::{Invitation, receive};
use crate::room::event::Pdu;
use crate::room::rules::rules_of;
use crate::session::account::Registration;
use crate::session::commands::SessionCommand;
use crate::session::data::DataCommand;
use ::rules::testing::{Origin, create, event};

/// A room of server `y`, as far as those see it whom it invites.
struct Remote {
    version: &'static str,
    room_id: OwnedRoomId,
    create: Pdu,
    name: Pdu,
}

impl Remote {
    fn new(world: &World, version: &'static str) -> Self {
        let rules = rules_of(version).expect("supported");
        let create = create(&world.y, &rules, version, "@yves:y");
        let auth = Self::auth(version, &create);
        let refs = (&[&create][..], auth.as_slice());
        let mut name = event(
            &rules,
            "m.room.name",
            "@yves:y",
            Some(""),
            json!({ "name": "Y" }),
            refs,
            2,
        );
        name["room_id"] = json!(create.room_id);
        Self {
            version,
            room_id: create.room_id.clone(),
            name: world.y.pdu(&name, &rules),
            create,
        }
    }

    /// Where the room is named after its create event, nobody names that event.
    fn auth<'a>(version: &str, create: &'a Pdu) -> Vec<&'a Pdu> {
        let rules = rules_of(version).expect("supported");
        let named = !rules.authorization.room_create_event_id_as_room_id;
        named.then_some(create).into_iter().collect()
    }

    fn invite(&self, by: &Origin, change: impl FnOnce(&mut Value)) -> Pdu {
        let rules = rules_of(self.version).expect("supported");
        let content = json!({ "membership": "invite" });
        let auth = Self::auth(self.version, &self.create);
        let refs = (&[&self.name][..], auth.as_slice());
        let mut invite = event(&rules, "m.room.member", "@yves:y", Some("@bob:x"), content, refs, 3);
        invite["room_id"] = json!(self.room_id);
        change(&mut invite);
        by.pdu(&invite, &rules)
    }

    fn state(&self) -> Vec<Value> {
        let value = |pdu: &Pdu| serde_json::from_str(&pdu.json).expect("JSON");
        vec![value(&self.create), value(&self.name)]
    }
}

async fn deliver(
    world: &World,
    room: &Remote,
    room_id: &RoomId,
    invite: &Pdu,
    state: &[Value],
) -> Outcome<CanonicalJsonObject> {
    let event = serde_json::value::RawValue::from_string(invite.json.to_string()).expect("JSON");
    let state = state
        .iter()
        .map(|event| serde_json::from_value::<RawStrippedState>(event.clone()).expect("an object"));
    let invitation = Invitation {
        origin: y(),
        room_id,
        event_id: &invite.event_id,
        version: room.version.try_into().expect("a version"),
        event: &event,
        state: state.collect(),
    };
    receive(&world.hub, invitation).await
}

async fn register(world: &World, name: &str) {
    let new = Registration {
        password_hash: None,
        guest: false,
        admin: false,
        displayname: None,
        device: None,
    };
    world
        .hub
        .sessions()
        .register(&local(name), new)
        .await
        .expect("a new user");
}

/// Type and content of what the invited user is told.
async fn told(world: &World, room_id: &RoomId) -> Vec<(String, Value)> {
    let store = &world.hub.env().store;
    let row = store
        .room_by_id(room_id.as_str())
        .await
        .expect("readable")
        .expect("there");
    let membership = store
        .membership(row.nid, "@bob:x")
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(membership.membership, "invite");
    let stripped = store
        .stripped_state(row.nid, "@bob:x")
        .await
        .expect("readable")
        .expect("there");
    let events: Vec<Value> = serde_json::from_str(&stripped.events).expect("JSON");
    let shown = |event: &Value| {
        (
            event["type"].as_str().expect("text").to_owned(),
            event["content"].clone(),
        )
    };
    events.iter().map(shown).collect()
}

#[test]
fn invites_are_signed_and_kept() {
    with_world(|world| async move {
        register(&world, "bob").await;
        for version in ["1", "10", "12"] {
            let room = Remote::new(&world, version);
            let invite = room.invite(&world.y, |_| {});
            let state = room.state();
            let signed = deliver(&world, &room, &room.room_id, &invite, &state)
                .await
                .expect("a good invite");
            let signed = serde_json::to_value(&signed).expect("JSON");
            let mut expected: Value = serde_json::from_str(&invite.json).expect("JSON");
            assert!(signed["signatures"]["x"].is_object(), "{version}");
            expected["signatures"]["x"] = signed["signatures"]["x"].clone();
            assert_eq!(signed, expected, "nothing but the signature is new");
            let told = told(&world, &room.room_id).await;
            assert!(
                told.contains(&("m.room.name".to_owned(), json!({ "name": "Y" }))),
                "{version}"
            );
            assert!(told.contains(&("m.room.member".to_owned(), json!({ "membership": "invite" }))));
            assert!(told.iter().any(|(kind, _)| kind == "m.room.create"));
        }
    });
}

#[test]
fn what_is_no_invite_is_not_signed() {
    with_world(|world| async move {
        register(&world, "bob").await;
        let room = Remote::new(&world, "10");
        let state = room.state();
        let refused = async |invite: &Pdu| {
            let outcome = deliver(&world, &room, &room.room_id, invite, &state).await;
            is_refused(outcome, 400, "M_INVALID_PARAM");
        };
        refused(&room.invite(&world.y, |event| event["content"]["membership"] = json!("join"))).await;
        refused(&room.invite(&world.y, |event| event["type"] = json!("m.room.topic"))).await;
        refused(&room.invite(&world.y, |event| event["state_key"] = json!("@zoe:z"))).await;
        refused(&room.invite(&world.y, |event| event["sender"] = json!("@zoe:z"))).await;
        refused(&room.invite(&world.y, |event| event["room_id"] = json!("!other:y"))).await;
        // Not signed by its server.
        let mut forged = room.invite(&Origin::new("q"), |_| {});
        refused(&forged).await;
        forged.json = forged.json.replace("\"q\":", "\"y\":").into();
        refused(&forged).await;
        // Changed after it was signed.
        let mut changed = room.invite(&world.y, |_| {});
        changed.json = changed
            .json
            .replace("\"origin_server_ts\":3", "\"origin_server_ts\":4")
            .into();
        refused(&changed).await;

        let invite = room.invite(&world.y, |_| {});
        let future = Remote {
            version: "99",
            ..Remote::new(&world, "10")
        };
        let outcome = deliver(&world, &future, &room.room_id, &invite, &state).await;
        is_refused(outcome, 400, "M_INCOMPATIBLE_ROOM_VERSION");
    });
}

#[test]
fn who_is_not_there_or_wants_no_invites_gets_none() {
    with_world(|world| async move {
        let room = Remote::new(&world, "10");
        let (invite, state) = (room.invite(&world.y, |_| {}), room.state());
        let outcome = deliver(&world, &room, &room.room_id, &invite, &state).await;
        is_refused(outcome, 403, "M_FORBIDDEN");
        register(&world, "bob").await;
        let set = async |action: &str| {
            let command = DataCommand::SetAccountData {
                room_id: None,
                kind: "m.invite_permission_config".to_owned(),
                content: raw(&json!({ "default_action": action })),
            };
            let asked = world
                .hub
                .sessions()
                .ask(&local("bob"), SessionCommand::Data(command))
                .await;
            asked.expect("set");
        };
        set("block").await;
        let outcome = deliver(&world, &room, &room.room_id, &invite, &state).await;
        is_refused(outcome, 403, "M_INVITE_BLOCKED");
        set("allow").await;
        deliver(&world, &room, &room.room_id, &invite, &state)
            .await
            .expect("allowed again");
        world
            .hub
            .sessions()
            .deactivate(&local("bob"), false)
            .await
            .expect("there");
        let outcome = deliver(&world, &room, &room.room_id, &invite, &state).await;
        is_refused(outcome, 403, "M_FORBIDDEN");
    });
}

#[test]
fn the_state_that_comes_along_must_be_the_rooms() {
    with_world(|world| async move {
        register(&world, "bob").await;
        let room = Remote::new(&world, "12");
        let invite = room.invite(&world.y, |_| {});
        let state = room.state();
        let refused = async |state: &[Value]| {
            let outcome = deliver(&world, &room, &room.room_id, &invite, state).await;
            is_refused(outcome, 400, "M_INVALID_PARAM");
        };
        refused(&[]).await;
        refused(&state[1..]).await;
        // Stripped as before version 12.
        let stripped = json!({ "type": "m.room.create", "state_key": "", "sender": "@yves:y", "content": {} });
        refused(&[stripped]).await;
        // Of another room, or with another content than was signed.
        let other = Remote::new(
            &World {
                hub: world.hub.clone(),
                y: Origin::new("q"),
            },
            "12",
        );
        refused(&[state[0].clone(), other.state()[1].clone()]).await;
        refused(&other.state()).await;
        let mut forged = state.clone();
        forged[1]["content"]["name"] = json!("Bank");
        refused(&forged).await;

        // Before, servers sent less, and what is not right is left out.
        let old = Remote::new(&world, "10");
        let invite = old.invite(&world.y, |_| {});
        let stripped = json!({
            "type": "m.room.topic", "state_key": "", "sender": "@yves:y", "content": { "topic": "T" }, "more": 1,
        });
        let mut forged = old.state()[1].clone();
        forged["content"]["name"] = json!("Bank");
        let state = [stripped, forged, json!({ "type": 7 })];
        deliver(&world, &old, &old.room_id, &invite, &state)
            .await
            .expect("a good invite");
        let told = told(&world, &old.room_id).await;
        assert_eq!(
            told,
            [
                ("m.room.member".to_owned(), json!({ "membership": "invite" })),
                ("m.room.topic".to_owned(), json!({ "topic": "T" })),
            ]
        );
    });
}

#[test]
fn invites_to_a_room_that_we_are_in_come_as_events() {
    with_world(|world| async move {
        register(&world, "bob").await;
        let room_id = world.room("10", "public_chat").await;
        let levels = json!({ "users": { "@alice:x": 100 }, "invite": 0 });
        world.state(&room_id, "m.room.power_levels", "", &levels).await;
        let template = {
            world
                .shake(
                    &room_id,
                    &super::world::remote("yves"),
                    crate::flows::hosting::Step::Join,
                )
                .await
                .expect("public");
            let draft = crate::room::commands::Draft::state(
                super::world::remote("yves"),
                "m.room.member",
                "@bob:x",
                raw(&json!({ "membership": "invite" })),
            );
            let (env, room) = (world.hub.env(), world.view(&room_id).await);
            crate::room::export::template::unsigned(env, &room, &draft)
                .await
                .expect("allowed")
        };
        let (id, pdu) = world.sign_value(&serde_json::to_value(&template).expect("JSON"), "10");
        let event = raw(&pdu);
        let invitation = |origin| Invitation {
            origin,
            room_id: &room_id,
            event_id: &id,
            version: ruma::RoomVersionId::V10,
            event: &event,
            state: Vec::new(),
        };
        let signed = receive(&world.hub, invitation(y())).await.expect("a good invite");
        assert!(signed.contains_key("signatures"));
        assert_eq!(world.view(&room_id).await.membership(&local("bob")), "leave", "not yet");
        is_refused(
            receive(&world.hub, invitation(server_name!("z"))).await,
            400,
            "M_INVALID_PARAM",
        );
        world
            .state(&room_id, "m.room.server_acl", "", &json!({ "allow": ["x"] }))
            .await;
        is_refused(receive(&world.hub, invitation(y())).await, 403, "M_FORBIDDEN");
    });
}
