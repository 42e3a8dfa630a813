//! Policy servers: who asks them, what they refuse, and what becomes of events without their signature.

use std::slice::from_ref;

use serde_json::{Value, json};
use toml::Table;

use super::{
    remote::{
        Remote,
        room::{Membership, VERSION, event_id},
    },
    scenarios::{converse, eventually, has_state, join_via, meet, sees, texts},
};
use crate::common::{
    authority::Authority,
    client::{AnswerExt, User, encode},
    db::Backend,
    homeserver::{Homeserver, Ours},
};

/// Makes a server a policy server that does not like spam.
fn protects(config: &mut Table) {
    let key = config["signing_key_path"].as_str().expect("a path");
    let policy = toml::toml! {
        enabled = true
        refused_words = ["Spam"]
        refused_users = ["@troll*"]
        refused_servers = ["*.evil.example"]
    };
    let mut policy = policy;
    policy.insert("signing_key_path".to_owned(), format!("{key}.policy").into());
    config.insert("policy_server".to_owned(), policy.into());
}

/// A room of alice's server that the other server protects, whose user bob is in it.
struct Scene {
    here: Ours,
    there: Ours,
    alice: User,
    bob: User,
    room: String,
    authority: Authority,
}

impl Scene {
    async fn set(backend: Backend) -> Self {
        let authority = Authority::create();
        let (here, there) = tokio::join!(
            Ours::start(backend, &authority, "127.0.0.1"),
            Ours::start_with(backend, &authority, "localhost", protects),
        );
        let (alice, bob) = tokio::join!(
            User::register(here.client(), "alice"),
            User::register(there.client(), "bob")
        );
        let options = json!({ "preset": "public_chat", "room_version": VERSION });
        let room = alice.create_room(options).await;
        join_via(&bob, &room, &[here.name()]).await.ok();
        meet(&room, &[&alice, &bob]).await;
        let told = there.client().get("/.well-known/matrix/policy_server").await.ok();
        let content = json!({ "via": there.name(), "public_keys": told["public_keys"] });
        alice.set_state(&room, "m.room.policy", "", content.clone()).await;
        has_state(&bob, &room, ("m.room.policy", ""), "/via", content["via"].clone()).await;
        Self {
            here,
            there,
            alice,
            bob,
            room,
            authority,
        }
    }

    async fn says(&self, user: &User, body: &str) -> (u16, Value) {
        let path = format!("rooms/{}/send/m.room.message/{}", encode(&self.room), encode(body));
        user.put(&path, json!({ "msgtype": "m.text", "body": body })).await
    }

    /// The event as another server gets it.
    async fn pdu(&self, remote: &Remote, from: &Ours, id: &str) -> Value {
        let path = format!("/_matrix/federation/v1/event/{}", encode(id));
        remote.get(from, &path).await.ok()["pdus"][0].clone()
    }
}

async fn what_it_refuses_is_not_sent(backend: Backend) {
    let scene = Scene::set(backend).await;
    converse(&scene.room, &[&scene.alice, &scene.bob]).await;
    for user in [&scene.alice, &scene.bob] {
        scene.says(user, "buy SPAM now").await.refused(400, "M_FORBIDDEN");
        scene.says(user, "a good word").await.ok();
    }
    // A state event as well, and the sender may not have said it.
    let path = format!("rooms/{}/state/m.room.topic/", encode(&scene.room));
    let topic = scene.alice.put(&path, json!({ "topic": "spam" })).await;
    topic.refused(400, "M_FORBIDDEN");
    scene.alice.get(&path).await.refused(404, "M_NOT_FOUND");
    for user in [&scene.alice, &scene.bob] {
        eventually("what was good, and no more", async || {
            let texts = texts(user, &scene.room).await;
            let good = texts.iter().filter(|text| *text == "a good word").count();
            assert!(!texts.iter().any(|text| text.contains("SPAM")), "{texts:?}");
            if good == 2 { Ok(()) } else { Err(format!("{texts:?}")) }
        })
        .await;
    }
    // Many at once: what is refused takes none of the others with it.
    let bodies: Vec<String> = (0..10)
        .map(|number| format!("{number}{}", if number % 3 == 0 { " spam" } else { "" }))
        .collect();
    let sent = bodies.iter().map(|body| scene.says(&scene.alice, body));
    for (body, (status, answer)) in bodies.iter().zip(futures_util::future::join_all(sent).await) {
        assert_eq!(status == 200, !body.contains("spam"), "{body}: {status} {answer}");
    }
    // New members are events, too.
    let troll = User::register(scene.here.client(), "troll7").await;
    let path = format!("rooms/{}/join", encode(&scene.room));
    troll.post(&path, json!({})).await.refused(400, "M_FORBIDDEN");
    let carol = User::register(scene.here.client(), "carol").await;
    carol.join(&scene.room).await;
    converse(&scene.room, &[&scene.bob, &carol]).await;
}

