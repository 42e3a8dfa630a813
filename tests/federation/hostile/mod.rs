//! A peer that lies, floods, stalls and forges: each time the answer of the specification, nothing of it in the room,
//! and a server that goes on.

use std::slice::from_ref;

use serde_json::json;

use super::{
    remote::{Remote, room::Membership},
    scenarios::{sees, texts},
};
use crate::common::{
    authority::Authority,
    client::{AnswerExt, User},
    db::Backend,
    homeserver::{Homeserver, Ours},
};

mod answers;
mod credentials;
mod edus;
mod events;
mod floods;
mod handshakes;
mod keys;
mod names;
mod transactions;

/// A server with one user in one public room, and a peer.
struct Scene {
    server: Ours,
    remote: Remote,
    alice: User,
    room: String,
    authority: Authority,
}

impl Scene {
    async fn set(backend: Backend) -> Self {
        let authority = Authority::create();
        let server = Ours::start(backend, &authority, "127.0.0.1").await;
        let remote = Remote::start(&authority).await;
        let alice = User::register(server.client(), "alice").await;
        let options = json!({ "preset": "public_chat", "room_version": super::remote::room::VERSION });
        let room = alice.create_room(options).await;
        Self {
            server,
            remote,
            alice,
            room,
            authority,
        }
    }

    /// The peer's user `mallory` joins the room.
    async fn enter(&self) -> Membership<'_> {
        Membership::join(&self.remote, &self.server, &self.room, "mallory").await
    }

    /// The server does its work for users, and takes a good event of the same peer.
    async fn goes_on(&self, at: &mut Membership<'_>) {
        self.alive().await;
        let before = texts(&self.alice, &self.room).await;
        let body = format!("good {}", before.len());
        let event = at.message(&body);
        let answer = self.remote.send(&self.server, from_ref(&event), &[]).await.ok();
        let id = super::remote::room::event_id(&event);
        assert_eq!(answer["pdus"][&id], json!({}), "{answer}");
        sees(&self.alice, &self.room, &id).await;
        at.follow(&event);
    }

    /// The server does its work for users.
    async fn alive(&self) {
        self.server.client().get("/health").await.ok();
        let id = self.alice.send_text(&self.room, "still here").await;
        sees(&self.alice, &self.room, &id).await;
    }
}
