//! What other servers get of what happens here, whose side the test plays.

use std::sync::Arc;

use ruma::RoomId;
use serde_json::{Value, json};

use super::testing::{
    FakeWire, Hand, World, answer, change, changed, member, ok, raw, refuse, room_with, say, unreachable, until, user,
    with_world,
};
use crate::clock::Clock;
use crate::hub::Hub;
use crate::room::commands::{Draft, SetReceipt, SetTyping};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

fn bodies(wire: &FakeWire, server: &str) -> Vec<String> {
    let mut events = wire.events_to(server);
    events.retain(|name| !name.starts_with("m.room."));
    events
}

fn down(world: &World) {
    world.wire.script(|_| answer(unreachable()));
}

fn up(world: &World) {
    world.wire.script(|_| answer(ok(&json!({ "pdus": {} }))));
}

/// Waits until the server has got exactly these messages, in this order.
async fn until_got(world: &World, server: &str, wanted: &[&str]) {
    until!(
        "the messages arrive",
        (bodies(&world.wire, server) == wanted).then_some(())
    );
}

/// Waits until everything above is written down.
async fn until_written(hub: &Hub) {
    let visible = hub.env().visible().0;
    until!("the cursor has passed", {
        let cursor = hub.env().store.outbound_cursor().await.expect("it answers");
        cursor.filter(|cursor| *cursor >= visible)
    });
}

#[test]
fn servers_get_the_events_of_their_rooms() {
    with_world(&Clock::system(), |world| async move {
        let hub = world.hub().await;
        let room = room_with(&hub, &["@p:peer.example"]).await;
        say(&hub, &room, "one").await;
        change(&hub, &room, "@q:late.example", "join").await;
        let id = say(&hub, &room, "two").await;
        until_got(&world, "peer.example", &["one", "two"]).await;
        until_got(&world, "late.example", &["two"]).await;
        let sent = world.wire.sent_to("late.example");
        assert_eq!((sent.len(), sent[0].method.as_str()), (1, "PUT"));
        let body = sent[0].json();
        assert_eq!(
            (&body["origin"], body["origin_server_ts"].is_i64()),
            (&json!("x"), true)
        );
        let stored = hub
            .env()
            .rooms
            .event_by_id(&id)
            .await
            .expect("it answers")
            .expect("it is there");
        let stored: Value = serde_json::from_str(&stored.pdu.json).expect("json");
        assert_eq!(body["pdus"], json!([stored]), "with hashes and signatures");
        assert!(world.wire.sent_to("x").is_empty(), "not to itself");
        // Joins came from elsewhere: whoever let them in tells everybody.
        assert!(
            !world
                .wire
                .events_to("peer.example")
                .contains(&"m.room.member".to_owned())
        );
    });
}

#[test]
fn those_whose_membership_changes_are_told_and_no_more() {
    with_world(&Clock::system(), |world| async move {
        let hub = world.hub().await;
        let room = room_with(&hub, &["@p:peer.example", "@w:witness.example"]).await;
        member(&hub, &room, "@i:invited.example", "invite").await;
        say(&hub, &room, "secret").await;
        member(&hub, &room, "@p:peer.example", "ban").await;
        say(&hub, &room, "gone").await;
        until!("the witness has got all", {
            let events = world.wire.events_to("witness.example");
            (events == ["m.room.member", "secret", "m.room.member", "gone"]).then_some(())
        });
        until_written(&hub).await;
        assert_eq!(world.wire.events_to("invited.example"), ["m.room.member"]);
        assert_eq!(
            world.wire.events_to("peer.example"),
            ["m.room.member", "secret", "m.room.member"]
        );
    });
}

#[test]
fn an_unanswered_transaction_is_repeated_byte_for_byte() {
    let hand = Hand::default();
    let clock = Clock::from_source(hand.clone());
    with_world(&clock, move |world| {
        let hand = hand.clone();
        async move {
            let hub = world.hub().await;
            let room = room_with(&hub, &["@p:peer.example"]).await;
            down(&world);
            say(&hub, &room, "one").await;
            until!("it is tried", world.wire.sent_to("peer.example").first().cloned());
            say(&hub, &room, "two").await;
            until_written(&hub).await;
            assert_eq!(world.wire.sent_to("peer.example").len(), 1, "it is left alone");
            up(&world);
            hand.advance(2 * MINUTE);
            until_got(&world, "peer.example", &["one", "one", "two"]).await;
            let sent = world.wire.sent_to("peer.example");
            assert_eq!((&sent[0].path, &sent[0].body), (&sent[1].path, &sent[1].body));
            assert_ne!(sent[1].path, sent[2].path);
            until!("nothing is owed any more", {
                let rows = hub
                    .env()
                    .store
                    .destination_rooms(&["peer.example"])
                    .await
                    .expect("it answers");
                rows.is_empty().then_some(())
            });
        }
    });
}

