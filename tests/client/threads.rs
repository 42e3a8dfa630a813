//! Subscriptions to threads (MSC4306, MSC4308).

use serde_json::{Value, json};

use crate::common::client::{AnswerExt, User, encode};

fn path(room: &str, root: &str) -> String {
    let (room, root) = (encode(room), encode(root));
    format!("/_matrix/client/unstable/io.element.msc4306/rooms/{room}/thread/{root}/subscription")
}

async fn reply_in(user: &User, room: &str, root: &str) -> String {
    let content = json!({
        "msgtype": "m.text",
        "body": "in the thread",
        "m.relates_to": { "rel_type": "m.thread", "event_id": root },
    });
    user.send(room, "m.room.message", content).await
}

async fn changes(user: &User, query: &str) -> Value {
    let path = format!("/_matrix/client/unstable/io.element.msc4308/thread_subscriptions?dir=b{query}");
    user.get(&path).await.ok()
}

both_databases! {
    async fn whoever_leaves_a_thread_is_brought_back_by_later_mentions_only(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let root = alice.send_text(&room, "root").await;
        let thread = path(&room, &root);
        bob.get(&thread).await.refused(404, "M_NOT_FOUND");
        bob.put(&path(&room, "$none"), json!({})).await.refused(404, "M_NOT_FOUND");
        bob.join(&room).await;
        bob.get(&thread).await.refused(404, "M_NOT_FOUND");
        bob.delete(&thread, None).await.ok();
        let first = reply_in(&alice, &room, &root).await;
        bob.put(&thread, json!({ "automatic": root })).await.refused(400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD");
        bob.put(&thread, json!({ "automatic": first })).await.ok();
        assert_eq!(bob.get(&thread).await.ok(), json!({ "automatic": true }));
        bob.put(&thread, json!({})).await.ok();
        bob.put(&thread, json!({ "automatic": first })).await.ok();
        assert_eq!(bob.get(&thread).await.ok(), json!({ "automatic": false }), "what was asked for counts more");
        bob.delete(&thread, None).await.ok();
        bob.get(&thread).await.refused(404, "M_NOT_FOUND");
        bob.put(&thread, json!({ "automatic": first })).await
            .refused(409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION");
        let second = reply_in(&alice, &room, &root).await;
        bob.put(&thread, json!({ "automatic": second })).await.ok();
        assert_eq!(bob.get(&thread).await.ok(), json!({ "automatic": true }));
        server.client.get(&thread).await.refused(401, "M_MISSING_TOKEN");
    }

    async fn changes_are_told_page_by_page(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let mut roots = Vec::new();
        for text in ["a", "b", "c"] {
            let root = alice.send_text(&room, text).await;
            alice.put(&path(&room, &root), json!({})).await.ok();
            roots.push(root);
        }
        alice.delete(&path(&room, &roots[0]), None).await.ok();
        server.kill();
        server.restart().await;
        let newest = changes(&alice, "&limit=2").await;
        assert!(newest["unsubscribed"][&room][&roots[0]]["bump_stamp"].is_i64(), "{newest}");
        assert_eq!(newest["subscribed"][&room][&roots[2]]["automatic"], json!(false));
        assert_eq!(newest["subscribed"][&room][&roots[1]], Value::Null);
        let end = newest["end"].as_str().expect("there is more");
        let rest = changes(&alice, &format!("&from={end}")).await;
        assert_eq!(rest["subscribed"][&room].as_object().map(serde_json::Map::len), Some(1));
        assert!(rest["subscribed"][&room][&roots[1]].is_object(), "{rest}");
        assert_eq!(rest["end"], Value::Null);
        let none = changes(&alice, &format!("&to={}", newest["unsubscribed"][&room][&roots[0]]["bump_stamp"])).await;
        assert_eq!(none, json!({ "subscribed": {}, "unsubscribed": {} }));
        let wrong = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions?dir=f";
        alice.get(wrong).await.refused(400, "M_INVALID_PARAM");
    }

    async fn a_subscribed_thread_is_heard_of_in_a_quiet_room(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        bob.put(&format!("pushrules/global/room/{}", encode(&room)), json!({ "actions": [] })).await.ok();
        let root = alice.send_text(&room, "root").await;
        let unread = || async {
            let sync = bob.sync(None, 0, None).await;
            sync["rooms"]["join"][&room]["unread_notifications"]["notification_count"].clone()
        };
        reply_in(&alice, &room, &root).await;
        assert_eq!(unread().await, json!(0));
        bob.put(&path(&room, &root), json!({})).await.ok();
        assert_eq!(unread().await, json!(1));
        reply_in(&alice, &room, &root).await;
        alice.send_text(&room, "elsewhere").await;
        assert_eq!(unread().await, json!(2));
        bob.delete(&path(&room, &root), None).await.ok();
        assert_eq!(unread().await, json!(0));
    }
}
