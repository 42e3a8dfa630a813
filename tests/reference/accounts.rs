//! Sections 3.1 to 3.6: versions, registration, log-ins, accounts, the user directory, devices, presence.

use reqwest::header::{CONTENT_TYPE, LOCATION};
use serde_json::{Value, json};

use super::world::World;
use crate::common::{
    client::{User, text},
    homeserver::Homeserver as _,
    mail::Mailbox,
};

pub async fn walk(world: &mut World) {
    front(world).await;
    registration(world).await;
    sessions(world).await;
    profiles(world).await;
    directory(world).await;
    devices(world).await;
    presence(world).await;
}

async fn front(world: &mut World) {
    let seen = world.section("3.1.1").seen().await;
    assert_eq!(seen.header(LOCATION).trim_end_matches('/'), "/_matrix/static");
    let seen = world.section("3.1.2").seen().await;
    assert_eq!(
        (seen.bytes.as_slice(), &seen.header(CONTENT_TYPE)[..10]),
        (&b"OK"[..], "text/plain")
    );
    let versions = world.section("3.1.3").done().await;
    let flags = &versions["unstable_features"];
    for flag in [
        "org.matrix.label_based_filtering",
        "org.matrix.e2e_cross_signing",
        "org.matrix.msc2432",
    ] {
        assert_eq!(flags[flag], true, "{flag}");
    }
    world.section("3.1.4").done().await;
}

async fn registration(world: &mut World) {
    world.section("3.2.1").query("username=alice").done().await;
    let sid = text(&world.section("3.2.2").done().await, "sid");
    let letter = world.mail.wait_for(super::world::MAIL).await;
    let token = Mailbox::token(&letter);
    let what = "confirms the address as the link in the mail does; `success`, and 400 for a wrong token";
    let validation = |token: &str| json!({ "sid": sid, "client_secret": "abc123", "token": token });
    let path = "/_matrix/client/r0/register/email/submitToken";
    let confirm = world.counted("POST", path, what).by_nobody();
    confirm.body(validation("wrong")).refused(400, "M_UNKNOWN_TOKEN").await;
    let confirm = world.counted("POST", path, what).by_nobody();
    let answer = confirm
        .body(validation(&token))
        .like(json!({ "success": true }))
        .done()
        .await;
    assert_eq!(answer["success"], true);

    let alice = world.section("3.2.3").done().await;
    world.section("3.2.3").refused(409, "M_USER_IN_USE").await;
    world
        .section("3.2.1")
        .query("username=alice")
        .refused(400, "M_USER_IN_USE")
        .await;
    world
        .section("3.2.1")
        .query("username=no%20name")
        .refused(400, "M_INVALID_USERNAME")
        .await;
    world
        .section("3.2.3")
        .field("username", json!("_no name"))
        .refused(400, "M_INVALID_USERNAME")
        .await;
    let alice = User::from_login(world.ours.client(), &alice);
    world.name("@alice:example.com", &alice.user_id);
    world.name("user_id", &alice.user_id);
    world.name("DEVICEID", &alice.device_id);
    world.name("device_id", &alice.device_id);
    world.alice = Some(alice);
    let bob = User::register(world.ours.client(), "bob").await;
    world.name("@bob:example.com", &bob.user_id);
    world.bob = Some(bob);
}

async fn sessions(world: &mut World) {
    // The device of the example is alice's, so that its log-in replaces her token.
    let login = world.section("3.2.4").done().await;
    world
        .section("3.2.4")
        .field("password", json!("wrong"))
        .refused(403, "M_FORBIDDEN")
        .await;
    let alice = User::from_login(world.ours.client(), &login);
    let renewal = json!({ "refresh_token": login["refresh_token"] });
    world.alice = Some(alice);
    let renewed = world.section("3.2.7").body(renewal).done().await;
    let renewed = json!({
        "user_id": login["user_id"], "device_id": login["device_id"], "access_token": renewed["access_token"],
    });
    world.alice = Some(User::from_login(world.ours.client(), &renewed));
    let who = world.section("3.3.1").done().await;
    assert_eq!(who["user_id"], world.alice().user_id);

    let (one, two) = (visitor(world, "one").await, visitor(world, "two").await);
    world.section("3.2.5").by(&one).done().await;
    world.section("3.3.1").by(&one).refused(401, "M_UNKNOWN_TOKEN").await;
    world.section("3.2.6").by(&two).done().await;
    world.section("3.3.1").by(&two).refused(401, "M_UNKNOWN_TOKEN").await;
    world.section("3.3.1").by_nobody().refused(401, "M_MISSING_TOKEN").await;

    let gone = visitor(world, "gone").await;
    let password = json!({ "new_password": "another password", "logout_devices": false });
    world.section("3.3.3").by(&gone).body(password).done().await;
    let body = json!({ "type": "m.login.password", "user": "gone", "password": "another password" });
    let again = world.section("3.2.4").body(body.clone()).done().await;
    let again = User::from_login(world.ours.client(), &again);
    let answer = world
        .section("3.3.2")
        .by(&again)
        .body(json!({ "erase": true }))
        .done()
        .await;
    assert_eq!(answer["id_server_unbind_result"], "success");
    world.section("3.2.4").body(body).refused(403, "M_FORBIDDEN").await;
}

