//! Keys of a server that is gone, from another one that is trusted with them.

use std::slice::from_ref;

use serde_json::json;
use toml::Table;

use super::{
    both_backends,
    remote::{
        Remote,
        http::{Answer, Request},
        room::{Membership, VERSION, event_id},
    },
    scenarios::{eventually, has_state, join_via, sees},
};
use crate::common::{
    authority::Authority,
    client::{AnswerExt as _, User, encode},
    db::Backend,
    homeserver::{Homeserver as _, Ours},
};

/// A server that went away after it had spoken: whoever comes later can check what it said if somebody kept its keys.
async fn a_trusted_server_has_kept_the_keys(backend: Backend) {
    let authority = Authority::create();
    let there = Ours::start(backend, &authority, "localhost").await;
    let trusts = |name: &str| {
        let name = name.to_owned();
        move |config: &mut Table| {
            let federation = config["federation"].as_table_mut().expect("a section");
            federation.insert("trusted_key_servers".to_owned(), vec![name].into());
        }
    };
    let (here, doubtful) = tokio::join!(
        Ours::start_with(backend, &authority, "127.0.0.1", trusts(there.name())),
        Ours::start(backend, &authority, "127.0.0.1"),
    );
    let remote = Remote::start(&authority).await;
    let alice = User::register(there.client(), "alice").await;
    let options = json!({ "preset": "public_chat", "room_version": VERSION });
    let room = alice.create_room(options).await;
    let at = Membership::join(&remote, &there, &room, "mallory").await;
    let said = at.message("the last word");
    remote.send(&there, from_ref(&said), &[]).await.ok();
    sees(&alice, &room, &event_id(&said)).await;
    remote.behave(|_: &Request| Some(Answer::Json(500, json!({ "errcode": "M_UNKNOWN", "error": "gone" }))));

    let bob = User::register(here.client(), "bob").await;
    join_via(&bob, &room, &[there.name()]).await.ok();
    let member = ("m.room.member", at.user_id.as_str());
    has_state(&bob, &room, member, "/membership", json!("join")).await;
    eventually("what it said is read back", async || {
        let path = format!("rooms/{}/messages?dir=b&limit=50", encode(&room));
        let page = bob.get(&path).await.ok();
        let seen = page["chunk"].to_string().contains(&event_id(&said));
        if seen { Ok(()) } else { Err(page.to_string()) }
    })
    .await;

    // Without anybody to ask the membership cannot be checked, and is left out.
    let carol = User::register(doubtful.client(), "carol").await;
    join_via(&carol, &room, &[there.name()]).await.ok();
    let path = format!("rooms/{}/state/m.room.member/{}", encode(&room), encode(&at.user_id));
    carol.get(&path).await.refused(404, "M_NOT_FOUND");
}

both_backends! {
    a_trusted_server_has_kept_the_keys
}