async fn what_it_did_not_sign_is_not_shown(backend: Backend) {
    let scene = Scene::set(backend).await;
    let remote = Remote::start(&scene.authority).await;
    // Its join is not signed by the policy server, which is asked by the server that lets it in.
    let mut at = Membership::join(&remote, &scene.here, &scene.room, "mallory").await;
    meet_remote(&scene, &at.user_id).await;
    let spam = at.message("spam");
    remote.send(&scene.here, from_ref(&spam), &[]).await.ok();
    let fine = at.message("fine");
    remote.send(&scene.here, from_ref(&fine), &[]).await.ok();
    let id = event_id(&fine);
    sees(&scene.alice, &scene.room, &id).await;
    let path = format!("rooms/{}/event/{}", encode(&scene.room), encode(&event_id(&spam)));
    scene.alice.get(&path).await.refused(404, "M_NOT_FOUND");
    // The signature it got is kept with the event.
    let pdu = scene.pdu(&remote, &scene.here, &id).await;
    assert!(
        pdu["signatures"][scene.there.name()]["ed25519:policy_server"].is_string(),
        "{pdu}"
    );
    assert!(pdu["signatures"][remote.name()].is_object(), "{pdu}");
    let own = scene.alice.send_text(&scene.room, "mine").await;
    let pdu = scene.pdu(&remote, &scene.here, &own).await;
    assert!(
        pdu["signatures"][scene.there.name()]["ed25519:policy_server"].is_string(),
        "{pdu}"
    );
    // A forged signature is as good as none.
    at.follow(&fine);
    let mut forged = at.message("spam again");
    forged["signatures"][scene.there.name()] = json!({ "ed25519:policy_server": "A".repeat(86) });
    remote.send(&scene.here, from_ref(&forged), &[]).await.ok();
    let after = at.message("after it");
    remote.send(&scene.here, from_ref(&after), &[]).await.ok();
    sees(&scene.alice, &scene.room, &event_id(&after)).await;
    let path = format!("rooms/{}/event/{}", encode(&scene.room), encode(&event_id(&forged)));
    scene.alice.get(&path).await.refused(404, "M_NOT_FOUND");
}

/// Waits until bob's server knows the peer's user, too.
async fn meet_remote(scene: &Scene, user: &str) {
    for reader in [&scene.alice, &scene.bob] {
        has_state(
            reader,
            &scene.room,
            ("m.room.member", user),
            "/membership",
            json!("join"),
        )
        .await;
    }
}

async fn a_room_gets_rid_of_one_that_is_away(backend: Backend) {
    let scene = Scene::set(backend).await;
    scene.says(&scene.alice, "while it is there").await.ok();
    scene.there.server.kill();
    let (status, answer) = scene.says(&scene.alice, "while it is away").await;
    assert!([502, 503].contains(&status), "{status} {answer}");
    assert!(answer["errcode"].is_string(), "{answer}");
    scene.alice.set_state(&scene.room, "m.room.policy", "", json!({})).await;
    let id = scene.alice.send_text(&scene.room, "without it").await;
    sees(&scene.alice, &scene.room, &id).await;
    let texts = texts(&scene.alice, &scene.room).await;
    assert_eq!(texts, ["while it is there", "without it"]);
}

async fn it_signs_for_its_rooms_only(backend: Backend) {
    let scene = Scene::set(backend).await;
    let remote = Remote::start(&scene.authority).await;
    let at = Membership::join(&remote, &scene.here, &scene.room, "mallory").await;
    let path = "/_matrix/policy/v1/sign";
    let ask = async |of: &Ours, event: &Value| remote.request(of, "POST", path, Some(event)).await;
    let good = at.message("fine");
    // Not a policy server.
    ask(&scene.here, &good).await.refused(404, "M_UNRECOGNIZED");
    let client = scene.here.client();
    let none = client.get("/.well-known/matrix/policy_server").await;
    none.refused(404, "M_NOT_FOUND");
    let signed = ask(&scene.there, &good).await.ok();
    assert!(
        signed[scene.there.name()]["ed25519:policy_server"].is_string(),
        "{signed}"
    );
    assert_eq!(signed.as_object().map(serde_json::Map::len), Some(1), "{signed}");
    ask(&scene.there, &at.message("spam")).await.refused(400, "M_FORBIDDEN");
    // Its content is not what the hash says: what is signed could be shown with another one.
    let mut changed = at.message("spam");
    changed["content"]["body"] = json!("fine");
    ask(&scene.there, &changed).await.refused(400, "M_BAD_JSON");
    let mut other = at.draft("m.room.message", json!({ "body": "fine" }));
    other["room_id"] = json!("!elsewhere:example.org");
    ask(&scene.there, &at.sign(&other)).await.refused(404, "M_NOT_FOUND");
    ask(&scene.there, &json!({ "room_id": scene.room }))
        .await
        .refused(400, "M_BAD_JSON");
    // Nobody else's word.
    let body = Some(good.to_string());
    let unsigned = super::remote::submit(scene.there.client(), "POST", path, "X-Matrix", body).await;
    unsigned.refused(401, "M_UNAUTHORIZED");
    // Servers that the room keeps out.
    let acl = json!({ "allow": ["*"], "deny": ["localhost"] });
    scene.alice.set_state(&scene.room, "m.room.server_acl", "", acl).await;
    has_state(
        &scene.bob,
        &scene.room,
        ("m.room.server_acl", ""),
        "/allow/0",
        json!("*"),
    )
    .await;
    ask(&scene.there, &good).await.refused(403, "M_FORBIDDEN");
}

super::both_backends! {
    what_it_refuses_is_not_sent
    what_it_did_not_sign_is_not_shown
    a_room_gets_rid_of_one_that_is_away
    it_signs_for_its_rooms_only
}
