//! Section 5: what other servers ask.

use serde_json::{Value, json};

use super::world::World;
use crate::{
    common::client::{encode, text},
    federation::remote::{
        http::Answer,
        now,
        room::{Hosted, Membership, VERSION, event_id, join_event, sign},
    },
};

pub async fn walk(world: &mut World) {
    open(world).await;
    let room = rooms(world).await;
    keys(world).await;
    invitations(world).await;
    counted(world, &room).await;
    friends(world).await;
}

async fn open(world: &mut World) {
    let document = world.section("5.1.1").done().await;
    assert_eq!(document["server_name"], world.names["example.com"]);
    let version = world.section("5.1.2").done().await;
    assert!(
        text(&version["server"], "name").to_lowercase().contains("synapse"),
        "{version}"
    );
    world.section("5.1.3").done().await;
    let expected = json!({ "version": "1", "server_name": "a", "capabilities": {} });
    world
        .counted("GET", "/_matrix/federation/v1", "name, version and what is served")
        .by_nobody()
        .like(expected)
        .done()
        .await;
    let expected = json!({ "destination": "a", "host": "a", "port": 1, "tls": true, "ts": 1 });
    let path = "/_matrix/federation/v1/query/destination";
    world
        .counted("GET", path, "where this server is reached")
        .by_nobody()
        .like(expected)
        .done()
        .await;
}

/// A public room of alice's with a member of the peer; returns its id.
async fn rooms(world: &mut World) -> String {
    let options = json!({
        "preset": "public_chat", "room_version": VERSION, "name": "Wide", "topic": "For all", "visibility": "public",
    });
    let room = world.alice().clone().create_room(options).await;
    let ada = world.remote.user("ada");

    let template = world
        .section("5.2.2")
        .with_all(&[("room_id", &room), ("user_id", &ada)])
        .query("ver=11")
        .done()
        .await;
    assert_eq!(template["room_version"], VERSION);
    let event = join_event(&world.remote, &world.ours, &room, &ada).await;
    let join = world
        .section("5.2.3")
        .with_all(&[("room_id", &room), ("event_id", &event_id(&event))])
        .body(event);
    let answer = join.done().await;
    assert!(
        answer["state"].as_array().is_some_and(|state| state.len() > 3),
        "{answer}"
    );

    let member = Membership::join(&world.remote, &world.ours, &room, "eve").await;
    let message = member.message("Hello");
    let id = event_id(&message);
    let body = world.remote.transaction(&[message], &[]);
    let sent = world.section("5.2.1").with("txn_id", "t1").body(body).done().await;
    assert_eq!(sent["pdus"][&id], json!({}), "{sent}");
    let alice = world.alice().clone();
    alice.sync_until(None, |sync| sync.to_string().contains(&id)).await;

    let event = world.section("5.2.5").with("event_id", &id).done().await;
    assert_eq!(event["pdus"].as_array().map(Vec::len), Some(1));
    world
        .section("5.2.6")
        .with("room_id", &room)
        .query(&format!("event_id={}", encode(&id)))
        .done()
        .await;
    let members = world.section("5.2.7").with("room_id", &room).done().await;
    assert!(
        members["joined"]
            .as_array()
            .is_some_and(|joined| joined.contains(&Value::from(ada))),
        "{members}"
    );
    world
        .section("5.2.7")
        .with("room_id", "!none:example.com")
        .refused(404, "M_NOT_FOUND")
        .await;
    world
        .section("5.2.7")
        .with("room_id", &room)
        .by_nobody()
        .refused(401, "M_UNAUTHORIZED")
        .await;
    world.name("$remote:example.com", &id);
    room
}

async fn invitations(world: &mut World) {
    let hosted = Hosted::new(&world.remote, "theirs");
    let alice = world.alice().user_id.clone();
    for (number, path) in [(2, ""), (1, "/_matrix/federation/v1/invite/{room_id}/{event_id}")] {
        let draft = json!({
            "room_id": hosted.room_id, "sender": world.remote.user("creator"), "type": "m.room.member",
            "state_key": alice, "content": { "membership": "invite", "number": number }, "origin_server_ts": now(),
            "depth": 5, "prev_events": [event_id(&hosted.state[3])],
            "auth_events": [event_id(&hosted.state[0]), event_id(&hosted.state[1]), event_id(&hosted.state[2])],
        });
        let event = sign(&world.remote, &draft);
        let ids = [("room_id", hosted.room_id.clone()), ("event_id", event_id(&event))];
        let ids: Vec<(&str, &str)> = ids.iter().map(|(name, value)| (*name, value.as_str())).collect();
        if number == 2 {
            let body = json!({ "room_version": VERSION, "event": event, "invite_room_state": [] });
            world.section("5.2.4").with_all(&ids).body(body).done().await;
        } else {
            let what = "as in Matrix: `[200, {event}]`, for rooms of versions 1 and 2 only";
            world
                .counted("PUT", path, what)
                .with_all(&ids)
                .body(event)
                .refused(400, "M_INVALID_PARAM")
                .await;
        }
    }
}