#[test]
fn refused_transactions_wait_like_unanswered_ones() {
    let hand = Hand::default();
    with_world(&Clock::from_source(hand.clone()), move |world| {
        let hand = hand.clone();
        async move {
            let hub = world.hub().await;
            let room = room_with(&hub, &["@p:peer.example"]).await;
            world.wire.script(|_| answer(refuse(403, "M_FORBIDDEN")));
            say(&hub, &room, "one").await;
            until_written(&hub).await;
            until!("it was tried", world.wire.sent_to("peer.example").first().cloned());
            up(&world);
            hand.advance(2 * MINUTE);
            until_got(&world, "peer.example", &["one", "one"]).await;
        }
    });
}

/// Says something that a server does not get before this process dies; `written`: after that was written down.
async fn dies(world: &World, written: bool) -> ruma::OwnedRoomId {
    let hub = world.hub().await;
    let room = room_with(&hub, &["@p:peer.example"]).await;
    say(&hub, &room, "before").await;
    until_got(world, "peer.example", &["before"]).await;
    until_written(&hub).await;
    down(world);
    say(&hub, &room, "lost?").await;
    change(&hub, &room, "@l:later.example", "join").await;
    if written {
        say(&hub, &room, "lost, too?").await;
        until!("a failure is noted", {
            let rows = hub
                .env()
                .store
                .destination_rooms(&["peer.example"])
                .await
                .expect("it answers");
            (!rows.is_empty()).then_some(())
        });
        until_written(&hub).await;
    }
    room
}

#[test]
fn nothing_is_lost_by_a_crash() {
    for written in [false, true] {
        let hand = Hand::default();
        with_world(&Clock::from_source(hand.clone()), move |world| {
            let hand = hand.clone();
            async move {
                dies(&world, written).await;
                // Takes the database over: the former process writes nothing any more.
                let hub = world.hub().await;
                hand.advance(2 * MINUTE);
                up(&world);
                let lost = ["lost?", "lost, too?"];
                let lost = if written { &lost[..] } else { &lost[..1] };
                until!("it arrives after all", {
                    let events = bodies(&world.wire, "peer.example");
                    lost.iter()
                        .all(|body| events.iter().any(|event| event == body))
                        .then_some(())
                });
                until_written(&hub).await;
                let later = bodies(&world.wire, "later.example");
                assert!(!later.contains(&"lost?".to_owned()), "it was not there yet: {later:?}");
                assert_eq!(later.contains(&"lost, too?".to_owned()), written);
            }
        });
    }
}

#[test]
fn nothing_is_lost_before_anything_was_written() {
    let hand = Hand::default();
    with_world(&Clock::from_source(hand.clone()), move |world| {
        let hand = hand.clone();
        async move {
            down(&world);
            let hub = world.hub().await;
            let room = room_with(&hub, &["@p:peer.example"]).await;
            say(&hub, &room, "first").await;
            // A crash at once.
            let _hub = world.hub().await;
            hand.advance(2 * MINUTE);
            up(&world);
            until_got(&world, "peer.example", &["first"]).await;
        }
    });
}

#[test]
fn what_was_answered_is_not_sent_again_after_a_restart() {
    with_world(&Clock::system(), |world| async move {
        let hub = world.hub().await;
        let room = room_with(&hub, &["@p:peer.example"]).await;
        say(&hub, &room, "one").await;
        until_got(&world, "peer.example", &["one"]).await;
        hub.drain(std::time::Duration::from_secs(10)).await;
        let hub = world.hub().await;
        say(&hub, &room, "two").await;
        until_got(&world, "peer.example", &["one", "two"]).await;
    });
}

