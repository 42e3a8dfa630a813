//! Friends on two servers, of which one is away now and then.

use serde_json::{Value, json};

use super::remote::Remote;
use super::scenarios::{Feed, eventually};
use super::{VERSION, both_backends, town};
use crate::common::{
    authority::Authority,
    client::{Answer, AnswerExt, User, encode, text},
    db::Backend,
    homeserver::{Homeserver, Ours, Town},
};

const FRIENDS: &str = "/_matrix/client/v1/friends";

async fn ask(user: &User, friend: &User) -> Answer {
    let body = json!({ "user_id": friend.user_id, "message": "hello over there" });
    user.post(&format!("{FRIENDS}/request"), body).await
}

/// `accept`, `reject` or `cancel`.
async fn answer(user: &User, friend: &User, how: &str) -> Answer {
    let path = format!("{FRIENDS}/request/{}/{how}", encode(&friend.user_id));
    user.post(&path, json!({})).await
}

async fn remove(user: &User, friend: &User) {
    let path = format!("{FRIENDS}/{}", encode(&friend.user_id));
    user.delete(&path, None).await.ok();
}

async fn list(user: &User, path: &str, key: &str) -> Vec<Value> {
    let answer = user.get(&format!("{FRIENDS}{path}")).await.ok();
    answer[key].as_array().expect("a list").clone()
}

async fn incoming(user: &User) -> Vec<Value> {
    list(user, "/requests/incoming", "requests").await
}

async fn direct(user: &User, friend: &User) -> Value {
    let path = format!("user/{}/account_data/m.direct", encode(&user.user_id));
    user.get(&path).await.1[&friend.user_id].clone()
}

/// Waits until both have the other as their one friend, in one room that both are in and have among their direct chats.
async fn befriended(alice: &User, bob: &User) -> String {
    eventually("one friendship in one room", async || {
        let (of_alice, of_bob) = (list(alice, "", "friends").await, list(bob, "", "friends").await);
        let found = format!("{of_alice:?} {of_bob:?}");
        let ([a], [b]) = (of_alice.as_slice(), of_bob.as_slice()) else {
            return Err(found);
        };
        let room = a["dm_room_id"].as_str().unwrap_or_default().to_owned();
        let mut same = a["user_id"] == bob.user_id.as_str() && b["user_id"] == alice.user_id.as_str();
        same &= b["dm_room_id"] == room.as_str() && a["since"] == b["since"];
        for (user, friend) in [(alice, bob), (bob, alice)] {
            let member = format!(
                "rooms/{}/state/m.room.member/{}",
                encode(&room),
                encode(&friend.user_id)
            );
            same &= direct(user, friend).await == json!([room]);
            same &= user.get(&member).await.1["membership"] == "join";
        }
        if same { Ok(room) } else { Err(found) }
    })
    .await
}