async fn keys(world: &mut World) {
    let server = world.names["example.com"].clone();
    let key = json!({ "server_name": server, "valid_until_ts": 1, "verify_keys": { "ed25519:a": { "key": "" } } });
    world
        .counted("GET", "/_matrix/key/v2/server", "the signed document of Matrix")
        .like(key.clone())
        .done()
        .await;
    for path in [
        "/_matrix/key/v2/query/{server_name}/{key_id}",
        "/_matrix/federation/v2/query/{server_name}/{key_id}",
    ] {
        let ask = world.counted(
            "GET",
            path,
            "as a notary: signed documents of any server, this one's included",
        );
        let ask = ask
            .by_nobody()
            .with_all(&[("server_name", &server), ("key_id", "ed25519:a")]);
        ask.like(json!({ "server_keys": [key] })).done().await;
    }
    let bob = world.bob().user_id.clone();
    let body = json!({ "device_keys": { &bob: [] } });
    let path = "/_matrix/federation/v2/user/keys/query";
    let query = world.counted("POST", path, "as `/v1/user/keys/query`").body(body);
    query.like(json!({ "device_keys": {} })).done().await;
    let body = json!({ "one_time_keys": { &bob: { "NONE": "signed_curve25519" } } });
    let path = "/_matrix/federation/v1/keys/claim";
    let claim = world.counted("POST", path, "as `/v1/user/keys/claim`").body(body);
    claim.like(json!({ "one_time_keys": {} })).done().await;
    let path = "/_matrix/federation/v1/keys/upload";
    let what = "refused: no other server may set the keys of users here";
    world.counted("POST", path, what).refused(403, "M_FORBIDDEN").await;
    world
        .counted("POST", "/_matrix/federation/v2/key/clone", what)
        .refused(403, "M_FORBIDDEN")
        .await;
}

async fn counted(world: &mut World, room: &str) {
    let v1 = |path: &str| format!("/_matrix/federation/v1/{path}");
    let (event, eve) = (world.names["$remote:example.com"].clone(), world.remote.user("eve"));
    let ids = [("room_id", room), ("event_id", event.as_str())];
    let get = |path: &'static str, what: &'static str, like: Value| (path, what, like);
    let asked = [
        get(
            "room/{room_id}/{event_id}",
            "the event, to servers in the room",
            json!({ "type": "", "content": {} }),
        ),
        get(
            "get_event_auth/{room_id}/{event_id}",
            "as `event_auth`",
            json!({ "auth_chain": [{}] }),
        ),
        get(
            "query/directory/room/{room_id}",
            "what the directory says of the room",
            json!({ "room_id": "!", "servers": ["a"] }),
        ),
        get(
            "room_auth/{room_id}",
            "the auth chain of the room's state",
            json!({ "room_id": "!", "auth_chain": [{}] }),
        ),
        get(
            "get_joining_rules/{room_id}",
            "the join rules",
            json!({ "room_id": "!", "join_rule": "public", "allow": [] }),
        ),
        get(
            "members/{room_id}/joined",
            "the members with their profiles, to servers in the room",
            json!({ "room_id": "!", "joined": [{ "user_id": "@" }] }),
        ),
    ];
    for (path, what, like) in asked {
        world
            .counted("GET", &v1(path), what)
            .with_all(&ids)
            .like(like)
            .done()
            .await;
    }
    let query = format!("event_id={}", encode(&event));
    let ask = world
        .counted("GET", &v1("state_ids/{room_id}"), "as in Matrix")
        .with_all(&ids)
        .query(&query);
    ask.like(json!({ "pdu_ids": ["$"], "auth_chain_ids": ["$"] }))
        .done()
        .await;
    let query = format!("v={}&limit=5", encode(&event));
    let ask = world
        .counted("GET", &v1("backfill/{room_id}"), "as in Matrix")
        .with_all(&ids)
        .query(&query);
    ask.like(json!({ "origin": "a", "origin_server_ts": 1, "pdus": [{}] }))
        .done()
        .await;
    let body = json!({ "earliest_events": [], "latest_events": [event], "limit": 5 });
    let ask = world
        .counted("POST", &v1("get_missing_events/{room_id}"), "as in Matrix")
        .with_all(&ids)
        .body(body);
    ask.like(json!({ "events": [{}] })).done().await;
    let path = v1("query/profile/{user_id}");
    let profile = world
        .counted("GET", &path, "as `query/profile`")
        .like(json!({ "displayname": "", "avatar_url": "" }));
    profile.done().await;
    let path = v1("user/devices/{user_id}");
    let devices = world.counted("GET", &path, "as in Matrix, to servers that share a room with the user");
    devices
        .like(json!({ "user_id": "@", "stream_id": 1, "devices": [] }))
        .done()
        .await;

    leave(world, room, &eve).await;
    let path = v1("knock/{room_id}/{user_id}");
    let (zoe, what) = (
        world.remote.user("zoe"),
        "the template of `make_knock`; nothing is written",
    );
    let knock = world
        .counted("GET", &path, what)
        .with_all(&[("room_id", room), ("user_id", &zoe)])
        .query("ver=11");
    knock.refused(403, "M_FORBIDDEN").await;
    let what = "takes up a third-party invite as `exchange_third_party_invite` does, where it is valid";
    let invite = world.counted("POST", &v1("thirdparty/invite"), what);
    invite
        .body(json!({ "room_id": room, "invitee": zoe, "sender": eve }))
        .refused(400, "M_MISSING_PARAM")
        .await;
}

