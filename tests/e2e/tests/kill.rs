//! `kill -9` of the server while stock clients talk: nothing that was acknowledged is lost, nothing is doubled, and
//! the clients go on from their old tokens with the keys they have.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use matrix_sdk::{
    Client,
    ruma::{OwnedEventId, OwnedRoomId, events::room::message::RoomMessageEventContent},
};
use synapse_rust_e2e::{
    both_databases,
    person::{PATIENCE, Person, eventually},
    tally::Tally,
};
use tokio::{task::JoinSet, time::Instant};

use crate::conversation::{friends, meet};

const ROUNDS: usize = 3;

/// Room, event id and body of a message.
type Sent = (String, String, String);

/// Sends until told to stop. What fails is sent again under the same transaction id until it is acknowledged.
async fn talk(client: Client, room: OwnedRoomId, name: String, stop: Arc<AtomicBool>) -> Vec<Sent> {
    let mut acknowledged = Vec::new();
    let room_handle = client.get_room(&room).expect("a member knows the room");
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let body = format!("{name} {number}");
        let deadline = Instant::now() + PATIENCE;
        let event_id = loop {
            let content = RoomMessageEventContent::text_plain(&body);
            match room_handle
                .send(content)
                .with_transaction_id(body.replace(' ', "_").into())
                .await
            {
                Ok(sent) => break sent.response.event_id,
                Err(error) => assert!(Instant::now() < deadline, "{body} cannot be sent: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        acknowledged.push((room.to_string(), event_id.to_string(), body));
        number += 1;
    }
    acknowledged
}

fn received(person: &Person) -> Vec<Sent> {
    let inbox = person.inbox();
    let all = inbox.messages.iter();
    all.map(|seen| (seen.room.to_string(), seen.event_id.to_string(), seen.body().to_owned()))
        .collect()
}

both_databases! {
    async fn a_conversation_survives_kills(server) {
        let (alice, bob, secret) = friends(server, true).await;
        let open = meet(&alice, &bob, "Market", false).await;
        // One after the other: clients that greet each other in the same moment share their room key twice, and of two
        // that come in one answer matrix-sdk (0.18) keeps the later one, which cannot read the first messages.
        let mut acknowledged = Vec::new();
        for (from, to, body) in [(&alice, &bob, "Good morning."), (&bob, &alice, "Good morning to you.")] {
            let event_id = from.say(&secret, body).await;
            to.hears(&secret, body).await;
            acknowledged.push((secret.to_string(), event_id.to_string(), body.to_owned()));
        }
        let sessions = [alice.session().tokens.access_token, bob.session().tokens.access_token];

        let stop = Arc::new(AtomicBool::new(false));
        let mut talkers = JoinSet::new();
        for (person, name) in [(&alice, "alice"), (&bob, "bob")] {
            for (room, kind) in [(&secret, "secret"), (&open, "open")] {
                talkers.spawn(talk(person.client.clone(), room.clone(), format!("{name} {kind}"), stop.clone()));
            }
        }
        let mut tally = Tally::default();
        for round in 0..ROUNDS {
            tokio::time::sleep(Duration::from_millis(1_000 + 130 * round as u64)).await;
            server.kill();
            tally.kills += 1;
            tally.recovery.push(server.restart().await);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.store(true, Ordering::Relaxed);
        acknowledged.extend(talkers.join_all().await.concat());

        // Both clients see their own messages and the other's, each exactly once.
        for person in [&alice, &bob] {
            let all = || received(person).len() >= acknowledged.len();
            let deadline = Instant::now() + PATIENCE;
            while !all() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let found = received(person);
            tally.compare("message", &acknowledged, &found);
            let bodies: Vec<_> = found.iter().map(|(_, _, body)| body).collect();
            let sent: Vec<_> = acknowledged.iter().map(|(_, _, body)| body).collect();
            let mut by_body = Tally::default();
            by_body.compare("body", &sent, &bodies);
            let undecrypted = person.inbox().undecrypted.clone();
            let seen = (person.user_id(), undecrypted, by_body.complaints);
            assert_eq!((by_body.lost, by_body.doubled), (0, 0), "{seen:?}");
            let secret_ones = person.inbox().messages.iter().filter(|seen| seen.room == secret).all(|seen| seen.decrypted);
            assert!(secret_ones, "an encrypted room has an unencrypted message");
            assert_eq!(person.inbox().undecrypted, Vec::<OwnedEventId>::new());
        }

        // The same sessions go on, and keys made after the kills arrive too.
        alice.room(&secret).discard_room_key().await.expect("a sender may begin a new session");
        alice.say(&secret, "Still here?").await;
        assert!(bob.hears(&secret, "Still here?").await.decrypted);
        bob.say(&secret, "Still here.").await;
        assert!(alice.hears(&secret, "Still here.").await.decrypted);
        assert_eq!(sessions, [alice.session().tokens.access_token, bob.session().tokens.access_token]);

        // A device that comes later sees the same history of the open room.
        let second = Person::login(&server.client.base, "bob").await;
        second.sees_members(&open, 2).await;
        eventually("the last message of the open room", async || {
            let last = acknowledged.iter().rfind(|(room, _, _)| *room == open)?;
            received(&second).contains(last).then_some(())
        })
        .await;
        tally.report("a conversation killed");
    }
}
