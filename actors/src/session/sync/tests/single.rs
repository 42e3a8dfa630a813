//! Single situations.

use ruma::OwnedUserId;
use serde_json::{Value, json};

use super::client::Client;
use super::world::{World, with_world};
use crate::room::membership::Action;

pub(super) async fn people(world: &World) -> (OwnedUserId, OwnedUserId) {
    (
        world.register("alice", &["A"]).await,
        world.register("bob", &["A"]).await,
    )
}

pub(super) fn client(user: &OwnedUserId) -> Client {
    Client::new(user, "A", &json!({}), false)
}

pub(super) fn with_filter(user: &OwnedUserId, filter: &Value) -> Client {
    Client::new(user, "A", filter, false)
}

pub(super) fn kinds(events: &Value) -> Vec<&str> {
    let events = events["events"].as_array().map_or(&[][..], Vec::as_slice);
    events
        .iter()
        .map(|event| event["type"].as_str().expect("a type"))
        .collect()
}

pub(super) fn bodies(block: &Value) -> Vec<&str> {
    let events = block["timeline"]["events"].as_array().expect("a list");
    events
        .iter()
        .filter_map(|event| event["content"]["body"].as_str())
        .collect()
}

#[test]
fn hidden_history_still_gives_the_whole_state() {
    with_world(|world| async move {
        let (alice, bob) = people(&world).await;
        let room = world.create(&alice, "public_chat", "joined").await;
        world
            .state(&alice, &room, "m.room.name", "", &json!({ "name": "N" }))
            .await
            .expect("set");
        world.text(&alice, &room, "before").await.expect("sent");
        world.join(&bob, &room).await.expect("public");
        let answer = client(&bob).ask(&world, true).await;
        let block = &answer["rooms"]["join"][room.as_str()];
        // What was said before it was hidden is for everybody who joins.
        let timeline = kinds(&block["timeline"]);
        assert_eq!(
            (timeline.first(), timeline.last()),
            (Some(&"m.room.create"), Some(&"m.room.member"))
        );
        assert!(!timeline.contains(&"m.room.message"), "{block}");
        let memberships = block["timeline"]["events"].as_array().expect("a list");
        let memberships: Vec<_> = memberships
            .iter()
            .map(|event| &event["unsigned"]["membership"])
            .collect();
        let (last, before) = memberships.split_last().expect("events");
        assert_eq!(**last, "join", "{block}");
        assert!(before.iter().all(|membership| **membership == "leave"), "{block}");
        assert_eq!(
            kinds(&block["state"]),
            ["m.room.name"],
            "hidden in the timeline, but true"
        );
        let short = json!({ "room": { "timeline": { "limit": 3 } } });
        let answer = with_filter(&bob, &short).ask(&world, true).await;
        let block = &answer["rooms"]["join"][room.as_str()];
        assert_eq!(kinds(&block["timeline"]), ["m.room.member"], "only from the join on");
        for kind in [
            "m.room.create",
            "m.room.name",
            "m.room.power_levels",
            "m.room.history_visibility",
        ] {
            assert!(kinds(&block["state"]).contains(&kind), "{kind}");
        }
    });
}

#[test]
fn who_rejects_an_invite_learns_nothing() {
    with_world(|world| async move {
        let (alice, bob) = people(&world).await;
        let room = world.create(&alice, "private_chat", "shared").await;
        world.text(&alice, &room, "secret").await.expect("sent");
        let mut bobs = client(&bob);
        bobs.sync(&world).await;
        world.invite(&alice, &room, &bob).await.expect("invited");
        let invited = bobs.sync(&world).await;
        let stripped = &invited["rooms"]["invite"][room.as_str()]["invite_state"];
        assert!(kinds(stripped).contains(&"m.room.create") && kinds(stripped).contains(&"m.room.member"));
        world.leave(&bob, &room).await.expect("rejected");
        let answer = bobs.sync(&world).await;
        let block = &answer["rooms"]["leave"][room.as_str()];
        assert_eq!(block["state"]["events"], json!([]), "{block}");
        let timeline = block["timeline"]["events"].as_array().expect("a list");
        assert!(
            timeline.iter().all(|event| event["state_key"] == bob.as_str()),
            "{block}"
        );
        assert_eq!(
            timeline.last().expect("the leave event")["content"]["membership"],
            "leave"
        );
        assert!(answer.get("device_lists").is_none(), "{answer}");
    });
}

