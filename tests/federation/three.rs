//! Three servers in one room.

use std::sync::Arc;

use serde_json::json;

use super::{
    VERSION,
    scenarios::{act, convergence, converse, eventually, has_membership, has_state, join_via, meet, sees, texts},
    town,
};
use crate::common::{
    authority::Authority,
    client::{AnswerExt, User},
    db::Backend,
    homeserver::{Homeserver, Ours, Town},
};

/// A user on each of three servers, in one room.
struct Three {
    town: Town,
    third: Arc<dyn Homeserver>,
    alice: User,
    bob: User,
    carol: User,
    room: String,
    _authority: Authority,
}

impl Three {
    async fn gather(backend: Backend) -> Self {
        let (town, authority) = town(backend, VERSION).await;
        let third = Ours::start(backend, &authority, "localhost").await;
        let (alice, bob) = town.people().await;
        let carol = User::register(third.client(), "carol").await;
        let room = town.room(&alice, json!({ "preset": "public_chat" })).await;
        join_via(&bob, &room, &[town.here.name()]).await.ok();
        // Through the server that did not make the room.
        join_via(&carol, &room, &[town.there.name()]).await.ok();
        meet(&room, &[&alice, &bob, &carol]).await;
        Self {
            town,
            third: Arc::new(third),
            alice,
            bob,
            carol,
            room,
            _authority: authority,
        }
    }

    fn all(&self) -> [&User; 3] {
        [&self.alice, &self.bob, &self.carol]
    }
}

/// Events go from each server to each other.
async fn everybody_hears_everybody(backend: Backend) {
    let three = Three::gather(backend).await;
    let Three {
        alice,
        bob,
        carol,
        room,
        ..
    } = &three;
    converse(room, &three.all()).await;
    let mut levels = super::scenarios::state(alice, room, "m.room.power_levels", "")
        .await
        .ok();
    levels["users"][&bob.user_id] = json!(50);
    let promotion = alice.set_state(room, "m.room.power_levels", "", levels).await;
    sees(bob, room, &promotion).await;
    sees(carol, room, &promotion).await;
    act(bob, room, "kick", carol).await.ok();
    for reader in [alice, bob] {
        has_membership(reader, room, carol, "leave").await;
    }
    join_via(carol, room, &[three.town.here.name()]).await.ok();
    meet(room, &three.all()).await;
    converse(room, &three.all()).await;
}

/// The server that made the room is away; the others go on, and it catches up.
async fn a_room_outlives_its_server(backend: Backend) {
    let three = Three::gather(backend).await;
    let Three {
        town,
        third,
        alice,
        bob,
        carol,
        room,
        ..
    } = &three;
    converse(room, &three.all()).await;
    town.here.kill();
    let mut said = Vec::new();
    for number in 0..12 {
        let speaker = if number % 2 == 0 { bob } else { carol };
        let event_id = speaker.send_text(room, &format!("{number}")).await;
        sees(bob, room, &event_id).await;
        sees(carol, room, &event_id).await;
        said.push(format!("{number}"));
    }
    town.here.restart().await;
    for server in [&town.there, third] {
        server.forgive(town.here.name()).await;
    }
    eventually("what the server missed", async || {
        let found = texts(alice, room).await;
        let missed: Vec<_> = found.iter().filter(|text| said.contains(text)).cloned().collect();
        if missed == said {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await;
    converse(room, &three.all()).await;
    convergence::agree(room, alice, bob).await;
    convergence::agree(room, bob, carol).await;
}

/// Two servers do not hear of each other for a while, but both go on with the room.
async fn forks_are_joined_again(backend: Backend) {
    let three = Three::gather(backend).await;
    let Three {
        town,
        third,
        alice,
        bob,
        carol,
        room,
        ..
    } = &three;
    for round in 0..2 {
        // Only here and the third server are up: one branch.
        town.there.kill();
        alice
            .set_state(
                room,
                "org.example.branch",
                "",
                json!({ "from": "alice", "round": round }),
            )
            .await;
        let last = alice.send_text(room, &format!("alice {round}")).await;
        sees(carol, room, &last).await;
        // Only there is up, which knows nothing of that: another branch.
        town.here.kill();
        third.kill();
        town.there.restart().await;
        bob.send_text(room, &format!("bob {round}")).await;
        town.here.restart().await;
        third.restart().await;
        for (server, others) in [
            (&town.here, [&town.there, third]),
            (&town.there, [&town.here, third]),
            (third, [&town.here, &town.there]),
        ] {
            for other in others {
                server.forgive(other.name()).await;
            }
        }
        eventually("both branches everywhere", async || {
            for reader in three.all() {
                let found = texts(reader, room).await;
                for expected in [format!("alice {round}"), format!("bob {round}")] {
                    if !found.contains(&expected) {
                        return Err(format!("{} has {found:?}", reader.user_id));
                    }
                }
            }
            Ok(())
        })
        .await;
        has_state(bob, room, ("org.example.branch", ""), "/round", json!(round)).await;
        converse(room, &three.all()).await;
        convergence::agree(room, alice, bob).await;
        convergence::agree(room, bob, carol).await;
    }
}

super::both_backends! {
    everybody_hears_everybody
    a_room_outlives_its_server
    forks_are_joined_again
}
