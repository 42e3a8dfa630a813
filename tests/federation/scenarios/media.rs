//! Files of another server.

use serde_json::Value;

use crate::common::{
    client::{User, text},
    homeserver::Town,
};

/// 64 x 48 pixels.
const PICTURE: &[u8] = include_bytes!("picture.png");

/// Uploads a file; returns server and id of its URI.
async fn upload(user: &User, content_type: &str, bytes: &[u8]) -> (String, String) {
    let path = "/_matrix/media/v3/upload?filename=the%20file.bin";
    let body = Some((content_type, bytes.to_vec()));
    let (status, _, answer) = user.client.raw("POST", path, Some(&user.token), body).await;
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
    assert_eq!(status, 200, "{answer}");
    let uri = text(&answer, "content_uri");
    let parts = uri.strip_prefix("mxc://").and_then(|rest| rest.split_once('/'));
    let (server, id) = parts.unwrap_or_else(|| panic!("no URI: {uri}"));
    (server.to_owned(), id.to_owned())
}

async fn get(user: &User, path: &str) -> (u16, String, Vec<u8>) {
    let path = format!("/_matrix/client/v1/media/{path}");
    user.client.raw("GET", &path, Some(&user.token), None).await
}

fn errcode(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body["errcode"].as_str().unwrap_or_default().to_owned()
}

pub async fn download(town: &Town) {
    let (alice, bob) = town.people().await;
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let (server, id) = upload(&alice, "application/octet-stream", &bytes).await;
    assert_eq!(server, town.here.name());
    // The second answer may come out of a cache.
    for name in ["", "/another.bin"] {
        let (status, content_type, body) = get(&bob, &format!("download/{server}/{id}{name}")).await;
        assert_eq!((status, content_type.as_str()), (200, "application/octet-stream"));
        assert!(body == bytes, "{} bytes came of {}", body.len(), bytes.len());
    }
    let path = format!("/_matrix/client/v1/media/download/{server}/{id}");
    let (status, _, body) = bob.client.raw("GET", &path, None, None).await;
    assert_eq!((status, errcode(&body).as_str()), (401, "M_MISSING_TOKEN"));
    let (status, _, body) = get(&bob, &format!("download/{server}/nothinghere")).await;
    assert_eq!((status, errcode(&body).as_str()), (404, "M_NOT_FOUND"));
}

pub async fn thumbnail(town: &Town) {
    let (alice, bob) = town.people().await;
    let (server, id) = upload(&alice, "image/png", PICTURE).await;
    let (status, content_type, body) = get(&bob, &format!("download/{server}/{id}")).await;
    assert_eq!((status, content_type.as_str()), (200, "image/png"));
    assert!(body == PICTURE);
    for method in ["scale", "crop"] {
        let path = format!("thumbnail/{server}/{id}?width=32&height=32&method={method}");
        let (status, content_type, body) = get(&bob, &path).await;
        assert_eq!(status, 200, "{method}: {}", String::from_utf8_lossy(&body));
        assert!(content_type.starts_with("image/"), "{method}: {content_type}");
        assert!(!body.is_empty());
    }
}