#[test]
fn departures_end_with_the_departure() {
    with_world(|world| async move {
        let (alice, bob) = people(&world).await;
        let room = world.create(&alice, "public_chat", "shared").await;
        world.join(&bob, &room).await.expect("public");
        let mut bobs = client(&bob);
        bobs.sync(&world).await;
        let old = bobs.clone();
        world.text(&alice, &room, "seen").await.expect("sent");
        world.leave(&bob, &room).await.expect("left");
        world.text(&alice, &room, "unseen").await.expect("sent");
        world
            .state(&alice, &room, "m.room.name", "", &json!({ "name": "later" }))
            .await
            .expect("set");
        world.change(&alice, &room, &bob, Action::Ban).await.expect("banned");
        for answer in [old.ask(&world, true).await, old.ask(&world, false).await] {
            let block = &answer["rooms"]["leave"][room.as_str()];
            assert_eq!(bodies(block), ["seen"], "{block}");
            assert!(!kinds(&block["timeline"]).contains(&"m.room.name"), "{block}");
            assert!(!kinds(&block["state"]).contains(&"m.room.name"), "{block}");
            let last = block["timeline"]["events"].as_array().and_then(|events| events.last());
            assert_eq!(last.expect("the ban")["content"]["membership"], "ban");
        }
        let archive = with_filter(&bob, &json!({ "room": { "include_leave": true } }))
            .ask(&world, true)
            .await;
        let block = &archive["rooms"]["leave"][room.as_str()];
        assert!(!block.to_string().contains("later"), "{block}");
        assert!(client(&bob).ask(&world, true).await.get("rooms").is_none());
    });
}

#[test]
fn a_room_that_is_forgotten_is_still_left() {
    with_world(|world| async move {
        let (alice, bob) = people(&world).await;
        let room = world.create(&alice, "public_chat", "shared").await;
        world.join(&bob, &room).await.expect("public");
        let mut bobs = client(&bob);
        bobs.sync(&world).await;
        world.leave(&bob, &room).await.expect("left");
        world.hub.rooms().forget(&room, &bob).await.expect("forgotten");
        for answer in [bobs.ask(&world, true).await, bobs.ask(&world, false).await] {
            assert!(answer["rooms"]["leave"].get(room.as_str()).is_some(), "{answer}");
        }
        let archive = with_filter(&bob, &json!({ "room": { "include_leave": true } }))
            .ask(&world, true)
            .await;
        assert!(archive.get("rooms").is_none(), "{archive}");
    });
}

#[test]
fn a_full_inbox_comes_in_pages() {
    with_world(|world| async move {
        let (alice, bob) = people(&world).await;
        let mut bobs = client(&bob);
        bobs.sync(&world).await;
        for number in 0..230 {
            world.whisper(&alice, &bob, number).await.expect("sent");
        }
        for read in [100, 200, 230, 230] {
            let again = bobs.ask(&world, false).await;
            let answer = bobs.sync(&world).await;
            assert_eq!(again["to_device"], answer["to_device"]);
            assert_eq!(bobs.messages, (0..read).collect::<Vec<_>>());
        }
    });
}

#[test]
fn a_gap_tells_the_state_that_changed_in_it() {
    with_world(|world| async move {
        let (alice, bob) = people(&world).await;
        let room = world.create(&alice, "public_chat", "shared").await;
        world.join(&bob, &room).await.expect("public");
        let mut bobs = client(&bob);
        bobs.sync(&world).await;
        let mut after = Client {
            state_after: true,
            ..bobs.clone()
        };
        world
            .state(&alice, &room, "m.room.name", "", &json!({ "name": "1" }))
            .await
            .expect("set");
        for number in 0..600 {
            world.text(&alice, &room, &number.to_string()).await.expect("sent");
        }
        world
            .state(&alice, &room, "m.room.topic", "", &json!({ "topic": "2" }))
            .await
            .expect("set");
        let answer = bobs.sync(&world).await;
        let block = &answer["rooms"]["join"][room.as_str()];
        assert_eq!(block["timeline"]["limited"], true);
        assert_eq!(block["timeline"]["events"].as_array().map(Vec::len), Some(10));
        assert_eq!(kinds(&block["state"]), ["m.room.name"]);
        assert_eq!(block["unread_notifications"]["notification_count"], 600);
        let answer = after.sync(&world).await;
        let block = &answer["rooms"]["join"][room.as_str()];
        assert_eq!(kinds(&block["state_after"]), ["m.room.name", "m.room.topic"]);
    });
}

