//! One of two servers dies at a named point in the middle of a transaction; nothing is lost or there twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    VERSION,
    scenarios::{
        converse,
        outage::{complete, insist},
        shared_room,
    },
};
use crate::common::{
    authority::Authority,
    client::User,
    db::Backend,
    homeserver::{Homeserver, Ours, Town},
};

/// How long the messages may take to bring a server to its point.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which of the two dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Sender,
    Receiver,
}

/// Says one thing after the other, each until it is acknowledged, until told to stop.
async fn speak(user: &User, room: &str, name: &str, stop: &AtomicBool) -> Vec<String> {
    let mut said = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let body = format!("{name} {}", said.len());
        insist(user, room, &body).await;
        said.push(body);
    }
    said
}

/// Dies at each of the counted passes, one after the other on the same data.
async fn survives(backend: Backend, victim: Victim, point: &str, counts: &[u32]) {
    let authority = Authority::create();
    let (here, there) = tokio::join!(
        Ours::start(backend, &authority, "127.0.0.1"),
        Ours::start(backend, &authority, "localhost"),
    );
    let (here, there) = (Arc::new(here), Arc::new(there));
    let town = Town {
        here: here.clone(),
        there: there.clone(),
        version: VERSION.to_owned(),
    };
    let (alice, bob, room) = shared_room(&town).await;
    converse(&room, &[&alice, &bob]).await;
    let dying = if victim == Victim::Sender { &here } else { &there };
    let mut said = Vec::new();
    for count in counts {
        let armed = format!("{point}:{count}");
        dying.kill();
        dying.server.restart_with(&[("SYNAPSE_RUST_FAILPOINT", &armed)]).await;
        if victim == Victim::Receiver {
            here.forgive(there.name()).await;
        }
        let stop = AtomicBool::new(false);
        let revive = async {
            let ended = dying.server.ended(PATIENCE).await;
            if ended {
                dying.restart().await;
            }
            stop.store(true, Ordering::Relaxed);
            assert!(ended, "{armed} was not reached");
        };
        let (spoken, ()) = tokio::join!(speak(&alice, &room, &armed, &stop), revive);
        said.extend(spoken);
        if victim == Victim::Receiver {
            here.forgive(there.name()).await;
        }
        complete([&alice, &bob], &room, &said).await;
    }
    converse(&room, &[&bob, &alice]).await;
}

async fn receiver_before_a_commit(backend: Backend) {
    survives(backend, Victim::Receiver, "journal.before_commit", &[1, 3, 8]).await;
}

async fn receiver_after_a_commit(backend: Backend) {
    survives(backend, Victim::Receiver, "journal.after_commit", &[1, 3, 8]).await;
}

async fn receiver_after_a_publication(backend: Backend) {
    survives(backend, Victim::Receiver, "journal.after_publish", &[2, 5]).await;
}

async fn receiver_before_a_room_is_written(backend: Backend) {
    survives(backend, Victim::Receiver, "room.before_submit", &[1, 4]).await;
}

async fn sender_before_a_commit(backend: Backend) {
    survives(backend, Victim::Sender, "journal.before_commit", &[2, 20]).await;
}

async fn sender_after_a_commit(backend: Backend) {
    survives(backend, Victim::Sender, "journal.after_commit", &[2, 20, 45]).await;
}

async fn sender_after_a_publication(backend: Backend) {
    survives(backend, Victim::Sender, "journal.after_publish", &[3, 25]).await;
}

super::both_backends! {
    receiver_before_a_commit
    receiver_after_a_commit
    receiver_after_a_publication
    receiver_before_a_room_is_written
    sender_before_a_commit
    sender_after_a_commit
    sender_after_a_publication
}
