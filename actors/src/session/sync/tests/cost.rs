//! What answers cost, and the counts that are kept so that they cost little.

use std::time::Instant;

use serde_json::{Value, json};

use super::client::Client;
use super::random::timeless;
use super::single::{bodies, client, kinds, people, with_filter};
use super::world::with_world;
use crate::room::commands::SetTyping;

#[test]
fn what_is_unread() {
    with_world(|world| async move {
        let (alice, bob) = people(&world).await;
        let room = world.create(&alice, "public_chat", "shared").await;
        world.text(&alice, &room, "before the join").await.expect("sent");
        world.join(&bob, &room).await.expect("public");
        let mut bobs = with_filter(
            &bob,
            &json!({ "room": { "timeline": { "unread_thread_notifications": true } } }),
        );
        let unread = |client: &Client| {
            let room = &client.rooms[room.as_str()];
            (
                room.unread["notification_count"].as_u64(),
                room.unread["highlight_count"].as_u64(),
                room.threads.clone(),
            )
        };
        bobs.sync(&world).await;
        assert_eq!(unread(&bobs), (Some(0), Some(0), Value::Null));
        let root = world.text(&alice, &room, "one").await.expect("sent");
        let mention = json!({ "msgtype": "m.text", "body": "two", "m.mentions": { "user_ids": [bob] } });
        let second = world.say(&alice, &room, &mention).await.expect("sent");
        let threaded = json!({
            "msgtype": "m.text", "body": "three", "m.relates_to": { "rel_type": "m.thread", "event_id": root },
        });
        let third = world.say(&alice, &room, &threaded).await.expect("sent");
        bobs.sync(&world).await;
        let thread = json!({ root.as_str(): { "notification_count": 1, "highlight_count": 0 } });
        assert_eq!(unread(&bobs), (Some(2), Some(1), thread.clone()));
        world
            .read(&bob, &room, &second, "m.read.private", Some("main"))
            .await
            .expect("read");
        bobs.sync(&world).await;
        assert_eq!(unread(&bobs), (Some(0), Some(0), thread));
        world
            .read(&bob, &room, &third, "m.read", Some(root.as_str()))
            .await
            .expect("read");
        bobs.sync(&world).await;
        assert_eq!(unread(&bobs), (Some(0), Some(0), Value::Null));
        let gone = world.text(&alice, &room, "four").await.expect("sent");
        world.text(&alice, &room, "five").await.expect("sent");
        world.redact(&alice, &room, &gone).await.expect("redacted");
        bobs.sync(&world).await;
        assert_eq!(unread(&bobs).0, Some(1), "what was redacted does not count");
        world.text(&bob, &room, "an answer").await.expect("sent");
        bobs.sync(&world).await;
        assert_eq!(unread(&bobs).0, Some(0), "who writes has read");
    });
}

#[test]
fn news_need_no_database() {
    with_world(|world| async move {
        let (alice, bob) = people(&world).await;
        let mut rooms = Vec::new();
        for _ in 0..3 {
            let room = world.create(&alice, "public_chat", "shared").await;
            world.join(&bob, &room).await.expect("public");
            rooms.push(room);
        }
        let mut bobs = client(&bob);
        let lazy = json!({ "room": { "state": { "lazy_load_members": true } } });
        let mut lazies = Client::new(&bob, "B", &lazy, true);
        // Counts are known once they were asked for.
        for _ in 0..2 {
            for client in [&mut bobs, &mut lazies] {
                client.sync(&world).await;
            }
            for room in &rooms {
                world.text(&alice, room, "hello").await.expect("sent");
            }
        }
        for client in [&mut bobs, &mut lazies] {
            client.sync(&world).await;
        }
        let read = world.text(&alice, &rooms[0], "news").await.expect("sent");
        world
            .read(&alice, &rooms[1], &read, "m.read", None)
            .await
            .expect_err("another room's");
        world.read(&bob, &rooms[0], &read, "m.read", None).await.expect("read");
        world
            .read(&alice, &rooms[0], &read, "m.read", None)
            .await
            .expect("read");
        let content = json!({ "membership": "join", "displayname": "Bobby" });
        world
            .state(&bob, &rooms[1], "m.room.member", bob.as_str(), &content)
            .await
            .expect("set");
        let typing = SetTyping {
            user: alice.clone(),
            timeout_ms: Some(30_000),
        };
        world.hub.rooms().set_typing(&rooms[2], typing).await.expect("noted");
        world.env().store.close().await.expect("closed");
        for client in [&bobs, &lazies] {
            let answer = client.ask(&world, true).await;
            let block = |at: usize| &answer["rooms"]["join"][rooms[at].as_str()];
            assert_eq!(bodies(block(0)), ["news"]);
            assert_eq!(block(0)["unread_notifications"]["notification_count"], 0);
            assert_eq!(kinds(&block(0)["ephemeral"]), ["m.receipt"]);
            assert_eq!(kinds(&block(1)["timeline"]), ["m.room.member"]);
            assert_eq!(kinds(&block(2)["ephemeral"]), ["m.typing"]);
        }
    });
}

#[test]
fn many_rooms_are_told_alike_whether_they_are_in_memory_or_not() {
    with_world(|world| async move {
        let mut world = world;
        let (alice, bob) = people(&world).await;
        for n in 0..50 {
            let room = world.create(&alice, "public_chat", "shared").await;
            world.join(&bob, &room).await.expect("public");
            for _ in 0..n {
                world.text(&alice, &room, "hello").await.expect("sent");
            }
        }
        let warm = client(&bob).ask(&world, true).await;
        world.restart().await;
        let begin = Instant::now();
        let cold = client(&bob).ask(&world, true).await;
        eprintln!("a first sync of 50 rooms from the database: {:?}", begin.elapsed());
        let begin = Instant::now();
        let again = client(&bob).ask(&world, true).await;
        eprintln!("from memory: {:?}", begin.elapsed());
        let rooms = warm["rooms"]["join"].as_object().map(|rooms| rooms.len());
        assert_eq!(rooms, Some(50));
        let warm = timeless(warm);
        assert!(timeless(cold) == warm && timeless(again) == warm, "the same answer");
    });
}