#[test]
fn members_are_told_until_the_answer_arrived() {
    with_world(|world| async move {
        let (alice, bob) = people(&world).await;
        let room = world.create(&alice, "public_chat", "shared").await;
        let carol = world.register("carol", &["A"]).await;
        for user in [&bob, &carol] {
            world.join(user, &room).await.expect("public");
        }
        for number in 0..12 {
            world.text(&alice, &room, &number.to_string()).await.expect("sent");
        }
        let lazy = json!({ "room": { "state": { "lazy_load_members": true } } });
        let mut bobs = with_filter(&bob, &lazy);
        let members = |answer: &Value| -> Vec<String> {
            let state = answer["rooms"]["join"][room.as_str()]["state"]["events"].as_array();
            let members = state
                .into_iter()
                .flatten()
                .filter(|event| event["type"] == "m.room.member");
            let mut members: Vec<_> = members
                .map(|event| event["state_key"].as_str().expect("a key").to_owned())
                .collect();
            members.sort();
            members
        };
        // Those who speak, the user, and for the room's name everybody else.
        let first = bobs.sync(&world).await;
        assert_eq!(members(&first), [alice.as_str(), bob.as_str(), carol.as_str()]);
        let named = json!({ "name": "N" });
        world
            .state(&alice, &room, "m.room.name", "", &named)
            .await
            .expect("set");
        let mut bobs = with_filter(&bob, &lazy);
        assert_eq!(members(&bobs.sync(&world).await), [alice.as_str(), bob.as_str()]);
        world.text(&carol, &room, "hello").await.expect("sent");
        assert_eq!(members(&bobs.ask(&world, true).await), [carol.as_str()]);
        assert_eq!(
            members(&bobs.sync(&world).await),
            [carol.as_str()],
            "the answer got lost"
        );
        world.text(&carol, &room, "hello?").await.expect("sent");
        assert!(members(&bobs.sync(&world).await).is_empty(), "known now");
        let redundant =
            json!({ "room": { "state": { "lazy_load_members": true, "include_redundant_members": true } } });
        world.text(&carol, &room, "hello!").await.expect("sent");
        let bobs = Client {
            since: bobs.since,
            ..with_filter(&bob, &redundant)
        };
        assert_eq!(members(&bobs.ask(&world, true).await), [carol.as_str()]);
    });
}

#[test]
fn who_comes_and_goes_is_told_for_devices() {
    with_world(|world| async move {
        let (alice, bob) = people(&world).await;
        let room = world.create(&alice, "public_chat", "shared").await;
        let mut bobs = client(&bob);
        let mut alices = client(&alice);
        bobs.sync(&world).await;
        alices.sync(&world).await;
        world.join(&bob, &room).await.expect("public");
        assert_eq!(
            bobs.ask(&world, false).await["device_lists"],
            json!({ "changed": [alice], "left": [] })
        );
        assert_eq!(
            bobs.sync(&world).await["device_lists"],
            json!({ "changed": [alice], "left": [] })
        );
        assert_eq!(
            alices.sync(&world).await["device_lists"],
            json!({ "changed": [bob], "left": [] })
        );
        let content = json!({ "membership": "join", "displayname": "Bobby" });
        world
            .state(&bob, &room, "m.room.member", bob.as_str(), &content)
            .await
            .expect("set");
        assert!(bobs.sync(&world).await.get("device_lists").is_none());
        assert!(alices.sync(&world).await.get("device_lists").is_none());
        world
            .hub
            .sessions()
            .rename_device(&alice, "A".into(), Some("phone".to_owned()))
            .await
            .expect("renamed");
        assert_eq!(
            bobs.sync(&world).await["device_lists"],
            json!({ "changed": [alice], "left": [] })
        );
        world.leave(&bob, &room).await.expect("left");
        assert_eq!(
            bobs.ask(&world, false).await["device_lists"],
            json!({ "changed": [], "left": [alice] })
        );
        assert_eq!(
            bobs.sync(&world).await["device_lists"],
            json!({ "changed": [], "left": [alice] })
        );
        assert_eq!(alices.ask(&world, false).await["device_lists"]["left"], json!([bob]));
        assert_eq!(alices.sync(&world).await["device_lists"]["left"], json!([bob]));
    });
}