async fn leave(world: &mut World, room: &str, user: &str) {
    let path = "/_matrix/federation/v1/make_leave/{room_id}/{user_id}";
    let ask = world
        .counted("GET", path, "as in Matrix")
        .with_all(&[("room_id", room), ("user_id", user)]);
    let like = json!({ "room_version": "11", "event": { "type": "m.room.member", "sender": "@" } });
    let mut event = ask.like(like).done().await["event"].clone();
    event["origin_server_ts"] = json!(now());
    let event = sign(&world.remote, &event);
    let path = "/_matrix/federation/v1/send_leave/{room_id}/{event_id}";
    let ask = world.counted(
        "PUT",
        path,
        "as version 2, answered `[200, {}]` like Matrix's first version",
    );
    ask.with_all(&[("room_id", room), ("event_id", &event_id(&event))])
        .body(event)
        .like(json!([]))
        .done()
        .await;
}

/// A user of the peer asks alice, who accepts; the peer signs what it is invited to.
async fn friends(world: &mut World) {
    let signer = world.remote.signer();
    world.remote.behave(move |request| {
        let invited = request.method == "PUT" && request.path.starts_with("/_matrix/federation/v2/invite/");
        invited.then(|| {
            let event = signer.countersign(&request.json()["event"]);
            Answer::Json(200, json!({ "event": event }))
        })
    });
    let (alice, ada) = (world.alice().user_id.clone(), world.remote.user("ada"));
    let request = json!({ "requester": ada, "target": alice, "message": "Hi" });
    let asked = world.section("5.3.3").body(request.clone()).done().await;
    assert_eq!(
        world.section("5.3.3").body(request).done().await["request_id"],
        asked["request_id"]
    );
    world.section("6.1.3").with("user_id", &ada).done().await;
    let known = world
        .section("5.3.2")
        .with_all(&[("user_id", &alice), ("friend_id", &ada)])
        .done()
        .await;
    assert_eq!(known["are_friends"], true);
    let known = world.section("5.3.1").done().await;
    assert_eq!(
        known["friends"],
        json!([ada]),
        "of other servers' users, only its own are told to a server"
    );

    // The other way round: alice asks, and the peer says that its user accepts.
    let eve = world.remote.user("eve");
    world.section("6.1.2").body(json!({ "user_id": eve })).done().await;
    let path = "/_matrix/federation/v1/friends/accept/{request_id}";
    let what = "a user of the asking server accepts a request made here";
    world
        .counted("POST", path, what)
        .with("request_id", "none")
        .refused(404, "M_NOT_FOUND")
        .await;
    let named = json!({ "requester": world.alice().user_id, "target": eve });
    let accept = world
        .counted("POST", path, what)
        .with("request_id", "theirs")
        .body(named);
    let accepted = accept.like(json!({ "status": "accepted" })).done().await;
    assert_eq!(accepted["status"], "accepted");
    let known = world
        .section("5.3.2")
        .with_all(&[("user_id", &alice), ("friend_id", &eve)])
        .done()
        .await;
    assert_eq!(known["are_friends"], true);
}
