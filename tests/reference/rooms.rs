//! Sections 3.7 to 3.12: sync, rooms and their events, directories, reports.

use serde_json::{Value, json};

use super::world::World;
use crate::common::client::text;

pub async fn walk(world: &mut World) {
    membership(world).await;
    events(world).await;
    sync(world).await;
    directories(world).await;
    counted(world).await;
}

async fn membership(world: &mut World) {
    let room = text(&world.section("3.8.1").done().await, "room_id");
    world.name("!room:example.com", &room);
    world.name("room_id", &room);
    let bob = world.bob().clone();
    let joined = world.section("3.8.2").by(&bob).done().await;
    assert_eq!(joined["room_id"], room);
    world.section("3.8.3").by(&bob).done().await;
    world.section("3.8.7").done().await;
    world.section("3.8.2").by(&bob).done().await;
    world.section("3.8.4").done().await;
    world.section("3.8.5").done().await;
    world.section("3.8.7").refused(403, "M_FORBIDDEN").await;
    world.section("3.8.6").done().await;
    world.section("3.8.2").by(&bob).refused(403, "M_FORBIDDEN").await;
    world.section("3.8.7").done().await;
    world.section("3.8.2").by(&bob).done().await;
    world
        .section("3.8.2")
        .with("room_id", "!none:example.com")
        .refused(404, "M_NOT_FOUND")
        .await;
}

async fn events(world: &mut World) {
    let alice = world.alice().user_id.clone();
    let set = world
        .section("3.9.4")
        .with_all(&[("event_type", "m.room.name"), ("state_key", "")]);
    set.done().await;
    let state = world.section("3.9.1").done().await;
    assert!(state["events"].is_array());
    let name = world.section("3.9.2").with("event_type", "m.room.name").done().await;
    assert_eq!(name["name"], "New Room Name");
    let member = [("event_type", "m.room.member"), ("state_key", alice.as_str())];
    world.section("3.9.3").with_all(&member).done().await;
    let missing = [("event_type", "m.room.none"), ("state_key", "")];
    world
        .section("3.9.3")
        .with_all(&missing)
        .refused(404, "M_NOT_FOUND")
        .await;
    let message = [("event_type", "m.room.message"), ("txn_id", "1")];
    let sent = world.section("3.9.5").with_all(&message).done().await;
    assert_eq!(world.section("3.9.5").with_all(&message).done().await, sent);
    let event = text(&sent, "event_id");
    world.name("$event_id:example.com", &event);
    world.name("event_id", &event);
    let page = world.section("3.9.6").query("dir=b&limit=10").done().await;
    assert_eq!(page["chunk"][0]["event_id"], event);
    world.section("3.9.7").done().await;
    let spam = world
        .section("3.9.5")
        .with_all(&[("event_type", "m.room.message"), ("txn_id", "2")])
        .done()
        .await;
    let spam = text(&spam, "event_id");
    world.section("3.9.8").with("event_id", &spam).done().await;
    world.section("3.12.1").by_bob().done().await;
    world
        .section("3.12.1")
        .with("event_id", "$none")
        .refused(404, "M_NOT_FOUND")
        .await;
}

async fn sync(world: &mut World) {
    world.section("3.7.2").done().await;
    world
        .section("3.7.3")
        .with("receipt_type", "m.read")
        .by_bob()
        .done()
        .await;
    world.section("3.7.4").done().await;
    let first = world.section("3.7.1").done().await;
    let since = text(&first, "next_batch");
    let quiet = world.section("3.7.1").query(&format!("since={since}&timeout=0"));
    // Rooms without news are left out.
    let parts = json!({ "next_batch": "s", "rooms": { "invite": {}, "leave": {} }, "presence": { "events": [] } });
    quiet.like(parts).done().await;
    world
        .section("3.7.1")
        .query("since=nonsense")
        .refused(400, "M_INVALID_PARAM")
        .await;
}

async fn directories(world: &mut World) {
    for alias in ["kitchen", "garden"] {
        let options = json!({
            "preset": "public_chat", "visibility": "public", "room_alias_name": alias,
            "name": alias, "topic": "A public room",
            "initial_state": [
                { "type": "m.room.history_visibility", "content": { "history_visibility": "world_readable" } },
                { "type": "m.room.guest_access", "content": { "guest_access": "can_join" } },
                { "type": "m.room.avatar", "content": { "url": "mxc://example.com/room" } },
            ],
        });
        let made = world.section("3.8.1").body(options).done().await;
        world.name("!public:example.com", &text(&made, "room_id"));
    }
    let room = world.names["!public:example.com"].clone();
    let alias = format!("#garden:{}", world.names["example.com"]);
    let found = world.section("3.10.1").with("room_id", &room).done().await;
    assert_eq!(found["room_id"], room);
    world.section("3.10.2").query("limit=1").done().await;
    let found = world.section("3.10.3").with("room_alias", &alias).done().await;
    assert_eq!(found["room_id"], room);
    world
        .section("3.10.3")
        .with("room_alias", "#none:example.com")
        .refused(404, "M_NOT_FOUND")
        .await;
    let rooms = world.section("3.11.1").done().await;
    assert!(
        rooms["joined"]
            .as_array()
            .is_some_and(|joined| joined.contains(&Value::from(room)))
    );
    world.section("3.11.1").by_bob().refused(403, "M_FORBIDDEN").await;
}