#[test]
fn filters_choose() {
    with_world(|world| async move {
        let (alice, bob) = people(&world).await;
        let room = world.create(&alice, "public_chat", "shared").await;
        world.join(&bob, &room).await.expect("public");
        let other = world.create(&bob, "public_chat", "shared").await;
        let start = {
            let mut start = client(&bob);
            start.sync(&world).await;
            start.since
        };
        world.text(&alice, &room, "text").await.expect("sent");
        let image = json!({ "msgtype": "m.image", "body": "image", "url": "mxc://x/y" });
        world.say(&alice, &room, &image).await.expect("sent");
        world.text(&bob, &room, "own").await.expect("sent");
        world
            .state(&alice, &room, "m.room.topic", "", &json!({ "topic": "T" }))
            .await
            .expect("set");
        world.text(&bob, &other, "elsewhere").await.expect("sent");
        let ask = async |filter: Value| {
            Client {
                since: start,
                ..with_filter(&bob, &filter)
            }
            .ask(&world, true)
            .await
        };
        let timeline = |filter: Value| json!({ "room": { "timeline": filter } });
        for (filter, expected) in [
            (json!({}), vec!["text", "image", "own"]),
            (json!({ "not_senders": [alice] }), vec!["own"]),
            (json!({ "senders": [alice] }), vec!["text", "image"]),
            (json!({ "contains_url": true }), vec!["image"]),
            (json!({ "contains_url": false }), vec!["text", "own"]),
            (json!({ "types": ["m.room.mess*"], "limit": 2 }), vec!["image", "own"]),
            (json!({ "not_types": ["m.room.message"] }), vec![]),
        ] {
            let answer = ask(timeline(filter.clone())).await;
            assert_eq!(bodies(&answer["rooms"]["join"][room.as_str()]), expected, "{filter}");
        }
        // State that the timeline leaves out stands in the state.
        let answer = ask(timeline(json!({ "not_types": ["m.room.topic"] }))).await;
        assert_eq!(
            kinds(&answer["rooms"]["join"][room.as_str()]["state"]),
            ["m.room.topic"]
        );
        let answer = ask(timeline(json!({ "limit": 0 }))).await;
        let block = &answer["rooms"]["join"][room.as_str()];
        assert_eq!((&block["timeline"]["limited"], bodies(block).len()), (&json!(true), 0));
        assert_eq!(kinds(&block["state"]), ["m.room.topic"]);
        let answer = ask(timeline(json!({ "not_rooms": [room] }))).await;
        assert_eq!(
            kinds(&answer["rooms"]["join"][room.as_str()]["state"]),
            ["m.room.topic"]
        );
        for filter in [json!({ "rooms": [other] }), json!({ "not_rooms": [room] })] {
            let answer = ask(json!({ "room": filter })).await;
            let rooms: Vec<_> = answer["rooms"]["join"].as_object().expect("rooms").keys().collect();
            assert_eq!(rooms, [other.as_str()]);
        }
        let answer = ask(json!({ "event_fields": ["type", "content.body"], "room": { "rooms": [other] } })).await;
        let events = &answer["rooms"]["join"][other.as_str()]["timeline"]["events"];
        assert_eq!(
            *events,
            json!([{ "type": "m.room.message", "content": { "body": "elsewhere" } }])
        );
    });
}

#[test]
fn ignored_users_are_silent() {
    with_world(|world| async move {
        let (alice, bob) = people(&world).await;
        let room = world.create(&alice, "public_chat", "shared").await;
        world.join(&bob, &room).await.expect("public");
        let mut bobs = client(&bob);
        bobs.sync(&world).await;
        let ignored = json!({ "ignored_users": { alice.as_str(): {} } });
        world
            .keep(&bob, None, "m.ignored_user_list", &ignored)
            .await
            .expect("kept");
        world.text(&alice, &room, "shout").await.expect("sent");
        world
            .state(&alice, &room, "m.room.topic", "", &json!({ "topic": "T" }))
            .await
            .expect("set");
        let private = world.create(&alice, "private_chat", "shared").await;
        world.invite(&alice, &private, &bob).await.expect("invited");
        let answer = bobs.sync(&world).await;
        let block = &answer["rooms"]["join"][room.as_str()];
        assert_eq!(kinds(&block["timeline"]), ["m.room.topic"]);
        assert_eq!(block["unread_notifications"]["notification_count"], 0);
        assert!(answer["rooms"].get("invite").is_none(), "{answer}");
        assert!(client(&bob).ask(&world, true).await["rooms"].get("invite").is_none());
    });
}
