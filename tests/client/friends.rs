//! Friends: what the endpoints answer, and what ordinary clients see of it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::client::{Answer, AnswerExt, User, encode, text};
use crate::common::server::TestServer;

const FRIENDS: &str = "/_matrix/client/v1/friends";

/// A path below the list of friends, about somebody.
fn about(friend: &User, rest: &str) -> String {
    format!("{FRIENDS}/{}{rest}", encode(&friend.user_id))
}

async fn ask(user: &User, friend: &User) -> Answer {
    user.post(&format!("{FRIENDS}/request"), json!({ "user_id": friend.user_id }))
        .await
}

/// `accept`, `reject` or `cancel`.
async fn answer(user: &User, friend: &User, how: &str) -> Answer {
    let path = format!("{FRIENDS}/request/{}/{how}", encode(&friend.user_id));
    user.post(&path, json!({})).await
}

async fn requests(user: &User, which: &str) -> Vec<Value> {
    let answer = user.get(&format!("{FRIENDS}/requests/{which}")).await.ok();
    answer["requests"].as_array().expect("a list").clone()
}

async fn friends(user: &User) -> Vec<Value> {
    let answer = user.get(FRIENDS).await.ok();
    let list = answer["friends"].as_array().expect("a list").clone();
    assert_eq!(answer["total"], list.len());
    list
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// The rooms that a user's clients know as direct chats with another.
async fn direct(user: &User, friend: &User) -> Vec<String> {
    let path = format!("user/{}/account_data/m.direct", encode(&user.user_id));
    let (_, content) = user.get(&path).await;
    let rooms = content[&friend.user_id].as_array().cloned().unwrap_or_default();
    rooms
        .iter()
        .filter_map(|room| room.as_str().map(str::to_owned))
        .collect()
}

/// Two friends and their room.
async fn pair(server: &TestServer) -> (User, User, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = text(&ask(&alice, &bob).await.ok(), "room_id");
    assert_eq!(
        answer(&bob, &alice, "accept").await.ok(),
        json!({ "room_id": room, "status": "accepted" })
    );
    (alice, bob, room)
}

fn invited(sync: &Value) -> Vec<String> {
    let invites = sync["rooms"]["invite"].as_object();
    invites.map(|all| all.keys().cloned().collect()).unwrap_or_default()
}

async fn membership(user: &User, room: &str, of: &User) -> Value {
    let path = format!("rooms/{}/state/m.room.member/{}", encode(room), encode(&of.user_id));
    user.get(&path).await.1["membership"].clone()
}

both_databases! {
    async fn a_request_is_made_seen_and_accepted(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let name = format!("profile/{}/displayname", encode(&bob.user_id));
        bob.put(&name, json!({ "displayname": "Bob" })).await.ok();
        let since = text(&bob.sync(None, 0, None).await, "next_batch");
        let body = json!({ "user_id": bob.user_id, "message": "Hi, let's be friends!" });
        let made = alice.post(&format!("{FRIENDS}/request"), body).await.ok();
        let room = text(&made, "room_id");
        assert_eq!(made, json!({ "room_id": room, "status": "pending" }));

        let [seen] = requests(&bob, "incoming").await.try_into().expect("one request");
        assert_eq!(seen["user_id"], alice.user_id.as_str());
        assert_eq!((&seen["message"], &seen["status"]), (&json!("Hi, let's be friends!"), &json!("pending")));
        assert!(seen["timestamp"].as_i64().is_some_and(|ms| ms > 1_700_000_000_000), "{seen}");
        assert!(seen.get("display_name").is_some(), "{seen}");
        let [sent] = requests(&alice, "outgoing").await.try_into().expect("one request");
        assert_eq!((&sent["user_id"], &sent["status"]), (&json!(bob.user_id), &json!("pending")));
        assert_eq!(sent["timestamp"], seen["timestamp"]);
        assert!(requests(&alice, "incoming").await.is_empty() && requests(&bob, "outgoing").await.is_empty());
        assert!(friends(&alice).await.is_empty() && friends(&bob).await.is_empty());

        // Any client shows the invite to a direct chat.
        let sync = bob.sync_until(Some(&since), |sync| !invited(sync).is_empty()).await;
        assert_eq!(invited(&sync), std::slice::from_ref(&room));
        let events = sync["rooms"]["invite"][&room]["invite_state"]["events"].as_array().expect("stripped state");
        let own = events.iter().find(|event| event["state_key"] == bob.user_id.as_str()).expect("the invite itself");
        assert_eq!((&own["content"]["membership"], &own["content"]["is_direct"]), (&json!("invite"), &json!(true)));

        let accepted = answer(&bob, &alice, "accept").await.ok();
        assert_eq!(accepted, json!({ "room_id": room, "status": "accepted" }));
        assert_eq!(answer(&bob, &alice, "accept").await.ok(), accepted, "who did not get the answer asks again");
        for (user, friend) in [(&alice, &bob), (&bob, &alice)] {
            let [entry] = friends(user).await.try_into().expect("one friend");
            assert_eq!(entry["user_id"], friend.user_id.as_str());
            assert!(entry["since"].as_i64().is_some_and(|s| (1_700_000_000..100_000_000_000).contains(&s)), "{entry}");
            assert!(entry["status"].is_string() && entry["note"].is_string(), "{entry}");
            assert_eq!(direct(user, friend).await, std::slice::from_ref(&room));
            assert_eq!(membership(user, &room, friend).await, "join");
            assert!(requests(user, "incoming").await.is_empty() && requests(user, "outgoing").await.is_empty());
        }
        assert_eq!(friends(&alice).await[0]["display_name"], "Bob");
        alice.send_text(&room, "hello").await;
        bob.send_text(&room, "hello").await;
    }

    async fn what_cannot_be_is_refused(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let path = format!("{FRIENDS}/request");
        let refused = alice.post(&path, json!({ "user_id": alice.user_id })).await.refused(400, "M_INVALID_PARAM");
        assert_eq!(refused["status"], "error");
        alice.post(&path, json!({ "user_id": "bob" })).await.refused(400, "M_INVALID_PARAM");
        alice.post(&path, json!({})).await.refused(400, "M_MISSING_PARAM");
        alice.post(&path, json!({ "user_id": "@nobody:localhost" })).await.refused(404, "M_NOT_FOUND");
        let long = json!({ "user_id": bob.user_id, "message": "x".repeat(1_001) });
        alice.post(&path, long).await.refused(400, "M_INVALID_PARAM");
        for how in ["accept", "reject", "cancel"] {
            answer(&alice, &bob, how).await.refused(404, "M_NOT_FOUND");
        }
        alice.delete(&about(&bob, ""), None).await.refused(404, "M_NOT_FOUND");
        alice.get(&about(&bob, "/info")).await.refused(404, "M_NOT_FOUND");
        alice.put(&about(&bob, "/note"), json!({ "note": "x" })).await.refused(404, "M_NOT_FOUND");
        alice.put(&about(&bob, "/status"), json!({ "status": "favorite" })).await.refused(404, "M_NOT_FOUND");
        server.client.get(FRIENDS).await.refused(401, "M_MISSING_TOKEN");

        ask(&alice, &bob).await.ok();
        ask(&alice, &bob).await.refused(409, "M_CONFLICT");
        answer(&alice, &bob, "accept").await.refused(404, "M_NOT_FOUND");
        answer(&alice, &bob, "reject").await.refused(404, "M_NOT_FOUND");
        answer(&bob, &alice, "cancel").await.refused(404, "M_NOT_FOUND");
        answer(&bob, &alice, "accept").await.ok();
        ask(&alice, &bob).await.refused(409, "M_CONFLICT");
        ask(&bob, &alice).await.refused(409, "M_CONFLICT");
        let alias = "/_matrix/client/unstable/org.synapse_rust/friends";
        assert_eq!(alice.get(alias).await.ok()["total"], 1);
    }

    async fn a_request_that_comes_to_nothing_leaves_nothing_behind(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        for (who, other, how, status) in [(&bob, &alice, "reject", "rejected"), (&alice, &bob, "cancel", "cancelled")] {
            let room = text(&ask(&alice, &bob).await.ok(), "room_id");
            assert_eq!(answer(who, other, how).await.ok(), json!({ "status": status }));
            assert!(requests(&alice, "outgoing").await.is_empty() && requests(&bob, "incoming").await.is_empty());
            until("the end of the room", async || {
                let joined = alice.get("joined_rooms").await.ok();
                let gone = joined["joined_rooms"].as_array().is_some_and(Vec::is_empty);
                let unlisted = direct(&alice, &bob).await.is_empty() && !invited(&bob.sync(None, 0, None).await).contains(&room);
                (gone && unlisted).then_some(())
            })
            .await;
            answer(&bob, &alice, "accept").await.refused(404, "M_NOT_FOUND");
        }
        let room = text(&ask(&alice, &bob).await.ok(), "room_id");
        assert_eq!(text(&answer(&bob, &alice, "accept").await.ok(), "room_id"), room);
    }

    async fn a_removed_friend_keeps_the_conversation(server) {
        let (alice, bob, room) = pair(server).await;
        assert_eq!(alice.delete(&about(&bob, ""), None).await.ok(), json!({}));
        alice.delete(&about(&bob, ""), None).await.refused(404, "M_NOT_FOUND");
        assert!(friends(&alice).await.is_empty() && friends(&bob).await.is_empty());
        bob.delete(&about(&alice, ""), None).await.refused(404, "M_NOT_FOUND");
        alice.send_text(&room, "no hard feelings").await;
        // Friends again, in the same room.
        assert_eq!(text(&ask(&bob, &alice).await.ok(), "room_id"), room);
        assert_eq!(text(&answer(&alice, &bob, "accept").await.ok(), "room_id"), room);
        assert_eq!(direct(&alice, &bob).await, std::slice::from_ref(&room));
        assert_eq!(direct(&bob, &alice).await, [room]);
    }

    async fn notes_and_statuses_are_ones_own(server) {
        let (alice, bob, room) = pair(server).await;
        assert_eq!(alice.put(&about(&bob, "/note"), json!({ "note": "Met at conference" })).await.ok(), json!({}));
        let note = "ä".repeat(1_000);
        let too_long = json!({ "note": format!("{note}x") });
        alice.put(&about(&bob, "/note"), too_long).await.refused(400, "M_INVALID_PARAM");
        alice.put(&about(&bob, "/note"), json!({})).await.refused(400, "M_MISSING_PARAM");
        alice.put(&about(&bob, "/note"), json!({ "note": note })).await.ok();
        alice.put(&about(&bob, "/status"), json!({ "status": "best" })).await.refused(400, "M_INVALID_PARAM");
        for status in ["favorite", "hidden", "blocked", "normal"] {
            assert_eq!(alice.put(&about(&bob, "/status"), json!({ "status": status })).await.ok(), json!({}));
            let info = alice.get(&about(&bob, "/info")).await.ok();
            assert_eq!(info["status"], status);
            assert_eq!(info["user_id"], bob.user_id.as_str());
            assert_eq!((&info["note"], &info["dm_room_id"]), (&json!(note), &json!(room)));
            assert!(info["since"].is_i64(), "{info}");
            assert!(info.get("display_name").is_some() && info.get("avatar_url").is_some(), "{info}");
            assert_eq!(bob.get(&about(&alice, "/info")).await.ok()["status"], "normal");
        }
        assert_eq!(bob.get(&about(&alice, "/info")).await.ok()["note"], "");
        let online = format!("presence/{}/status", encode(&bob.user_id));
        bob.put(&online, json!({ "presence": "online" })).await.ok();
        assert_eq!(friends(&alice).await[0]["status"], "online");
        assert_eq!(friends(&alice).await[0]["note"], note);
    }

    async fn the_list_is_account_data_as_well(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let since = text(&bob.sync(None, 0, None).await, "next_batch");
        let room = text(&ask(&alice, &bob).await.ok(), "room_id");
        let list = |sync: &Value| {
            let events = sync["account_data"]["events"].as_array()?;
            Some(events.iter().rev().find(|event| event["type"] == "org.synapse_rust.friends")?["content"].clone())
        };
        let sync = bob.sync_until(Some(&since), |sync| list(sync).is_some()).await;
        let content = list(&sync).expect("just seen");
        assert!(content["incoming"].get(&alice.user_id).is_some(), "{content}");
        let since = text(&sync, "next_batch");
        answer(&bob, &alice, "accept").await.ok();
        let friend = |sync: &Value| list(sync).is_some_and(|list| list["friends"][&alice.user_id]["room_id"] == room.as_str());
        bob.sync_until(Some(&since), friend).await;
        let path = format!("user/{}/account_data/org.synapse_rust.friends", encode(&bob.user_id));
        bob.put(&path, json!({})).await.refused(405, "M_BAD_JSON");
    }

    async fn whom_one_has_blocked_is_whom_one_ignores(server) {
        let (alice, bob, _) = pair(server).await;
        let carol = server.register("carol").await;
        alice.put(&about(&bob, "/status"), json!({ "status": "blocked" })).await.ok();
        let ignored = format!("user/{}/account_data/m.ignored_user_list", encode(&alice.user_id));
        assert_eq!(alice.get(&ignored).await.ok()["ignored_users"], json!({ &bob.user_id: {} }));
        bob.delete(&about(&alice, ""), None).await.ok();
        assert!(friends(&alice).await.is_empty());

        // Bob is not told, and Alice is left in peace.
        assert_eq!(ask(&bob, &alice).await.ok()["status"], "pending");
        assert_eq!(requests(&bob, "outgoing").await.len(), 1);
        let chat = bob.create_room(json!({ "is_direct": true, "invite": [alice.user_id] })).await;
        assert!(requests(&alice, "incoming").await.is_empty());
        assert!(!invited(&alice.sync(None, 0, None).await).contains(&chat));
        let rooms = alice.get("initialSync").await.ok()["rooms"].as_array().cloned().expect("a list");
        assert!(rooms.iter().all(|room| room["membership"] != "invite"), "{rooms:?}");
        answer(&alice, &bob, "accept").await.refused(404, "M_NOT_FOUND");
        ask(&alice, &bob).await.refused(403, "M_FORBIDDEN");

        // Who is ignored with any client is blocked here, and the other way round.
        alice.put(&ignored, json!({ "ignored_users": { &carol.user_id: {} } })).await.ok();
        assert_eq!(requests(&alice, "incoming").await.len(), 1);
        ask(&carol, &alice).await.ok();
        assert_eq!(requests(&alice, "incoming").await.len(), 1);
        alice.put(&about(&carol, "/status"), json!({ "status": "normal" })).await.ok();
        assert_eq!(requests(&alice, "incoming").await.len(), 2);
        assert_eq!(alice.get(&ignored).await.ok()["ignored_users"], json!({}));
        answer(&alice, &carol, "accept").await.ok();
        assert_eq!(friends(&carol).await.len(), 1);
    }

    async fn requests_that_cross_become_one_friendship(server) {
        for round in 0..6 {
            let alice = server.register(&format!("alice{round}")).await;
            let bob = server.register(&format!("bob{round}")).await;
            let (one, other) = tokio::join!(ask(&alice, &bob), ask(&bob, &alice));
            one.ok();
            other.ok();
            let rooms = until("one friendship in one room", async || {
                let (of_alice, of_bob) = (friends(&alice).await, friends(&bob).await);
                let ([a], [b]) = (of_alice.as_slice(), of_bob.as_slice()) else { return None };
                let (direct_a, direct_b) = (direct(&alice, &bob).await, direct(&bob, &alice).await);
                let room = a["dm_room_id"].as_str()?.to_owned();
                let settled = b["dm_room_id"] == room.as_str() && direct_a == std::slice::from_ref(&room) && direct_b == [room.clone()];
                settled.then_some(room)
            })
            .await;
            assert_eq!(membership(&alice, &rooms, &bob).await, "join");
            assert_eq!(membership(&bob, &rooms, &alice).await, "join");
            for user in [&alice, &bob] {
                let joined = user.get("joined_rooms").await.ok();
                assert_eq!(joined["joined_rooms"].as_array().map(Vec::len), Some(1), "{joined}");
            }
        }
    }

    async fn many_requests_at_once_are_one(server) {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let asked = futures_util::future::join_all((0..8).map(|_| ask(&alice, &bob))).await;
        let made: Vec<_> = asked.iter().filter(|(status, _)| *status == 200).collect();
        assert_eq!(made.len(), 1, "{asked:?}");
        assert!(asked.iter().all(|(status, _)| [200, 409].contains(status)), "{asked:?}");
        let accepted = futures_util::future::join_all((0..4).map(|_| answer(&bob, &alice, "accept"))).await;
        for accepted in accepted {
            assert_eq!(accepted.ok()["room_id"], made[0].1["room_id"]);
        }
        assert_eq!(direct(&bob, &alice).await.len(), 1);
    }

    async fn who_is_gone_is_nobodys_friend(server) {
        let (alice, bob, _) = pair(server).await;
        let carol = server.register("carol").await;
        ask(&alice, &carol).await.ok();
        let auth = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" },
                           "password": crate::common::client::PASSWORD });
        alice.post("account/deactivate", json!({ "auth": auth })).await.ok();
        until("the end of everything", async || {
            (friends(&bob).await.is_empty() && requests(&carol, "incoming").await.is_empty()).then_some(())
        })
        .await;
        ask(&bob, &alice).await.refused(404, "M_NOT_FOUND");
    }
}
