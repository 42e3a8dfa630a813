//! Rooms that one comes into and goes out of.

use serde_json::json;

use super::{ask, bodies, filter, joined, kinds, list, next, now, pair, since};
use crate::common::client::{AnswerExt, encode};

both_databases! {
    async fn invites_are_shown_until_they_are_answered(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let start = now(&bob).await;
        let room = alice.create_room(json!({ "preset": "private_chat", "name": "Cellar", "topic": "wine" })).await;
        alice.send_text(&room, "secret").await;
        alice.invite(&room, &bob.user_id).await;
        let sync = since(&bob, &start, "").await;
        let invite = &sync["rooms"]["invite"][&room]["invite_state"];
        for kind in ["m.room.create", "m.room.name", "m.room.join_rules", "m.room.member"] {
            assert!(kinds(invite).contains(&kind), "{kind}");
        }
        for event in list(&invite["events"]) {
            assert!(event.get("event_id").is_none() && event.get("unsigned").is_none(), "{event}");
        }
        assert!(!sync.to_string().contains("secret"));
        assert!(since(&bob, &next(&sync), "").await.get("rooms").is_none(), "told once");
        assert!(ask(&bob, "").await["rooms"]["invite"][&room].is_object(), "and to who begins");
        let blind = ask(&bob, &filter(&json!({ "room": { "rooms": [] } }))).await;
        assert!(blind.get("rooms").is_none(), "{blind}");

        bob.leave(&room).await;
        let rejected = since(&bob, &next(&sync), "").await;
        let left = &rejected["rooms"]["leave"][&room];
        assert_eq!(left["state"]["events"], json!([]));
        assert!(list(&left["timeline"]["events"]).iter().all(|event| event["state_key"] == bob.user_id.as_str()), "{left}");
        assert!(!rejected.to_string().contains("secret") && !rejected.to_string().contains("Cellar"));
        assert!(ask(&bob, "").await.get("rooms").is_none());
    }

    async fn a_new_room_comes_whole(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        for n in 0..12 {
            alice.send_text(&room, &n.to_string()).await;
        }
        let start = now(&bob).await;
        bob.join(&room).await;
        let sync = since(&bob, &start, "").await;
        let block = joined(&sync, &room);
        assert_eq!(block["timeline"]["limited"], true);
        assert_eq!(bodies(block).last(), Some(&"11"), "history is shared");
        assert!(kinds(&block["state"]).contains(&"m.room.create"));
        assert_eq!(block["unread_notifications"]["notification_count"], 0, "what was before does not count");
        assert!(since(&bob, &next(&sync), "").await.get("rooms").is_none());
    }

    async fn who_is_gone_hears_nothing_more(server) {
        let (alice, bob, room) = pair(server).await;
        for action in ["leave", "kick", "ban"] {
            let start = now(&bob).await;
            alice.send_text(&room, &format!("before the {action}")).await;
            match action {
                "leave" => bob.leave(&room).await,
                action => drop(alice.post(&format!("rooms/{}/{action}", encode(&room)), json!({ "user_id": bob.user_id })).await.ok()),
            }
            let unheard = format!("after the {action}");
            alice.send_text(&room, &unheard).await;
            let sync = since(&bob, &start, "").await;
            let left = &sync["rooms"]["leave"][&room];
            assert!(sync["rooms"]["join"].get(&room).is_none());
            assert_eq!(bodies(left), [format!("before the {action}")]);
            let last = list(&left["timeline"]["events"]).last().expect("the member event");
            let membership = if action == "ban" { "ban" } else { "leave" };
            assert_eq!(last["content"]["membership"], membership);
            let later = since(&bob, &next(&sync), "").await;
            assert!(later.get("rooms").is_none(), "{later}");
            assert!(ask(&bob, "").await.get("rooms").is_none(), "left rooms are shown on request");
            let archive = ask(&bob, &filter(&json!({ "room": { "include_leave": true } }))).await;
            assert!(archive["rooms"]["leave"][&room].is_object());
            assert!(!archive.to_string().contains(&unheard));
            if action != "ban" {
                bob.join(&room).await;
                let back = since(&bob, &next(&sync), "").await;
                assert_eq!(joined(&back, &room)["timeline"]["limited"], true);
                assert!(kinds(&joined(&back, &room)["state"]).contains(&"m.room.create"));
            }
        }
    }

    async fn who_forgets_a_room_has_left_it_all_the_same(server) {
        let (_, bob, room) = pair(server).await;
        let start = now(&bob).await;
        bob.leave(&room).await;
        bob.post(&format!("rooms/{}/forget", encode(&room)), json!({})).await.ok();
        assert!(since(&bob, &start, "").await["rooms"]["leave"][&room].is_object());
        let archive = ask(&bob, &filter(&json!({ "room": { "include_leave": true } }))).await;
        assert!(archive.get("rooms").is_none(), "{archive}");
    }

    async fn knocks_are_shown(server) {
        let (alice, bob, room) = pair(server).await;
        let carol = server.register("carol").await;
        alice.set_state(&room, "m.room.join_rules", "", json!({ "join_rule": "knock" })).await;
        let (start, bobs) = (now(&carol).await, now(&bob).await);
        carol.post(&format!("knock/{}", encode(&room)), json!({ "reason": "please" })).await.ok();
        let sync = since(&carol, &start, "").await;
        let state = &sync["rooms"]["knock"][&room]["knock_state"];
        assert!(kinds(state).contains(&"m.room.create") && kinds(state).contains(&"m.room.name"), "{sync}");
        assert_eq!(kinds(&joined(&since(&bob, &bobs, "").await, &room)["timeline"]), ["m.room.member"]);
        assert!(ask(&carol, "").await["rooms"]["knock"][&room].is_object());
        alice.invite(&room, &carol.user_id).await;
        let sync = since(&carol, &next(&sync), "").await;
        assert!(sync["rooms"]["invite"][&room].is_object(), "{sync}");
        assert!(ask(&carol, "").await["rooms"].get("knock").is_none());
    }

    async fn only_members_see_what_is_for_members(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let hidden = json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } }]);
        let room = alice.create_room(json!({ "preset": "public_chat", "name": "Loft", "initial_state": hidden })).await;
        alice.send_text(&room, "before").await;
        bob.join(&room).await;
        alice.send_text(&room, "after").await;
        let first = ask(&bob, "").await;
        let block = joined(&first, &room);
        assert_eq!(bodies(block), ["after"]);
        assert!(kinds(&block["state"]).contains(&"m.room.name"), "{block}");
        assert!(kinds(&block["state"]).contains(&"m.room.create") || kinds(&block["timeline"]).contains(&"m.room.create"));
        let start = next(&first);
        bob.leave(&room).await;
        alice.send_text(&room, "between").await;
        bob.join(&room).await;
        let again = since(&bob, &start, "").await;
        assert!(!bodies(joined(&again, &room)).contains(&"between"), "{again}");
        assert_eq!(joined(&again, &room)["timeline"]["limited"], true);
    }
}
