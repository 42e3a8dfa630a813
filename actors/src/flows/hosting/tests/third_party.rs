//! Third-party invites.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ruma::api::federation::thirdparty::bind_callback::v1::ThirdPartyInvite;
use ruma::canonical_json::CanonicalJsonObject;
use ruma::serde::Raw;
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use super::world::{World, is_refused, local, raw, remote, with_world, y};
use crate::flows::hosting::{Exchange, bound, exchange};
use crate::flows::remote::testing::with_resident;
use crate::key::ServerKey;
use crate::peer::testing::{answer, ok};
use crate::session::account::Registration;

/// An identity server.
struct Identity {
    key: ServerKey,
}

impl Identity {
    fn new() -> Self {
        Self {
            key: ServerKey::new(&[9; 32], "0"),
        }
    }

    fn public_key(&self) -> String {
        STANDARD_NO_PAD.encode(self.key.public_key())
    }

    fn sign(&self, mxid: &str, token: &str) -> Value {
        let object = json!({ "mxid": mxid, "token": token });
        let mut object: CanonicalJsonObject = serde_json::from_value(object).expect("canonical JSON");
        ruma::signatures::sign_json("id", &self.key, &mut object).expect("signable");
        serde_json::to_value(object).expect("JSON")
    }
}

/// A room into which `@alice:x` has invited whoever has an address.
async fn room(world: &World, identity: &Identity) -> OwnedRoomId {
    let room_id = world.room("11", "private_chat").await;
    let offer = json!({
        "display_name": "b…@e…",
        "key_validity_url": "https://id/valid",
        "public_key": identity.public_key(),
    });
    world
        .state(&room_id, "m.room.third_party_invite", "token", &offer)
        .await;
    room_id
}

