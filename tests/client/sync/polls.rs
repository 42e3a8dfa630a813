//! Waiting for news.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{bodies, joined, list, next, now, pair, since};
use crate::common::client::{AnswerExt, User, encode};

fn ephemeral<'a>(sync: &'a Value, room: &str, kind: &str) -> Option<&'a Value> {
    let events = list(&joined(sync, room)["ephemeral"]["events"]);
    events
        .iter()
        .find(|event| event["type"] == kind)
        .map(|event| &event["content"])
}

/// Polls while something happens; the answer, and how long it took.
async fn during(user: &User, token: &str, deed: impl Future<Output = ()>) -> (Value, Duration) {
    let begin = Instant::now();
    let deed = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        deed.await;
    };
    let (answer, ()) = tokio::join!(since(user, token, "&timeout=20000"), deed);
    (answer, begin.elapsed())
}

both_databases! {
    async fn a_poll_waits_as_long_as_it_may(server) {
        let (_, bob, _) = pair(server).await;
        let start = now(&bob).await;
        let begin = Instant::now();
        let answer = since(&bob, &start, "&timeout=600").await;
        assert!(begin.elapsed() >= Duration::from_millis(600), "{answer}");
        assert!(answer.get("rooms").is_none() && answer["next_batch"].is_string(), "{answer}");
        let begin = Instant::now();
        since(&bob, &start, "").await;
        assert!(begin.elapsed() < Duration::from_millis(500), "no timeout is none");
    }

    async fn a_poll_ends_when_something_happens(server) {
        let (alice, bob, room) = pair(server).await;
        let start = now(&bob).await;
        let (answer, took) = during(&bob, &start, async { drop(alice.send_text(&room, "hello").await) }).await;
        assert_eq!(bodies(joined(&answer, &room)), ["hello"]);
        assert!(took < Duration::from_secs(10), "{took:?}");
        // What concerns nobody but others does not end it.
        let other = alice.create_room(json!({})).await;
        let start = next(&answer);
        let begin = Instant::now();
        let (answer, _) = tokio::join!(since(&bob, &start, "&timeout=700"), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            alice.send_text(&other, "to myself").await;
        });
        assert!(begin.elapsed() >= Duration::from_millis(700), "{answer}");
        let (answer, _) = during(&bob, &next(&answer), alice.invite(&other, &bob.user_id)).await;
        assert!(answer["rooms"]["invite"][&other].is_object());
    }

    async fn all_devices_hear(server) {
        let (alice, bob, room) = pair(server).await;
        let second = User::login(&server.client, "bob").await;
        let (first_at, second_at) = (now(&bob).await, now(&second).await);
        let hear = async |device: &User, token: String| since(device, &token, "&timeout=20000").await;
        let (first, second, _) = tokio::join!(hear(&bob, first_at), hear(&second, second_at), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            alice.send_text(&room, "hello").await
        });
        assert_eq!((bodies(joined(&first, &room)), bodies(joined(&second, &room))), (vec!["hello"], vec!["hello"]));
    }

    async fn a_newer_poll_ends_the_older(server) {
        let (_, bob, _) = pair(server).await;
        let start = now(&bob).await;
        let begin = Instant::now();
        let older = async {
            since(&bob, &start, "&timeout=20000").await;
            begin.elapsed()
        };
        let newer = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            since(&bob, &start, "&timeout=1500").await;
            begin.elapsed()
        };
        let (older, newer) = tokio::join!(older, newer);
        assert!(older < Duration::from_millis(1500) && newer >= Duration::from_millis(1500), "{older:?} {newer:?}");
    }

    async fn a_logout_ends_the_poll(server) {
        let (_, bob, _) = pair(server).await;
        let start = now(&bob).await;
        let address = format!("sync?set_presence=offline&timeout=20000&since={}", encode(&start));
        let poll = bob.get(&address);
        let begin = Instant::now();
        let ((status, body), ()) = tokio::join!(poll, async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            bob.post("logout", json!({})).await.ok();
        });
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert_eq!((status, &body["errcode"]), (401, &json!("M_UNKNOWN_TOKEN")));
    }

    async fn typing_comes_and_goes(server) {
        let (alice, bob, room) = pair(server).await;
        let path = format!("rooms/{}/typing/{}", encode(&room), encode(&alice.user_id));
        let start = now(&bob).await;
        let begin = alice.put(&path, json!({ "typing": true, "timeout": 30000 }));
        let (answer, _) = during(&bob, &start, async { drop(begin.await.ok()) }).await;
        let typing = |answer: &Value| ephemeral(answer, &room, "m.typing").map(|content| content["user_ids"].clone());
        assert_eq!(typing(&answer), Some(json!([alice.user_id])));
        let end = alice.put(&path, json!({ "typing": false }));
        let (answer, _) = during(&bob, &next(&answer), async { drop(end.await.ok()) }).await;
        assert_eq!(typing(&answer), Some(json!([])));
        alice.send_text(&room, "done").await;
        let answer = since(&bob, &next(&answer), "").await;
        assert_eq!(typing(&answer), None, "nothing changed");
    }

    async fn receipts_travel(server) {
        let (alice, bob, room) = pair(server).await;
        let (alices, bobs) = (now(&alice).await, now(&bob).await);
        let event = alice.send_text(&room, "hello").await;
        let private = alice.send_text(&room, "again").await;
        let path = |kind: &str, event: &str| format!("rooms/{}/receipt/{kind}/{}", encode(&room), encode(event));
        let address = path("m.read", &event);
        let read = bob.post(&address, json!({}));
        let (answer, _) = during(&alice, &alices, async { drop(read.await.ok()) }).await;
        let mut answer = answer;
        if ephemeral(&answer, &room, "m.receipt").is_none() {
            answer = since(&alice, &next(&answer), "&timeout=20000").await;
        }
        let receipt = ephemeral(&answer, &room, "m.receipt").expect("a receipt");
        assert!(receipt[&event]["m.read"][&bob.user_id]["ts"].is_u64(), "{receipt}");
        bob.post(&path("m.read.private", &private), json!({})).await.ok();
        let alone = since(&alice, &next(&answer), "").await;
        assert!(alone.get("rooms").is_none(), "private receipts are private: {alone}");
        assert!(ephemeral(&since(&alice, "s0", "").await, &room, "m.receipt").is_some_and(|all| all.get(&private).is_none()));
        let own = since(&bob, &bobs, "").await;
        let receipt = ephemeral(&own, &room, "m.receipt").expect("own receipts");
        assert!(receipt[&private]["m.read.private"][&bob.user_id].is_object(), "{receipt}");
        assert_eq!(joined(&own, &room)["unread_notifications"]["notification_count"], 0);
    }
}