/// A user with the password and session that the reference's registration gives.
pub async fn visitor(world: &mut World, name: &str) -> User {
    let body = json!({ "username": name, "password": "password123" });
    let answer = world.section("3.2.3").body(body).done().await;
    User::from_login(world.ours.client(), &answer)
}

async fn profiles(world: &mut World) {
    world.section("3.3.5").done().await;
    world.section("3.3.6").done().await;
    let profile = world.section("3.3.4").done().await;
    assert_eq!(profile["displayname"], "Alice Smith");
    world
        .section("3.3.4")
        .with("user_id", "@nobody:example.com")
        .refused(404, "M_NOT_FOUND")
        .await;
    // Bob has a name and a picture too: lists have them.
    let bob = world.bob().clone();
    world
        .section("3.3.5")
        .with("user_id", &bob.user_id)
        .by(&bob)
        .body(json!({ "displayname": "Bob" }))
        .done()
        .await;
    let picture = json!({ "avatar_url": "mxc://example.com/bob" });
    world
        .section("3.3.6")
        .with("user_id", &bob.user_id)
        .by(&bob)
        .body(picture)
        .done()
        .await;
    world.section("3.3.5").by(&bob).refused(403, "M_FORBIDDEN").await;
}

async fn directory(world: &mut World) {
    // Who shares a public room with the asker is found.
    let bob = world.bob().clone();
    let room = bob
        .create_room(json!({ "preset": "public_chat", "name": "Square" }))
        .await;
    world.alice().join(&room).await;
    let found = world.section("3.4.1").by(&bob).done().await;
    assert_eq!(found["results"][0]["user_id"], world.alice().user_id);
    let page = world.section("3.4.2").body(json!({ "limit": 1 })).done().await;
    let next = json!({ "limit": 1, "from": page["next_batch"] });
    let without_next = json!({ "results": [{ "user_id": "@a:b", "display_name": "A" }] });
    let second = world.section("3.4.2").body(next).like(without_next).done().await;
    assert_ne!(page["results"], second["results"]);
}

async fn devices(world: &mut World) {
    world.section("3.5.1").done().await;
    let device = world.section("3.5.2").done().await;
    assert_eq!(device["device_id"], world.alice().device_id);
    world
        .section("3.5.2")
        .with("device_id", "NONE")
        .refused(404, "M_NOT_FOUND")
        .await;
    world.section("3.5.3").done().await;
    assert_eq!(world.section("3.5.2").done().await["display_name"], "My Laptop");
    let password = |device: &str| json!({ "type": "m.login.password", "user": "alice", "password": "password123", "device_id": device });
    for device in ["SPARE", "DEVICE1", "DEVICE2"] {
        world.section("3.2.4").body(password(device)).done().await;
    }
    world.section("3.5.4").with("device_id", "SPARE").done().await;
    world.section("3.5.5").done().await;
    let left = world.section("3.5.1").done().await;
    assert_eq!(left["devices"].as_array().map(Vec::len), Some(1), "{left}");
}

async fn presence(world: &mut World) {
    world.section("3.6.2").done().await;
    let seen = world.section("3.6.1").done().await;
    assert_eq!(seen["status_msg"], Value::from("Working from home"));
    world
        .section("3.6.2")
        .field("presence", json!("asleep"))
        .refused(400, "M_INVALID_PARAM")
        .await;
}
