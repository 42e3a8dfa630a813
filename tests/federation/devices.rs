//! Another server's devices, as that server tells of them: updates that follow are taken as they are, gaps make the list be asked
//! for again.

use std::slice::from_ref;

use serde_json::{Value, json};

use super::{
    remote::{
        Remote,
        http::{Answer, Request},
        room::{Membership, VERSION},
    },
    scenarios::{Feed, strings},
};
use crate::common::{
    authority::Authority,
    client::{AnswerExt, User},
    db::Backend,
    homeserver::{Homeserver, Ours},
};

const DEVICES: &str = "/_matrix/federation/v1/user/devices/";

fn keys(user: &str, device: &str) -> Value {
    json!({
        "user_id": user, "device_id": device, "algorithms": [], "signatures": {},
        "keys": { format!("ed25519:{device}"): "AAAA" },
    })
}

/// The peer answers with one device, as of its update 5.
fn answers_with_one(remote: &Remote, user: String) {
    remote.behave(move |request: &Request| {
        let list = json!({
            "user_id": user, "stream_id": 5, "devices": [{ "device_id": "ONE", "keys": keys(&user, "ONE") }],
        });
        request.path.starts_with(DEVICES).then_some(Answer::Json(200, list))
    });
}

async fn known(by: &User, user: &str) -> Vec<String> {
    let answer = by.post("keys/query", json!({ "device_keys": { user: [] } })).await.ok();
    let devices = answer["device_keys"][user].as_object();
    let mut devices: Vec<String> = devices.into_iter().flatten().map(|(id, _)| id.clone()).collect();
    devices.sort_unstable();
    devices
}

async fn updates_that_follow_are_taken_over(backend: Backend) {
    let authority = Authority::create();
    let server = Ours::start(backend, &authority, "127.0.0.1").await;
    let remote = Remote::start(&authority).await;
    let alice = User::register(server.client(), "alice").await;
    let options = json!({ "preset": "public_chat", "room_version": VERSION });
    let room = alice.create_room(options).await;
    let at = Membership::join(&remote, &server, &room, "mallory").await;
    let user = at.user_id.clone();
    answers_with_one(&remote, user.clone());
    assert_eq!(known(&alice, &user).await, ["ONE"]);
    let asked = || remote.asked(DEVICES).len();
    assert_eq!(asked(), 1);
    let tell = async |content: Value| {
        let mut feed = Feed::open(&alice).await;
        let mut content = content;
        content["user_id"] = json!(user);
        let edu = json!({ "edu_type": "m.device_list_update", "content": content });
        remote.send(&server, &[], from_ref(&edu)).await.ok();
        feed.until("that the devices changed", |sync| {
            let changed = strings(&sync["device_lists"]["changed"]);
            changed.contains(&user.as_str()).then_some(())
        })
        .await;
    };
    let second = json!({ "device_id": "TWO", "stream_id": 7, "prev_id": [5], "keys": keys(&user, "TWO") });
    tell(second.clone()).await;
    assert_eq!(known(&alice, &user).await, ["ONE", "TWO"]);
    tell(json!({ "device_id": "ONE", "stream_id": 8, "prev_id": [7], "deleted": true })).await;
    assert_eq!(known(&alice, &user).await, ["TWO"]);
    assert_eq!(asked(), 1, "nothing had to be asked for");
    // One was lost on the way, so the list is asked for; it is the old one still.
    tell(json!({ "device_id": "THREE", "stream_id": 10, "prev_id": [9], "keys": keys(&user, "THREE") })).await;
    assert_eq!(known(&alice, &user).await, ["ONE"]);
    assert_eq!(asked(), 2);
    // Keys of somebody else's device are not believed.
    tell(json!({ "device_id": "FOUR", "stream_id": 6, "prev_id": [5], "keys": keys("@x:y", "FOUR") })).await;
    assert_eq!(known(&alice, &user).await, ["ONE"]);
    assert_eq!(asked(), 3);
    // Fractions cannot be signed, so they are nothing for other servers.
    let path = "sendToDevice/org.example.note/1";
    let body = json!({ "messages": { &user: { "ONE": { "n": 0.5 } } } });
    alice.put(path, body).await.refused(400, "M_BAD_JSON");
}

super::both_backends! {
    updates_that_follow_are_taken_over
}
