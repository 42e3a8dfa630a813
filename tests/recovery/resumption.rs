//! What takes several commits goes on after a death between them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{
    client::{AnswerExt, User, encode, text},
    server::TestServer,
};

/// How long the server may take to get to a point, or to go on after a restart.
const PATIENCE: Duration = Duration::from_secs(30);

async fn restart_armed(server: &TestServer, point: &str) {
    server.kill();
    server.restart_with(&[("SYNAPSE_RUST_FAILPOINT", point)]).await;
}

/// One request during which the server dies.
async fn die_at(server: &TestServer, user: &User, method: &str, path: &str, body: Value) {
    // Whether it was answered does not matter.
    let _answer = user
        .client
        .try_request(method, path, Some(&user.token), Some(&body))
        .await;
    assert!(server.ended(PATIENCE).await, "the point was not reached by {path}");
    server.restart().await;
}

async fn state(user: &User, room: &str, rest: &str) -> Value {
    user.get(&format!("rooms/{}/state/{rest}", encode(room))).await.1
}

/// Waits until `look` finds something.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn joined_rooms(user: &User) -> Vec<String> {
    let answer = user.get("joined_rooms").await.ok();
    let rooms = answer["joined_rooms"].as_array().expect("a list").iter();
    rooms.filter_map(|room| room.as_str().map(str::to_owned)).collect()
}

/// The friends of a user with their rooms, and the rooms that clients know as direct chats.
async fn friends(user: &User) -> (Vec<(String, String)>, Value) {
    let answer = user.get("/_matrix/client/v1/friends").await.ok();
    let list = answer["friends"].as_array().expect("a list").iter();
    let friends = list.map(|friend| {
        (
            text(friend, "user_id"),
            friend["dm_room_id"].as_str().unwrap_or_default().to_owned(),
        )
    });
    let direct = format!("user/{}/account_data/m.direct", encode(&user.user_id));
    (friends.collect(), user.get(&direct).await.1)
}