fn claim(room_id: &RoomId, user: &str, signed: &Value) -> Exchange {
    Exchange {
        room_id: room_id.to_owned(),
        sender: local("alice"),
        user: user.try_into().expect("a user id"),
        signed: raw(signed),
    }
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

#[test]
fn tokens_are_exchanged_for_invites() {
    with_world(|world| async move {
        let identity = Identity::new();
        let room_id = room(&world, &identity).await;
        let signed = identity.sign("@bob:x", "token");
        let good = claim(&room_id, "@bob:x", &signed);
        let id = exchange(&world.hub, y(), &good).await.expect("signed");
        let view = world.view(&room_id).await;
        assert_eq!(view.membership(&local("bob")), "invite");
        let invite = view.state_event("m.room.member", "@bob:x").expect("there");
        let content: Value = invite.pdu.content_as().expect("an object");
        assert_eq!(
            content["third_party_invite"],
            json!({ "display_name": "b…@e…", "signed": signed })
        );
        assert_eq!(exchange(&world.hub, y(), &good).await.expect("again"), id);
    });
}

#[test]
fn tokens_that_prove_nothing_are_refused() {
    with_world(|world| async move {
        let identity = Identity::new();
        let room_id = room(&world, &identity).await;
        let hub = &world.hub;
        let refused = async |claim: Exchange, status, errcode| {
            is_refused(exchange(hub, y(), &claim).await, status, errcode);
        };
        let signed = identity.sign("@bob:x", "token");
        refused(claim(&room_id, "@eve:x", &signed), 400, "M_INVALID_PARAM").await;
        refused(
            claim(&room_id, "@bob:x", &identity.sign("@bob:x", "other")),
            403,
            "M_FORBIDDEN",
        )
        .await;
        let mut forged = signed.clone();
        forged["mxid"] = json!("@eve:x");
        refused(claim(&room_id, "@eve:x", &forged), 403, "M_FORBIDDEN").await;
        refused(
            claim(&room_id, "@bob:x", &json!({ "mxid": "@bob:x" })),
            400,
            "M_INVALID_PARAM",
        )
        .await;
        refused(
            claim(ruma::room_id!("!nowhere:x"), "@bob:x", &signed),
            404,
            "M_NOT_FOUND",
        )
        .await;
        let by_other = Exchange {
            sender: remote("yves"),
            ..claim(&room_id, "@bob:x", &signed)
        };
        refused(by_other, 403, "M_FORBIDDEN").await;
        let by_another = Exchange {
            sender: local("carol"),
            ..claim(&room_id, "@bob:x", &signed)
        };
        refused(by_another, 403, "M_FORBIDDEN").await;
        world
            .state(&room_id, "m.room.server_acl", "", &json!({ "allow": ["x"] }))
            .await;
        refused(claim(&room_id, "@bob:x", &signed), 403, "M_FORBIDDEN").await;
        assert_eq!(world.view(&room_id).await.membership(&local("bob")), "leave");

        for (content, errcode) in [
            (
                json!({ "membership": "join", "third_party_invite": { "signed": signed } }),
                "M_INVALID_PARAM",
            ),
            (json!({ "membership": "invite" }), "M_MISSING_PARAM"),
            (json!({ "membership": "invite", "third_party_invite": 7 }), "M_BAD_JSON"),
        ] {
            let claim = Exchange::of(room_id.clone(), local("alice"), local("bob"), &raw(&content));
            is_refused(claim, 400, errcode);
        }
    });
}

#[test]
fn a_bound_address_brings_its_invites() {
    with_world(|world| async move {
        register(&world, "bob").await;
        let identity = Identity::new();
        let (one, two) = (room(&world, &identity).await, room(&world, &identity).await);
        let invite = |room_id: &OwnedRoomId, signed: Value| {
            let signed = Raw::from_json(raw(&signed));
            ThirdPartyInvite::new("b@e".to_owned(), local("bob"), room_id.clone(), local("alice"), signed)
        };
        // One that proves nothing does not hold up the others.
        let invites = vec![
            invite(&one, identity.sign("@bob:x", "other")),
            invite(&one, json!({ "mxid": "@bob:x", "token": "token", "signatures": {} })),
            invite(&two, identity.sign("@bob:x", "token")),
        ];
        bound(&world.hub, &local("bob"), invites.clone()).await.expect("taken");
        assert_eq!(world.view(&one).await.membership(&local("bob")), "leave");
        assert_eq!(world.view(&two).await.membership(&local("bob")), "invite");
        is_refused(
            bound(&world.hub, &remote("bob"), invites.clone()).await,
            400,
            "M_INVALID_PARAM",
        );
        is_refused(
            bound(&world.hub, &local("nobody"), invites).await,
            400,
            "M_INVALID_PARAM",
        );
    });
}

#[test]
fn the_room_may_belong_to_others_too() {
    with_world(|world| async move {
        // The inviting user is of `y`, the room is also here.
        register(&world, "bob").await;
        let identity = Identity::new();
        let room_id = world.room("11", "public_chat").await;
        let yves = remote("yves");
        world
            .shake(&room_id, &yves, crate::flows::hosting::Step::Join)
            .await
            .expect("public");
        let levels = json!({ "users": { "@alice:x": 100, "@yves:y": 100 } });
        world.state(&room_id, "m.room.power_levels", "", &levels).await;
        let offer = crate::room::commands::Draft::state(
            yves.clone(),
            "m.room.third_party_invite",
            "token",
            raw(&json!({ "display_name": "b", "key_validity_url": "https://id", "public_key": identity.public_key() })),
        );
        let (env, view) = (world.hub.env(), world.view(&room_id).await);
        let template = crate::room::export::template::unsigned(env, &view, &offer)
            .await
            .expect("allowed");
        let (_, pdu) = world.sign_value(&serde_json::to_value(&template).expect("JSON"), "11");
        let rules = view.rules.clone();
        let pdu = crate::room::parse::parse_pdu(&pdu.to_string(), &rules, None).expect("well-formed");
        let ingest = crate::room::commands::Ingest {
            pdus: vec![crate::room::commands::Incoming::of(&pdu)],
            outliers: Vec::new(),
        };
        let verdicts = world.hub.rooms().ingest(&room_id, ingest).await.expect("placed");
        assert_eq!(verdicts, [crate::room::commands::Verdict::Accepted]);

        let signed = Raw::from_json(raw(&identity.sign("@bob:x", "token")));
        let invite = ThirdPartyInvite::new("b@e".to_owned(), local("bob"), room_id.clone(), yves.clone(), signed);
        bound(&world.hub, &local("bob"), vec![invite]).await.expect("taken");
        let view = world.view(&room_id).await;
        let invite = view.state_event("m.room.member", "@bob:x").expect("there");
        assert!(invite.pdu.has_membership("invite") && invite.pdu.sender == yves);
        let pdu: BTreeMap<String, Value> = serde_json::from_str(&invite.pdu.json).expect("JSON");
        assert!(pdu["signatures"]["x"].is_object(), "signed by who sent it");
    });
}

#[test]
fn the_server_of_the_invited_user_signs() {
    with_resident("11", |world, hub, resident| async move {
        let here = World::of(hub);
        let identity = Identity::new();
        let room_id = room(&here, &identity).await;
        resident.room().room_id = room_id.clone();
        let signed = identity.sign("@yves:y", "token");
        let claim = claim(&room_id, "@yves:y", &signed);
        let id = exchange(&here.hub, y(), &claim).await.expect("signed");
        let view = here.view(&room_id).await;
        let invite = view.state_event("m.room.member", "@yves:y").expect("there");
        assert!(invite.pdu.has_membership("invite") && invite.pdu.event_id == id);
        let pdu: Value = serde_json::from_str(&invite.pdu.json).expect("JSON");
        assert!(pdu["signatures"]["x"].is_object() && pdu["signatures"]["y"].is_object());
        assert_eq!(pdu["content"]["third_party_invite"]["signed"], signed);
        let heard = world.wire.heard();
        assert!(heard.iter().any(|heard| heard.path.contains("/v2/invite/")));
    });
}

#[test]
fn invites_to_rooms_of_others_are_claimed_there() {
    with_resident("11", |world, hub, _| async move {
        let here = World::of(hub);
        register(&here, "bob").await;
        world.wire.script(|_| answer(ok(&json!({}))));
        let signed = Identity::new().sign("@bob:x", "token");
        let invite = |room_id: &str, sender: &str, signed: &Value| {
            let (room_id, sender) = (room_id.try_into(), sender.try_into());
            let signed = Raw::from_json(raw(signed));
            let (room_id, sender) = (room_id.expect("a room id"), sender.expect("a user id"));
            ThirdPartyInvite::new("b@e".to_owned(), local("bob"), room_id, sender, signed)
        };
        let other = Identity::new().sign("@eve:x", "token");
        let invites = vec![
            invite("!theirs:y", "@yves:y", &signed),
            // What was signed for somebody else is not even asked for.
            invite("!theirs:q", "@quin:q", &other),
            // A room that nobody knows, by a user of this server.
            invite("!gone:x", "@alice:x", &signed),
        ];
        bound(&here.hub, &local("bob"), invites).await.expect("taken");
        let heard = world.wire.heard();
        let [asked] = heard.as_slice() else {
            panic!("{heard:?}");
        };
        assert_eq!(asked.method, "PUT");
        assert!(
            asked.path.contains("/v1/exchange_third_party_invite/"),
            "{}",
            asked.path
        );
        let body = asked.json();
        assert_eq!(
            (&body["sender"], &body["state_key"]),
            (&json!("@yves:y"), &json!("@bob:x"))
        );
        assert_eq!(body["content"]["third_party_invite"]["signed"], signed);
        assert_eq!(asked.server, "y");
    });
}
