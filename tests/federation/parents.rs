//! What member events of other servers follow, where this server does not know it yet: it is asked for, within a time.

use serde_json::json;

use super::{
    both_backends,
    remote::{
        Remote,
        http::{Answer, Request},
        room::{Membership, VERSION, event_id, join_event, sign},
    },
    scenarios::sees,
};
use crate::common::{
    authority::Authority,
    client::{AnswerExt, User, encode},
    db::Backend,
    homeserver::{Homeserver as _, Ours},
};

/// A join whose parent is known to the peer alone, which tells of it late, too.
async fn they_are_fetched(backend: Backend) {
    let authority = Authority::create();
    let server = Ours::start(backend, &authority, "127.0.0.1").await;
    let remote = Remote::start(&authority).await;
    let alice = User::register(server.client(), "alice").await;
    let options = json!({ "preset": "public_chat", "room_version": VERSION });
    let room = alice.create_room(options).await;
    let at = Membership::join(&remote, &server, &room, "mallory").await;
    let parent = at.message("said before");
    let mut draft = join_event(&remote, &server, &room, &remote.user("second")).await;
    draft["prev_events"] = json!([event_id(&parent)]);
    draft["depth"] = json!(at.depth + 2);
    draft["signatures"] = json!({});
    let join = sign(&remote, &draft);
    let id = event_id(&join);
    let path = format!("/_matrix/federation/v2/send_join/{}/{}", encode(&room), encode(&id));

    // While the peer says nothing the answer comes all the same, before the peer gives up.
    remote.behave(|request: &Request| {
        let gap = ["get_missing_events", "/state_ids/", "/event/"];
        let asked = gap.iter().any(|part| request.path.contains(part));
        asked.then_some(Answer::Silence)
    });
    let (status, answer) = remote.put(&server, &path, &join).await;
    assert_eq!(status, 503, "{answer}");
    assert!(answer["error"].to_string().contains("still being fetched"), "{answer}");

    let events = json!({ "events": [parent] });
    remote.behave(move |request: &Request| {
        let asked = request.path.contains("get_missing_events");
        asked.then(|| Answer::Json(200, events.clone()))
    });
    let answer = remote.put(&server, &path, &join).await.ok();
    let told = answer["state"].as_array().map(Vec::len);
    assert!(told.is_some_and(|told| told > 4), "{answer}");
    sees(&alice, &room, &event_id(&parent)).await;
    sees(&alice, &room, &id).await;
}

both_backends! {
    they_are_fetched
}
