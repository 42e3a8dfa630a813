//! Requests that are not signed as they must be.

use serde_json::{Value, json};

use super::Scene;
use crate::{
    common::{
        client::{AnswerExt, encode},
        db::Backend,
        homeserver::Homeserver,
    },
    federation::remote::{Credentials, Key, Remote, submit},
};

/// A path that only a server may ask, and what it answers to a good request.
fn path(scene: &Scene) -> String {
    format!(
        "/_matrix/federation/v1/state_ids/{}?event_id=%24nothing",
        encode(&scene.room)
    )
}

/// Asks with this header; the answer must be that nobody is known to have asked.
async fn refused(scene: &Scene, header: &str) {
    let answer = submit(scene.server.client(), "GET", &path(scene), header, None).await;
    answer.refused(401, "M_UNAUTHORIZED");
}

async fn forged_requests_are_refused(backend: Backend) {
    let scene = Scene::set(backend).await;
    scene.enter().await;
    let good = || Credentials::of(&scene.remote, &scene.server);
    let path = path(&scene);
    // A good one comes as far as the event, which does not exist.
    let (status, answer) = submit(
        scene.server.client(),
        "GET",
        &path,
        &good().header("GET", &path, None),
        None,
    )
    .await;
    assert_eq!(
        (status, answer["errcode"].as_str()),
        (404, Some("M_NOT_FOUND")),
        "{answer}"
    );

    scene.server.client().get(&path).await.refused(401, "M_UNAUTHORIZED");
    for header in [
        "X-Matrix",
        "X-Matrix origin=",
        "Bearer abc",
        "X-Matrix origin=\"a\",key=\"b\",sig=\"c\"",
        "Basic \u{fc}",
    ] {
        let (status, answer) = submit(scene.server.client(), "GET", &path, header, None).await;
        assert_eq!(
            (status, &answer["errcode"]),
            (401, &json!("M_UNAUTHORIZED")),
            "{header}: {answer}"
        );
    }
    // Another method, address or body than what was signed.
    refused(&scene, &good().header("PUT", &path, None)).await;
    refused(&scene, &good().header("GET", "/_matrix/federation/v1/version", None)).await;
    refused(&scene, &good().header("GET", &path, Some(&json!({})))).await;
    // Another key than the one that the peer publishes, also under the other's name.
    let stranger = Key::generate("stranger");
    let mut credentials = good();
    credentials.key = &stranger;
    refused(&scene, &credentials.header("GET", &path, None)).await;
    credentials.key_id = stranger.id();
    refused(&scene, &credentials.header("GET", &path, None)).await;
    // For somebody else: in the header, or only in what is signed.
    let mut credentials = good();
    credentials.destination = Some("elsewhere.test".to_owned());
    refused(&scene, &credentials.header("GET", &path, None)).await;
    credentials.signed_destination = "elsewhere.test".to_owned();
    refused(&scene, &credentials.header("GET", &path, None)).await;
    credentials.destination = None;
    refused(&scene, &credentials.header("GET", &path, None)).await;
    // In another server's name, or in the server's own.
    let other = Remote::start(&scene.authority).await;
    for origin in [other.name(), scene.server.name(), "127.0.0.1:1", "a b", ""] {
        let mut credentials = good();
        credentials.origin = origin.to_owned();
        refused(&scene, &credentials.header("GET", &path, None)).await;
    }
    scene.alive().await;
}

async fn the_body_is_signed_as_well(backend: Backend) {
    let scene = Scene::set(backend).await;
    let at = scene.enter().await;
    let event = at.message("never said");
    let path = "/_matrix/federation/v1/send/tampered";
    let signed = scene.remote.transaction(&[], &[]);
    let header = Credentials::of(&scene.remote, &scene.server).header("PUT", path, Some(&signed));
    let sent = scene.remote.transaction(&[event], &[]).to_string();
    let answer = submit(scene.server.client(), "PUT", path, &header, Some(sent)).await;
    answer.refused(401, "M_UNAUTHORIZED");
    // What cannot be canonical JSON cannot have been signed.
    for body in ["{", "[]", "{\"origin\":1.5}", "{\"pdus\":9007199254740992}", "", "null"] {
        let header = Credentials::of(&scene.remote, &scene.server).header("PUT", path, Some(&Value::Null));
        let (status, answer) = submit(scene.server.client(), "PUT", path, &header, Some(body.to_owned())).await;
        assert!([400, 401].contains(&status), "{body}: {status} {answer}");
        assert!(answer["errcode"].is_string(), "{body}: {answer}");
    }
    let seen = crate::federation::scenarios::texts(&scene.alice, &scene.room).await;
    assert_eq!(seen, Vec::<String>::new());
    scene.alive().await;
}

crate::federation::both_backends! {
    forged_requests_are_refused
    the_body_is_signed_as_well
}