async fn parted(alice: &User, bob: &User) {
    eventually("the end for both", async || {
        let mut left = Vec::new();
        for user in [alice, bob] {
            left.extend(list(user, "", "friends").await);
            left.extend(incoming(user).await);
            left.extend(list(user, "/requests/outgoing", "requests").await);
        }
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await;
}

async fn requested(bob: &User, alice: &User) -> Value {
    eventually("the request", async || {
        let found = incoming(bob).await;
        let request = found
            .iter()
            .find(|request| request["user_id"] == alice.user_id.as_str());
        request.cloned().ok_or_else(|| format!("{found:?}"))
    })
    .await
}

async fn in_both_directions(backend: Backend) {
    let (town, _authority) = town(backend, VERSION).await;
    let (alice, bob) = town.people().await;
    let name = format!("profile/{}/displayname", encode(&alice.user_id));
    alice.put(&name, json!({ "displayname": "Alice" })).await.ok();
    let mut feed = Feed::open(&bob).await;
    let room = text(&ask(&alice, &bob).await.ok(), "room_id");
    let request = requested(&bob, &alice).await;
    assert_eq!(
        (&request["message"], &request["display_name"]),
        (&json!("hello over there"), &json!("Alice"))
    );
    let invite = |sync: &Value| {
        let events = sync["rooms"]["invite"].get(&room)?["invite_state"]["events"]
            .as_array()?
            .clone();
        events
            .into_iter()
            .find(|event| event["state_key"] == bob.user_id.as_str())
    };
    let invite = feed.until("the invite to the direct chat", invite).await;
    assert_eq!(invite["content"]["is_direct"], true);
    ask(&alice, &bob).await.refused(409, "M_CONFLICT");
    assert_eq!(
        answer(&bob, &alice, "accept").await.ok(),
        json!({ "room_id": room, "status": "accepted" })
    );
    assert_eq!(befriended(&alice, &bob).await, room);
    ask(&bob, &alice).await.refused(409, "M_CONFLICT");
    assert_eq!(list(&bob, "", "friends").await[0]["display_name"], "Alice");

    remove(&bob, &alice).await;
    parted(&alice, &bob).await;
    // The other way round; the room is the same.
    assert_eq!(text(&ask(&bob, &alice).await.ok(), "room_id"), room);
    requested(&alice, &bob).await;
    answer(&alice, &bob, "reject").await.ok();
    parted(&alice, &bob).await;
    ask(&bob, &alice).await.ok();
    requested(&alice, &bob).await;
    answer(&bob, &alice, "cancel").await.ok();
    parted(&alice, &bob).await;
    // Nobody of that name.
    let nobody = json!({ "user_id": format!("@nobody:{}", town.there.name()) });
    alice
        .post(&format!("{FRIENDS}/request"), nobody)
        .await
        .refused(404, "M_NOT_FOUND");
    parted(&alice, &bob).await;
}

/// What was acknowledged while the other server was away comes to be when it is back, also when both die meanwhile.
async fn while_the_other_is_away(backend: Backend) {
    let (town, _authority) = town(backend, VERSION).await;
    let (alice, bob) = town.people().await;
    town.there.kill();
    assert_eq!(ask(&alice, &bob).await.ok()["status"], "pending");
    town.here.kill();
    back(&town).await;
    requested(&bob, &alice).await;

    town.here.kill();
    assert_eq!(answer(&bob, &alice, "accept").await.ok()["status"], "accepted");
    town.there.kill();
    back(&town).await;
    befriended(&alice, &bob).await;

    town.there.kill();
    remove(&alice, &bob).await;
    back(&town).await;
    parted(&alice, &bob).await;

    // A request that is taken back before it could be told was never there.
    town.there.kill();
    ask(&alice, &bob).await.ok();
    answer(&alice, &bob, "cancel").await.ok();
    back(&town).await;
    parted(&alice, &bob).await;
}

/// Starts whichever server is down, and has both forget that the other did not answer.
async fn back(town: &Town) {
    for server in [&town.here, &town.there] {
        let asked = server
            .client()
            .try_request("GET", "/_matrix/client/versions", None, None)
            .await;
        if asked.is_err() {
            server.restart().await;
        }
    }
    town.here.forgive(town.there.name()).await;
    town.there.forgive(town.here.name()).await;
}

async fn at_the_same_time(backend: Backend) {
    let (town, _authority) = town(backend, VERSION).await;
    for _ in 0..3 {
        let (alice, bob) = town.people().await;
        let (one, other) = tokio::join!(ask(&alice, &bob), ask(&bob, &alice));
        one.ok();
        other.ok();
        let room = befriended(&alice, &bob).await;
        eventually("one room for each", async || {
            let (of_alice, of_bob) = (alice.get("joined_rooms").await.ok(), bob.get("joined_rooms").await.ok());
            let only = json!([room]);
            if of_alice["joined_rooms"] == only && of_bob["joined_rooms"] == only {
                Ok(())
            } else {
                Err(format!("{of_alice} {of_bob}"))
            }
        })
        .await;
    }
}

/// The one who is blocked is not told, and the other is left in peace.
async fn whom_one_has_blocked(backend: Backend) {
    let (town, _authority) = town(backend, VERSION).await;
    let (alice, bob) = town.people().await;
    let status = format!("{FRIENDS}/{}/status", encode(&bob.user_id));
    alice.put(&status, json!({ "status": "blocked" })).await.ok();
    let mut feed = Feed::open(&alice).await;
    assert_eq!(ask(&bob, &alice).await.ok()["status"], "pending");
    let options = json!({ "is_direct": true, "preset": "trusted_private_chat", "invite": [alice.user_id] });
    let chat = town.room(&bob, options).await;
    let carol = town.remote("carol").await;
    let wanted = text(&ask(&carol, &alice).await.ok(), "room_id");
    // Carol's comes after Bob's, and is the only one.
    let seen = feed
        .until("Carol's invite", |sync| {
            let invites = sync["rooms"]["invite"].as_object()?;
            invites.contains_key(&wanted).then(|| invites.clone())
        })
        .await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    let sync = alice.sync(None, 0, None).await;
    assert!(sync["rooms"]["invite"].get(&chat).is_none(), "{sync}");
    let requests = incoming(&alice).await;
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0]["user_id"], carol.user_id.as_str());
    assert_eq!(list(&bob, "/requests/outgoing", "requests").await.len(), 1);
}