#[test]
fn a_drain_sends_what_can_be_sent() {
    with_world(&Clock::system(), |world| async move {
        let hub = world.hub().await;
        let room = room_with(&hub, &["@p:peer.example"]).await;
        for n in 0..120 {
            say(&hub, &room, &n.to_string()).await;
        }
        hub.drain(std::time::Duration::from_secs(10)).await;
        assert_eq!(bodies(&world.wire, "peer.example").len(), 120);
        let (cursor, visible) = (hub.env().store.outbound_cursor().await, hub.env().visible().0);
        assert_eq!(cursor, Ok(Some(visible)));
        let sizes: Vec<usize> = world
            .wire
            .sent_to("peer.example")
            .iter()
            .map(|sent| sent.pdus().len())
            .collect();
        assert!(sizes.iter().all(|size| *size <= 50), "{sizes:?}");
    });
}

/// The server misses events: as many as told, then it leaves (or not), then two more.
async fn outage(world: &World, hand: &Hand, missed: usize, leaves: bool, pause: i64) -> Arc<Hub> {
    let hub = world.hub().await;
    let room = room_with(&hub, &["@p:peer.example"]).await;
    down(world);
    for n in 0..missed {
        say(&hub, &room, &n.to_string()).await;
    }
    if leaves {
        member(&hub, &room, "@p:peer.example", "leave").await;
    }
    say(&hub, &room, "last but one").await;
    say(&hub, &room, "last").await;
    until_written(&hub).await;
    hand.advance(pause);
    up(world);
    hub.peers()
        .reset("peer.example".try_into().expect("a name"))
        .await
        .expect("it is a server");
    until!("nothing waits", {
        let view = hub.peers().view("peer.example".try_into().expect("a name"));
        view.filter(|view| !view.is_wanted()).map(|_| ())
    });
    hub
}

