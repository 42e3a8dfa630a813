//! Section 4: the administrator's endpoints.

use serde_json::{Value, json};

use super::{accounts::visitor, shapes::SHAPES, world::World};
use crate::common::{
    client::{User, encode, text},
    homeserver::Homeserver as _,
};

pub async fn walk(world: &mut World) {
    guards(world).await;
    server(world).await;
    users(world).await;
    registration(world).await;
    rooms(world).await;
    security(world).await;
}

/// Nobody and an ordinary user get nothing from any of them.
async fn guards(world: &mut World) {
    let numbers = SHAPES.iter().filter(|shape| shape.section.starts_with("4."));
    // The version is told to anyone, as tools ask for it before they log in; a registration's MAC stands for a token.
    for shape in numbers.filter(|shape| !["4.1.1", "4.2.9"].contains(&shape.section.as_str())) {
        let alice = world.alice().clone();
        world
            .section(&shape.section)
            .by(&alice)
            .refused(403, "M_FORBIDDEN")
            .await;
        world
            .section(&shape.section)
            .by_nobody()
            .refused(401, "M_MISSING_TOKEN")
            .await;
    }
}

async fn server(world: &mut World) {
    let version = world.section("4.1.1").done().await;
    assert_eq!(version["python_version"], "rust");
    let status = world.section("4.1.2").done().await;
    assert_eq!(
        (&status["status"], &status["database"]),
        (&json!("ok"), &json!("connected"))
    );
    let stats = world.section("4.1.3").done().await;
    assert!(stats["total_users"].as_u64() >= Some(3), "{stats}");
    assert!(stats["total_messages"].as_u64() >= Some(1), "{stats}");
    let config = world.section("4.1.4").done().await;
    assert_eq!(config["server_name"], world.names["example.com"]);
    assert!(!config.to_string().contains(crate::common::server::SHARED_SECRET));
    let stats = world.section("4.1.5").done().await;
    assert!(stats["new_users_today"].as_u64() >= Some(3), "{stats}");
    world.section("4.1.6").done().await;
    let logs = world.section("4.1.7").query("limit=5").done().await;
    assert!(logs["logs"].as_array().is_some_and(|logs| logs.len() <= 5));
}

async fn users(world: &mut World) {
    let page = world
        .section("4.2.1")
        .query("limit=1&name=alice")
        .like(json!({ "users": [], "total": 1 }))
        .done()
        .await;
    assert_eq!(page["users"][0]["user_id"], world.alice().user_id);
    let bare =
        json!({ "users": [{ "user_id": "@", "admin": false, "deactivated": false }], "total": 1, "next_token": "" });
    let page = world.section("4.2.1").query("limit=1").like(bare).done().await;
    assert!(page["total"].as_u64() > Some(1), "{page}");
    world.section("4.2.2").done().await;
    world
        .section("4.2.2")
        .with("user_id", "@nobody:example.com")
        .refused(404, "M_NOT_FOUND")
        .await;
    world.section("4.2.6").done().await;

    let carol = visitor(world, "carol").await;
    world.section("4.2.4").with("user_id", &carol.user_id).done().await;
    world.section("4.1.2").by(&carol).done().await;
    world
        .section("4.2.4")
        .with("user_id", &carol.user_id)
        .body(json!({ "admin": false }))
        .done()
        .await;
    world.section("4.1.2").by(&carol).refused(403, "M_FORBIDDEN").await;
    world.section("4.2.7").with("user_id", &carol.user_id).done().await;
    world.section("3.3.1").by(&carol).refused(401, "M_UNKNOWN_TOKEN").await;
    let login = json!({ "type": "m.login.password", "user": "carol", "password": "newpassword123" });
    world.section("3.2.4").body(login.clone()).done().await;
    world.section("4.2.5").with("user_id", &carol.user_id).done().await;
    world.section("3.2.4").body(login).refused(403, "M_FORBIDDEN").await;
    let dave = visitor(world, "dave").await;
    world.section("4.2.3").with("user_id", &dave.user_id).done().await;
    world.section("3.3.1").by(&dave).refused(401, "M_UNKNOWN_TOKEN").await;
}