const ASK: &str = "/_matrix/federation/v1/friends/request";

/// A server that knows the documented endpoints only, and one that has nothing to do with it.
async fn as_documented_for_servers(backend: Backend) {
    let authority = Authority::create();
    let server = Ours::start(backend, &authority, "127.0.0.1").await;
    let (remote, stranger) = tokio::join!(Remote::start(&authority), Remote::start(&authority));
    let alice = User::register(&server.server.client, "alice").await;
    let bob = remote.user("bob");
    let body = json!({ "requester": bob, "target": alice.user_id, "message": "hello" });
    let post = async |by: &Remote, body: &Value| by.request(&server, "POST", ASK, Some(body)).await;
    server
        .server
        .client
        .post(ASK, body.clone())
        .await
        .refused(401, "M_UNAUTHORIZED");
    post(&stranger, &body).await.refused(403, "M_FORBIDDEN");
    let nobody = json!({ "requester": bob, "target": format!("@nobody:{}", server.name()) });
    post(&remote, &nobody).await.refused(404, "M_NOT_FOUND");
    post(&remote, &json!({ "requester": bob }))
        .await
        .refused(400, "M_MISSING_PARAM");
    post(&remote, &json!({ "requester": "bob", "target": alice.user_id }))
        .await
        .refused(400, "M_INVALID_PARAM");

    let received = post(&remote, &body).await.ok();
    assert_eq!(received["status"], "pending");
    assert!(
        received["request_id"].as_str().is_some_and(|id| id.starts_with("req_")),
        "{received}"
    );
    assert_eq!(post(&remote, &body).await.ok(), received, "the same request again");
    let [request] = incoming(&alice).await.try_into().expect("one request");
    assert_eq!(
        (&request["user_id"], &request["message"]),
        (&json!(bob), &json!("hello"))
    );

    let path = |rest: &str| format!("/_matrix/federation/v1/friends/{rest}");
    let query = path(&format!("query/{}", encode(&alice.user_id)));
    let relationship = path(&format!("relationship/{}/{}", encode(&alice.user_id), encode(&bob)));
    let none = json!({ "user_id": alice.user_id, "friends": [] });
    assert_eq!(remote.get(&server, &query).await.ok(), none);
    let not_yet = json!({ "are_friends": false, "since": null });
    assert_eq!(remote.get(&server, &relationship).await.ok(), not_yet);

    let accept = format!("{FRIENDS}/request/{}/accept", encode(&bob));
    assert_eq!(alice.post(&accept, json!({})).await.ok()["status"], "accepted");
    let told = remote.asked(ASK);
    let told = told.last().expect("the other server is told").json();
    assert_eq!(
        (&told["requester"], &told["target"]),
        (&json!(alice.user_id), &json!(bob))
    );
    let some = json!({ "user_id": alice.user_id, "friends": [bob] });
    assert_eq!(remote.get(&server, &query).await.ok(), some);
    let found = remote.get(&server, &relationship).await.ok();
    assert!(found["are_friends"] == true && found["since"].is_i64(), "{found}");
    assert_eq!(post(&remote, &body).await.ok()["status"], "accepted");

    // Nobody is told of others' friends, or of those who are to be hidden.
    assert_eq!(stranger.get(&server, &query).await.ok(), none);
    stranger.get(&server, &relationship).await.refused(403, "M_FORBIDDEN");
    let status = format!("{FRIENDS}/{}/status", encode(&bob));
    alice.put(&status, json!({ "status": "hidden" })).await.ok();
    assert_eq!(remote.get(&server, &query).await.ok(), none);
    server.server.client.get(&query).await.refused(401, "M_UNAUTHORIZED");
}

both_backends! {
    as_documented_for_servers
    in_both_directions
    while_the_other_is_away
    at_the_same_time
    whom_one_has_blocked
}