/// What the server got in answered transactions.
fn got(world: &World) -> Vec<String> {
    let sent = world.wire.sent_to("peer.example");
    let mut seen: Vec<String> = Vec::new();
    for pdu in sent.iter().skip(1).flat_map(|sent| sent.pdus()) {
        let name = pdu["content"]["body"]
            .as_str()
            .or(pdu["type"].as_str())
            .unwrap_or_default()
            .to_owned();
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

#[test]
fn after_a_short_outage_a_server_gets_everything() {
    let hand = Hand::default();
    with_world(&Clock::from_source(hand.clone()), move |world| {
        let hand = hand.clone();
        async move {
            outage(&world, &hand, 3, false, 2 * MINUTE).await;
            assert_eq!(got(&world), ["0", "1", "2", "last but one", "last"]);
        }
    });
}

#[test]
fn after_a_long_outage_a_server_gets_the_newest() {
    for (missed, pause) in [(3, 30 * HOUR), (60, 2 * MINUTE)] {
        let hand = Hand::default();
        with_world(&Clock::from_source(hand.clone()), move |world| {
            let hand = hand.clone();
            async move {
                outage(&world, &hand, missed, false, pause).await;
                // The transaction that was under way is repeated after a short pause only.
                let got = got(&world);
                assert_eq!(got.last().map(String::as_str), Some("last"));
                assert!(got.iter().all(|name| name != "last but one"), "{got:?}");
            }
        });
    }
}

#[test]
fn who_left_during_an_outage_learns_that_and_no_more() {
    for pause in [2 * MINUTE, 30 * HOUR] {
        let hand = Hand::default();
        with_world(&Clock::from_source(hand.clone()), move |world| {
            let hand = hand.clone();
            async move {
                outage(&world, &hand, 2, true, pause).await;
                let got = got(&world);
                assert_eq!(got.last().map(String::as_str), Some("m.room.member"), "{got:?}");
                assert!(got.iter().all(|name| !name.starts_with("last")), "{got:?}");
            }
        });
    }
}

async fn read(hub: &Hub, room: &RoomId, kind: &str, event: &ruma::EventId) {
    let receipt = SetReceipt {
        user: user("@alice:x"),
        kind: kind.to_owned(),
        thread_id: None,
        event_id: event.to_owned(),
        ts: None,
    };
    hub.rooms().set_receipt(room, receipt).await.expect("she may");
}

#[test]
fn typing_and_receipts_are_told() {
    let hand = Hand::default();
    with_world(&Clock::from_source(hand.clone()), move |world| {
        let hand = hand.clone();
        async move {
            let hub = world.hub().await;
            let room = room_with(&hub, &["@p:peer.example"]).await;
            let (first, second) = (say(&hub, &room, "one").await, say(&hub, &room, "two").await);
            read(&hub, &room, "m.read.private", &second).await;
            read(&hub, &room, "m.read", &first).await;
            let typing = |user: &str, timeout_ms| SetTyping {
                user: super::testing::user(user),
                timeout_ms,
            };
            hub.rooms()
                .set_typing(&room, typing("@alice:x", Some(120_000)))
                .await
                .expect("she may");
            hub.rooms()
                .set_typing(&room, typing("@p:peer.example", Some(120_000)))
                .await
                .expect("it may");
            let edus = |kind: &str| {
                let edus = world.wire.edus_to("peer.example").into_iter();
                edus.filter(|edu| edu["edu_type"] == *kind)
                    .map(|edu| edu["content"].clone())
                    .collect::<Vec<_>>()
            };
            let notice = |typing: bool| json!({ "room_id": room, "user_id": "@alice:x", "typing": typing });
            until!("she is seen typing", (edus("m.typing") == [notice(true)]).then_some(()));
            let receipts = until!(
                "the receipt is told",
                Some(edus("m.receipt")).filter(|edus| !edus.is_empty())
            );
            let told = &receipts[0][room.as_str()]["m.read"]["@alice:x"];
            assert_eq!((receipts.len(), &told["event_ids"]), (1, &json!([first])));
            assert!(told["data"]["ts"].is_i64());
            hand.advance(30_000);
            until!("she is seen typing on", (edus("m.typing").len() == 2).then_some(()));
            hub.rooms()
                .set_typing(&room, typing("@alice:x", None))
                .await
                .expect("she may");
            until!(
                "she is seen to stop",
                (edus("m.typing").last() == Some(&notice(false))).then_some(())
            );
            assert_eq!(edus("m.typing").len(), 3, "nothing of those who type elsewhere");
        }
    });
}

#[test]
fn presence_is_told_to_those_who_share_a_room() {
    with_world(&Clock::system(), |world| async move {
        let hub = world.hub().await;
        room_with(&hub, &["@p:peer.example"]).await;
        let online = ruma::presence::PresenceState::Online;
        let env = hub.env();
        crate::presence::set(env, &user("@alice:x"), &online, Some("here".to_owned()))
            .await
            .expect("she may");
        let edu = until!("it is told", {
            let mut edus = world.wire.edus_to("peer.example").into_iter();
            edus.rfind(|edu| edu["edu_type"] == "m.presence")
        });
        let push = &edu["content"]["push"][0];
        assert_eq!(
            (&push["user_id"], &push["presence"]),
            (&json!("@alice:x"), &json!("online"))
        );
        assert_eq!(
            (&push["status_msg"], &push["currently_active"]),
            (&json!("here"), &json!(true))
        );
    });
}

#[test]
fn whom_this_server_lets_in_it_presents_to_the_others() {
    let hand = Hand::default();
    with_world(&Clock::from_source(hand.clone()), move |world| {
        let hand = hand.clone();
        async move {
            let hub = world.hub().await;
            let room = room_with(&hub, &["@p:peer.example"]).await;
            until_written(&hub).await;
            down(&world);
            changed(&hub, &room, "@n:new.example", "join", true).await;
            // A crash at once.
            let hub = world.hub().await;
            hand.advance(2 * MINUTE);
            up(&world);
            until!("the join is presented", {
                let events = world.wire.events_to("peer.example");
                events.contains(&"m.room.member".to_owned()).then_some(())
            });
            until_written(&hub).await;
            assert!(world.wire.sent_to("new.example").is_empty(), "it knows");
        }
    });
}

#[test]
fn what_others_say_is_not_passed_on() {
    with_world(&Clock::system(), |world| async move {
        let hub = world.hub().await;
        let room = room_with(&hub, &["@p:peer.example", "@q:other.example"]).await;
        let theirs = json!({ "body": "theirs" });
        let pdu = super::testing::foreign(&hub, &room, "@p:peer.example", "m.room.message", None, &theirs);
        let ingest = crate::room::commands::Ingest {
            pdus: vec![pdu.await],
            outliers: Vec::new(),
        };
        hub.rooms().ingest(&room, ingest).await.expect("the room is there");
        let topic = Draft::state(user("@alice:x"), "m.room.topic", "", raw(&json!({ "topic": "t" })));
        hub.rooms().send(&room, topic).await.expect("she may");
        until!("ours arrives", {
            let events = world.wire.events_to("other.example");
            events.contains(&"m.room.topic".to_owned()).then_some(())
        });
        assert!(!world.wire.events_to("other.example").contains(&"theirs".to_owned()));
    });
}
