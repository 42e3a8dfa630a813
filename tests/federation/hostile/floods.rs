//! More than the server can take: it says so, and its memory stays bounded.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::Scene;
use crate::{
    common::{client::AnswerExt, db::Backend, homeserver::Homeserver},
    federation::remote::{Remote, room::event_id},
};

/// What a flood may cost, KiB.
const ALLOWANCE: u64 = 200 * 1024;

/// Large events that lead nowhere, in many transactions at once.
async fn events_without_parents_do_not_pile_up(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let before = scene.server.server.memory_kib();
    let mut number = 0;
    for _ in 0..3 {
        let mut transactions = Vec::new();
        for _ in 0..8 {
            let mut events = Vec::new();
            for _ in 0..5 {
                number += 1;
                let mut draft = at.draft("m.room.message", json!({ "body": "x".repeat(60_000) }));
                draft["prev_events"] = json!([format!("${number:0>43}")]);
                events.push(at.sign(&draft));
            }
            transactions.push(events);
        }
        let sent = transactions
            .iter()
            .map(|events| scene.remote.send(&scene.server, events, &[]));
        for (status, answer) in futures_util::future::join_all(sent).await {
            assert!([200, 429, 503].contains(&status), "{status} {answer}");
        }
    }
    scene.alive().await;
    let grown = scene.server.server.memory_kib().saturating_sub(before);
    assert!(grown < ALLOWANCE, "memory grew by {grown} KiB");
    let begin = Instant::now();
    scene.goes_on(&mut at).await;
    assert!(begin.elapsed() < Duration::from_secs(30), "took {:?}", begin.elapsed());
}

/// Many good events from several peers at once are all taken.
async fn several_busy_peers_are_all_served(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(Remote::start(&scene.authority).await);
    }
    let busy = async |remote: &Remote| -> Vec<String> {
        let joined = crate::federation::remote::room::Membership::join(remote, &scene.server, &scene.room, "busy");
        let mut at = joined.await;
        let mut ids = Vec::new();
        for round in 0..4 {
            let mut events = Vec::<Value>::new();
            for number in 0..25 {
                let event = at.message(&format!("{round} {number}"));
                at.follow(&event);
                events.push(event);
            }
            ids.extend(events.iter().map(event_id));
            loop {
                let (status, answer) = remote.send(&scene.server, &events, &[]).await;
                match status {
                    200 => break,
                    429 => tokio::time::sleep(Duration::from_millis(100)).await,
                    _ => panic!("{status} {answer}"),
                }
            }
        }
        ids
    };
    let sent = futures_util::future::join_all(others.iter().map(busy)).await;
    let expected: Vec<String> = sent.concat();
    crate::federation::scenarios::eventually("all events", async || {
        let pages = crate::federation::scenarios::pages(&scene.alice, &scene.room).await;
        let found = |id: &String| pages.iter().any(|event| event["event_id"] == id.as_str());
        let missing = expected.iter().filter(|id| !found(id)).count();
        if missing == 0 {
            Ok(())
        } else {
            Err(format!("{missing} are missing"))
        }
    })
    .await;
}

/// Connections that say a byte now and then keep nobody else out.
async fn slow_connections_keep_nobody_out(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let address = scene.server.client().base.trim_start_matches("http://").to_owned();
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(&address).await.expect("the server listens");
        stream
            .write_all(b"PUT /_matrix/federation/v1/send/slow HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            .await
            .expect("it reads");
        slow.push(stream);
    }
    for _ in 0..3 {
        for stream in &mut slow {
            // An error means that the server has had enough of it.
            drop(stream.write_all(b"y").await);
        }
        let begin = Instant::now();
        scene.goes_on(&mut at).await;
        assert!(begin.elapsed() < Duration::from_secs(10), "took {:?}", begin.elapsed());
    }
    scene.server.client().get("/health").await.ok();
}

crate::federation::both_backends! {
    events_without_parents_do_not_pile_up
    several_busy_peers_are_all_served
    slow_connections_keep_nobody_out
}
