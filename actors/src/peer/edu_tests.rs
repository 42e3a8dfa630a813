//! EDUs that wait in memory.

use ruma::{event_id, room_id, user_id};

use super::*;

fn typing(user: &str, typing: bool) -> TransientEdu {
    TransientEdu::Typing {
        room_id: room_id!("!r:x").to_owned(),
        user_id: user.try_into().expect("a user id"),
        typing,
    }
}

fn receipt(user: &str, thread: Option<&str>, ts: Millis) -> TransientEdu {
    TransientEdu::Receipt {
        room_id: room_id!("!r:x").to_owned(),
        user_id: user.try_into().expect("a user id"),
        thread_id: thread.map(str::to_owned),
        event_id: event_id!("$e").to_owned(),
        ts,
    }
}

fn presence(user: &str) -> TransientEdu {
    TransientEdu::Presence {
        user_id: user.try_into().expect("a user id"),
        state: "online",
        status_msg: Some("hi".to_owned()),
        last_active: 1_000,
    }
}

#[test]
fn the_newest_of_a_kind_replaces_the_older() {
    let mut queue = EduQueue::default();
    for edu in [
        typing("@a:x", true),
        receipt("@a:x", None, 1),
        typing("@a:x", false),
        receipt("@a:x", None, 2),
    ] {
        queue.push(edu);
    }
    assert_eq!(queue.len(), 2);
    let edus = queue.take(100, 0);
    assert_eq!(
        edus,
        [
            json!({ "edu_type": "m.typing",
                "content": { "room_id": "!r:x", "user_id": "@a:x", "typing": false } }),
            json!({ "edu_type": "m.receipt",
                "content": { "!r:x": { "m.read": { "@a:x": { "data": { "ts": 2 }, "event_ids": ["$e"] } } } } }),
        ]
    );
    assert!(queue.is_empty() && queue.take(100, 0).is_empty());
}

#[test]
fn receipts_of_many_share_an_edu_and_threads_do_not() {
    let mut queue = EduQueue::default();
    queue.push(receipt("@a:x", None, 1));
    queue.push(receipt("@b:x", None, 1));
    queue.push(receipt("@a:x", Some("main"), 3));
    let edus = queue.take(100, 0);
    assert_eq!(edus.len(), 2);
    let users = |edu: &Value| edu["content"]["!r:x"]["m.read"].as_object().expect("users").len();
    assert_eq!((users(&edus[0]), users(&edus[1])), (2, 1));
    assert_eq!(
        edus[1]["content"]["!r:x"]["m.read"]["@a:x"]["data"],
        json!({ "ts": 3, "thread_id": "main" })
    );
}

#[test]
fn presence_tells_how_long_ago() {
    let mut queue = EduQueue::default();
    queue.push(presence("@a:x"));
    let edus = queue.take(100, 5_000);
    assert_eq!(
        edus[0]["content"]["push"],
        json!([{ "user_id": user_id!("@a:x"), "presence": "online", "last_active_ago": 4_000,
            "currently_active": true, "status_msg": "hi" }])
    );
}

#[test]
fn what_does_not_fit_waits_for_the_next_transaction() {
    let mut queue = EduQueue::default();
    for n in 0..3 {
        queue.push(typing(&format!("@u{n}:x"), true));
    }
    queue.push(receipt("@a:x", None, 1));
    assert_eq!(queue.take(2, 0).len(), 2);
    assert_eq!(queue.len(), 2);
    let rest = queue.take(2, 0);
    assert_eq!(
        rest.iter().map(|edu| edu["edu_type"].as_str()).collect::<Vec<_>>(),
        [Some("m.typing"), Some("m.receipt")]
    );
}

#[test]
fn the_queue_is_bounded_and_keeps_receipts_longest() {
    let mut queue = EduQueue::default();
    queue.push(receipt("@a:x", None, 1));
    for n in 0..MAX_WAITING + 10 {
        queue.push(typing(&format!("@u{n}:x"), true));
    }
    assert_eq!(queue.len(), MAX_WAITING);
    assert!(queue.waiting.len() == MAX_WAITING && queue.waiting.contains_key(&receipt("@a:x", None, 1).key()));
    queue.forget_typing();
    assert_eq!(queue.len(), 1);
    for n in 0..MAX_WAITING + 10 {
        queue.push(receipt(&format!("@u{n}:x"), None, 1));
    }
    assert_eq!(queue.len(), MAX_WAITING, "receipts are no exception");
}