async fn registration(world: &mut World) {
    let nonce = world.section("4.2.8").done().await;
    let mac = super::mac(&text(&nonce, "nonce"), "newuser", "password123", false);
    let with = |mac: &str| json!({ "username": "newuser", "password": "password123", "nonce": nonce["nonce"], "mac": mac, "admin": false });
    world
        .section("4.2.9")
        .by_nobody()
        .body(with(&"0".repeat(40)))
        .refused(403, "M_FORBIDDEN")
        .await;
    let nonce = world.section("4.2.8").done().await;
    let good = json!({
        "username": "newuser", "password": "password123", "nonce": nonce["nonce"], "admin": false,
        "mac": super::mac(&text(&nonce, "nonce"), "newuser", "password123", false),
    });
    assert_ne!(good["mac"], mac);
    let made = world.section("4.2.9").by_nobody().body(good).done().await;
    let made = json!({ "user_id": made["user_id"], "access_token": made["access_token"], "device_id": "" });
    let user = User::from_login(world.ours.client(), &made);
    world.section("3.3.1").by(&user).done().await;
}

async fn rooms(world: &mut World) {
    // Synapse's tools read the next page's number, not a text.
    let page = json!({
        "rooms": [{ "room_id": "!", "name": "", "creator": "@", "joined_members": 1 }], "total_rooms": 1, "next_batch": 1,
    });
    world.section("4.3.1").query("limit=1").like(page).done().await;
    let found = world
        .section("4.3.1")
        .query("search_term=New%20Room")
        .like(json!({ "rooms": [{ "name": "" }] }));
    assert_eq!(found.done().await["rooms"][0]["name"], "New Room Name");
    world.section("4.3.2").done().await;
    world
        .section("4.3.2")
        .with("room_id", "!none:example.com")
        .refused(404, "M_NOT_FOUND")
        .await;
    let purge = world.section("4.3.4").done().await;
    let status = format!(
        "/_synapse/admin/v1/purge_history_status/{}",
        encode(&text(&purge, "purge_id"))
    );
    let admin = world.admin.clone();
    loop {
        let (_, answer) = admin.get(&status).await;
        match answer["status"].as_str() {
            Some("active") => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            Some("complete") => break,
            _ => panic!("{answer}"),
        }
    }
    let bob = world.bob().clone();
    let doomed = bob.create_room(json!({ "name": "Doomed" })).await;
    world.section("4.3.3").with("room_id", &doomed).done().await;
    world
        .section("3.9.1")
        .with("room_id", &doomed)
        .by(&bob)
        .refused(403, "M_FORBIDDEN")
        .await;
    let shut = bob.create_room(json!({ "name": "Shut" })).await;
    let answer = world.section("4.3.5").field("room_id", json!(shut)).done().await;
    assert_eq!(answer["kicked_users"], json!([bob.user_id]));
    let third = bob.create_room(json!({ "name": "Third" })).await;
    let path = "/_synapse/admin/v1/rooms/{room_id}/delete";
    let delete = world
        .counted("POST", path, "as DELETE of the room, done when it answers")
        .with("room_id", &third);
    let expected = json!({ "deleted": true, "room_id": "!", "kicked_users": ["@"] });
    delete.body(json!({ "purge": true })).like(expected).done().await;
    let rooms = world
        .section("4.3.1")
        .like(json!({ "rooms": [], "total_rooms": 1 }))
        .done()
        .await;
    let left = rooms["rooms"].as_array().expect("rooms");
    for gone in [doomed, third] {
        assert!(left.iter().all(|room| room["room_id"] != gone), "{rooms}");
    }
}

async fn security(world: &mut World) {
    // What failed at the log-ins before is on record.
    let events = world.section("4.4.1").done().await;
    let failed = |event: &Value| event["type"] == "login_failed";
    assert!(
        events["events"].as_array().is_some_and(|all| all.iter().any(failed)),
        "{events}"
    );
    let blocked = world.section("4.4.3").done().await;
    assert_eq!(blocked["blocked"], true);
    let blocks = world.section("4.4.2").done().await;
    assert_eq!(blocks["blocks"][0]["ip"], "192.168.1.1");
    world.section("4.4.5").with("ip", "127.0.0.1").done().await;
    world
        .section("4.4.3")
        .body(json!({ "ip": "no address" }))
        .refused(400, "M_INVALID_PARAM")
        .await;
    let unblocked = world.section("4.4.4").done().await;
    assert_eq!(unblocked["unblocked"], true);
}