/// What the reference only counts.
async fn counted(world: &mut World) {
    let rooms = "/_matrix/client/r0/rooms";
    let path = format!("{rooms}/{{room_id}}/state/{{event_type}}");
    let set = world.counted(
        "POST",
        &path,
        "as PUT, with an empty state key; `event_id`, `type`, `state_key`",
    );
    let set = set
        .with("event_type", "m.room.topic")
        .body(json!({ "topic": "Posted" }));
    set.like(json!({ "event_id": "$", "type": "m.room.topic", "state_key": "" }))
        .done()
        .await;
    let topic = world
        .section("3.9.2")
        .with("event_type", "m.room.topic")
        .like(json!({ "topic": "" }))
        .done()
        .await;
    assert_eq!(topic["topic"], "Posted");

    let path = format!("{rooms}/{{room_id}}/get_membership_events");
    let history = world.counted(
        "POST",
        &path,
        "memberships and their changes, as far as the asker may see them",
    );
    let event = json!({
        "event_id": "$", "type": "m.room.member", "sender": "@", "state_key": "@",
        "content": { "membership": "join" }, "origin_server_ts": 1,
    });
    history.like(json!({ "events": [event] })).done().await;
    let path = format!("{rooms}/{{room_id}}/report/{{event_id}}/score");
    let what = "changes the score of one's own report; an administrator those of others";
    world
        .counted("PUT", &path, what)
        .by_bob()
        .body(json!({ "score": -10 }))
        .done()
        .await;
    world
        .counted("PUT", &path, what)
        .body(json!({ "score": -10 }))
        .refused(404, "M_NOT_FOUND")
        .await;
    directory_forms(world).await;
}

async fn directory_forms(world: &mut World) {
    let directory = "/_matrix/client/r0/directory/room";
    let room = world.names["!public:example.com"].clone();
    let server = world.names["example.com"].clone();
    let (alias, second) = (format!("#porch:{server}"), format!("#yard:{server}"));

    let path = format!("{directory}/{{param}}");
    let put = world.counted(
        "PUT",
        &path,
        "`#`: makes the alias of Matrix, without publishing; `!`: publishes the room",
    );
    put.with("param", &alias).body(json!({ "room_id": room })).done().await;
    let get = world.counted("GET", &path, "`#` and `!`: room and servers, to anyone");
    let found = get
        .with("param", &alias)
        .like(json!({ "room_id": "!", "servers": ["a"] }))
        .done()
        .await;
    assert_eq!(found["room_id"], room);
    let delete = world.counted(
        "DELETE",
        &path,
        "`#`: removes the alias; `!`: takes the room out of the directory",
    );
    delete.with("param", &alias).done().await;
    world
        .section("3.10.3")
        .with("room_alias", &alias)
        .refused(404, "M_NOT_FOUND")
        .await;

    let path = format!("{directory}/{{room_id}}/alias/{{room_alias}}");
    let put = world.counted("PUT", &path, "makes an alias of the room");
    put.with_all(&[("room_id", &room), ("room_alias", &second)])
        .done()
        .await;
    let list = format!("{directory}/{{room_id}}/alias");
    let list = world
        .counted("GET", &list, "the aliases of a room, to its members")
        .with("room_id", &room);
    let aliases = list.like(json!({ "aliases": ["#"] })).done().await;
    assert!(
        aliases["aliases"]
            .as_array()
            .is_some_and(|all| all.contains(&Value::from(second.clone())))
    );
    let delete = world.counted("DELETE", &path, "removes that alias, and no other");
    delete
        .with_all(&[("room_id", &room), ("room_alias", &second)])
        .done()
        .await;
    world
        .section("3.10.3")
        .with("room_alias", &second)
        .refused(404, "M_NOT_FOUND")
        .await;

    let path = format!("{directory}/{{room_id}}");
    let delete = world.counted(
        "DELETE",
        &path,
        "takes the room out of the public directory; its aliases stay",
    );
    delete.with("room_id", &room).done().await;
    let listed = world
        .section("3.10.2")
        .like(json!({ "chunk": [{ "room_id": "!" }] }))
        .done()
        .await;
    assert!(
        listed["chunk"]
            .as_array()
            .is_some_and(|all| all.iter().all(|entry| entry["room_id"] != room))
    );

    let path = "/_matrix/client/r0/publicRooms";
    let what = "makes a public room where the body is one of a new room, else searches as in Matrix";
    let made = world
        .counted("POST", path, what)
        .body(json!({ "name": "Made", "visibility": "public" }));
    let made = made.like(json!({ "room_id": "!" })).done().await;
    let search = world
        .counted("POST", path, what)
        .body(json!({ "filter": { "generic_search_term": "Made" } }));
    let found = search.like(json!({ "chunk": [{ "room_id": "!" }] })).done().await;
    assert_eq!(found["chunk"][0]["room_id"], made["room_id"]);
}