both_databases! {
    async fn no_friendship_stays_one_sided(server) {
        let request = "/_matrix/client/v1/friends/request";
        let points = ["friend.untold:1", "friend.told:1", "friend.room:1", "friend.entered:1",
                      "friend.untold:2", "friend.told:2", "friend.entered:2",
                      "session.before_write:2", "session.after_write:2", "journal.after_commit:3"];
        for (n, point) in points.into_iter().enumerate() {
            let alice = server.register(&format!("alice{n}")).await;
            let bob = server.register(&format!("bob{n}")).await;
            restart_armed(server, point).await;
            let accept = format!("{request}/{}/accept", encode(&alice.user_id));
            // One of the two requests dies; who did not get an answer asks again.
            let wish = json!({ "user_id": bob.user_id });
            let asked = alice.client.try_request("POST", request, Some(&alice.token), Some(&wish)).await;
            if asked.is_ok() {
                let _answer = bob.client.try_request("POST", &accept, Some(&bob.token), Some(&json!({}))).await;
            }
            assert!(server.ended(PATIENCE).await, "{point} was not reached");
            server.restart().await;
            let again = alice.post(request, wish).await;
            assert!([200, 409].contains(&again.0), "{point}: {again:?}");
            until("the request at the other", async || (bob.post(&accept, json!({})).await.0 == 200).then_some(())).await;
            let room = until("one friendship in one room", async || {
                let ((of_alice, direct_alice), (of_bob, direct_bob)) = (friends(&alice).await, friends(&bob).await);
                let ([a], [b]) = (of_alice.as_slice(), of_bob.as_slice()) else { return None };
                let room = a.1.clone();
                let same = *a == (bob.user_id.clone(), room.clone()) && *b == (alice.user_id.clone(), room.clone());
                let listed = direct_alice[&bob.user_id] == json!([room]) && direct_bob[&alice.user_id] == json!([room]);
                (same && listed && !room.is_empty()).then_some(room)
            })
            .await;
            for user in [&alice, &bob] {
                assert_eq!(joined_rooms(user).await, std::slice::from_ref(&room), "{point}");
            }
            // What ends for one ends for both.
            restart_armed(server, "friend.untold:1").await;
            let path = format!("/_matrix/client/v1/friends/{}", encode(&alice.user_id));
            die_at(server, &bob, "DELETE", &path, json!({})).await;
            until("the end for both", async || {
                (friends(&alice).await.0.is_empty() && friends(&bob).await.0.is_empty()).then_some(())
            })
            .await;
        }
    }

    async fn all_rooms_come_to_show_a_new_profile(server) {
        let alice = server.register("alice").await;
        let mut rooms = Vec::new();
        for _ in 0..5 {
            rooms.push(alice.create_room(json!({})).await);
        }
        let name = format!("profile/{}/displayname", encode(&alice.user_id));
        for (point, wish) in [("profile.before_room:1", "Alice"), ("profile.before_room:4", "Alice A.")] {
            restart_armed(server, point).await;
            die_at(server, &alice, "PUT", &name, json!({ "displayname": wish })).await;
            assert_eq!(alice.get(&name).await.ok()["displayname"], wish, "the change itself was made");
            for room in &rooms {
                let member = format!("m.room.member/{}", encode(&alice.user_id));
                until("the new name in a room", async || {
                    (state(&alice, room, &member).await["displayname"] == wish).then_some(())
                })
                .await;
            }
        }
    }

    async fn an_upgrade_is_finished_or_never_was(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        for (n, point) in ["upgrade.created", "upgrade.announced", "upgrade.moved"].into_iter().enumerate() {
            let alias = format!("#room{n}:localhost");
            let options = json!({ "preset": "public_chat", "visibility": "public", "room_version": "10", "name": point,
                                  "room_alias_name": format!("room{n}") });
            let old = alice.create_room(options).await;
            bob.join(&old).await;
            let before = joined_rooms(&alice).await.len();
            restart_armed(server, point).await;
            let path = format!("rooms/{}/upgrade", encode(&old));
            let body = json!({ "new_version": "12" });
            die_at(server, &alice, "POST", &path, body.clone()).await;

            let new = until("the listing of the new room", async || {
                let tombstone = state(&alice, &old, "m.room.tombstone").await;
                let new = tombstone["replacement_room"].as_str()?.to_owned();
                let listed = |answer: Value| answer["visibility"] == "public";
                let new_listed = alice.get(&format!("directory/list/room/{}", encode(&new))).await;
                let old_listed = alice.get(&format!("directory/list/room/{}", encode(&old))).await;
                (listed(new_listed.1) && !listed(old_listed.1)).then_some(new)
            })
            .await;
            assert_eq!(alice.get(&format!("directory/room/{}", encode(&alias))).await.ok()["room_id"], new.as_str());
            assert_eq!(state(&alice, &new, "m.room.canonical_alias").await["alias"], alias.as_str());
            assert_eq!(state(&alice, &old, "m.room.canonical_alias").await, json!({}));
            assert_eq!(state(&alice, &new, "m.room.create").await["predecessor"]["room_id"], old.as_str());
            assert_eq!(joined_rooms(&alice).await.len(), before + 1, "there is one new room");
            let talk = format!("rooms/{}/send/m.room.message/t", encode(&old));
            bob.put(&talk, json!({ "msgtype": "m.text", "body": "late" })).await.refused(403, "M_FORBIDDEN");
            // Who did not get the answer asks again, and gets it.
            let again = text(&alice.post(&path, body).await.ok(), "replacement_room");
            assert_eq!(again, new);
            assert_eq!(joined_rooms(&alice).await.len(), before + 1, "there is still one new room");
        }
        // Before the new room is there nothing has happened.
        let old = alice.create_room(json!({ "room_version": "10" })).await;
        let before = joined_rooms(&alice).await;
        restart_armed(server, "room.before_submit:1").await;
        let path = format!("rooms/{}/upgrade", encode(&old));
        die_at(server, &alice, "POST", &path, json!({ "new_version": "11" })).await;
        assert_eq!(joined_rooms(&alice).await.len(), before.len());
        let new = text(&alice.post(&path, json!({ "new_version": "11" })).await.ok(), "replacement_room");
        assert_eq!(state(&alice, &old, "m.room.tombstone").await["replacement_room"], new.as_str());
        assert_eq!(joined_rooms(&alice).await.len(), before.len() + 1);
        // Another version is another upgrade.
        let newer = text(&alice.post(&path, json!({ "new_version": "12" })).await.ok(), "replacement_room");
        assert_ne!(newer, new);
        assert_eq!(state(&alice, &old, "m.room.tombstone").await["replacement_room"], newer.as_str());
    }
}
