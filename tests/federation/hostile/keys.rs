//! Servers that lie about their keys, or say nothing.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Scene;
use crate::common::homeserver::Homeserver;
use crate::{
    common::{client::AnswerExt, db::Backend},
    federation::remote::{
        Credentials, Key, Remote,
        http::{Answer, Request},
        in_an_hour, now, submit,
    },
};

const PATH: &str = "/_matrix/federation/v1/query/profile?user_id=%40alice%3Anowhere";

fn asks_for_keys(request: &Request) -> bool {
    request.path.starts_with("/_matrix/key/v2/server")
}

/// A peer that answers the question for its keys with this.
async fn publishes(scene: &Scene, document: impl Fn(&Remote) -> Value) -> Remote {
    let remote = Remote::start(&scene.authority).await;
    let document = document(&remote);
    remote.behave(move |request| asks_for_keys(request).then(|| Answer::Json(200, document.clone())));
    remote
}

async fn lies_about_keys_are_not_believed(backend: Backend) {
    let scene = Scene::set(backend).await;
    let stranger = Key::generate("peer");
    let good = |remote: &Remote| remote.key().document(remote.name(), in_an_hour());
    type Lie<'a> = Box<dyn Fn(&Remote) -> Value + 'a>;
    let lies: [(&str, Lie<'_>); 8] = [
        (
            "another name",
            Box::new(|remote| remote.key().document("elsewhere.test", in_an_hour())),
        ),
        (
            "another's signature",
            Box::new(|remote| {
                let mut document = good(remote);
                document["signatures"] = stranger.document(remote.name(), in_an_hour())["signatures"].clone();
                document
            }),
        ),
        (
            "no signature",
            Box::new(|remote| {
                let mut document = good(remote);
                document["signatures"] = json!({});
                document
            }),
        ),
        (
            "a changed time",
            Box::new(|remote| {
                let mut document = good(remote);
                document["valid_until_ts"] = json!(in_an_hour() + 1_000_000);
                document
            }),
        ),
        (
            "over long ago",
            Box::new(|remote| remote.key().document(remote.name(), now() - 3_600_000)),
        ),
        (
            "keys of another length",
            Box::new(|remote| {
                let mut document = good(remote);
                document["verify_keys"][remote.key().id()]["key"] = json!("AAAA");
                document["signatures"] = json!({ remote.name(): { remote.key().id(): remote.key().sign(&document) } });
                document
            }),
        ),
        ("no document", Box::new(|_| json!([1, 2, 3]))),
        (
            "an enormous one",
            Box::new(|remote| {
                let mut document = good(remote);
                document["padding"] = json!("x".repeat(8 * 1024 * 1024));
                document
            }),
        ),
    ];
    for (name, lie) in &lies {
        let remote = publishes(&scene, lie).await;
        let header = Credentials::of(&remote, &scene.server).header("GET", PATH, None);
        let (status, answer) = submit(scene.server.client(), "GET", PATH, &header, None).await;
        assert_eq!(
            (status, &answer["errcode"]),
            (401, &json!("M_UNAUTHORIZED")),
            "{name}: {answer}"
        );
    }
    scene.alive().await;
    // Where nothing is wrong, the question itself is answered.
    let remote = publishes(&scene, good).await;
    let header = Credentials::of(&remote, &scene.server).header("GET", PATH, None);
    let (status, answer) = submit(scene.server.client(), "GET", PATH, &header, None).await;
    assert_ne!(status, 401, "{answer}");
}

/// A minute is longer than any answer to a request may take.
const BOUND: Duration = Duration::from_secs(60);

async fn silent_key_servers_hold_nobody_up(backend: Backend) {
    let scene = Scene::set(backend).await;
    let mut at = scene.enter().await;
    let mut silent = Vec::new();
    for number in 0..12 {
        let remote = Remote::start(&scene.authority).await;
        remote.behave(move |request| {
            let answers = [Answer::Silence, Answer::Trickle, Answer::Endless, Answer::Noise];
            let answer = answers.into_iter().nth(number % 4);
            answer.filter(|_| asks_for_keys(request))
        });
        silent.push(remote);
    }
    let before = scene.server.server.memory_kib();
    let begin = Instant::now();
    let ask = async |remote: &Remote| {
        let header = Credentials::of(remote, &scene.server).header("GET", PATH, None);
        let (status, answer) = submit(scene.server.client(), "GET", PATH, &header, None).await;
        assert!([401, 429, 503].contains(&status), "{status} {answer}");
        assert!(answer["errcode"].is_string(), "{answer}");
    };
    let waiting = futures_util::future::join_all(silent.iter().map(ask));
    let meanwhile = async {
        for _ in 0..3 {
            let begin = Instant::now();
            scene.goes_on(&mut at).await;
            assert!(begin.elapsed() < Duration::from_secs(10), "others are held up");
        }
    };
    tokio::join!(waiting, meanwhile);
    assert!(begin.elapsed() < BOUND, "the requests hung for {:?}", begin.elapsed());
    let grown = scene.server.server.memory_kib().saturating_sub(before);
    assert!(grown < 100 * 1024, "memory grew by {grown} KiB");
    scene.server.client().get("/health").await.ok();
}

crate::federation::both_backends! {
    lies_about_keys_are_not_believed
    silent_key_servers_hold_nobody_up
}
