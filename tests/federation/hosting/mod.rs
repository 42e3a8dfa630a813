//! What a peer asks of rooms on this server, and the handshakes by which its users come into them: every endpoint over HTTP,
//! with signed requests.

use serde_json::{Value, json};

use super::remote::{Remote, room::VERSION};
use crate::common::{
    authority::Authority,
    client::{Answer, User, encode},
    db::Backend,
    homeserver::Ours,
};

mod handshakes;
mod reads;

/// A server with one user in one public room, and two peers.
struct Stage {
    server: Ours,
    remote: Remote,
    /// One that is in no room.
    stranger: Remote,
    alice: User,
    room: String,
    _authority: Authority,
}

impl Stage {
    async fn set(backend: Backend) -> Self {
        let authority = Authority::create();
        let server = Ours::start(backend, &authority, "127.0.0.1").await;
        let (remote, stranger) = tokio::join!(Remote::start(&authority), Remote::start(&authority));
        let alice = User::register(&server.server.client, "alice").await;
        let room = alice
            .create_room(json!({ "preset": "public_chat", "room_version": VERSION }))
            .await;
        Self {
            server,
            remote,
            stranger,
            alice,
            room,
            _authority: authority,
        }
    }

    /// Below `/_matrix/federation/`.
    async fn get(&self, by: &Remote, path: &str) -> Answer {
        by.get(&self.server, &format!("/_matrix/federation/{path}")).await
    }

    async fn put(&self, by: &Remote, path: &str, body: &Value) -> Answer {
        by.put(&self.server, &format!("/_matrix/federation/{path}"), body).await
    }

    async fn post(&self, by: &Remote, path: &str, body: &Value) -> Answer {
        let path = format!("/_matrix/federation/{path}");
        by.request(&self.server, "POST", &path, Some(body)).await
    }

    async fn set_state(&self, event_type: &str, content: Value) -> String {
        self.alice.set_state(&self.room, event_type, "", content).await
    }

    /// Shuts the peer out.
    async fn shut_out(&self) {
        let content = json!({ "allow": ["127.0.0.1"], "deny": ["localhost"] });
        self.set_state("m.room.server_acl", content).await;
    }

    fn room(&self) -> String {
        encode(&self.room)
    }
}
