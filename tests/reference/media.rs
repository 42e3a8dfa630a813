//! Sections 8 to 10: media, voice messages, VoIP.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::json;

use super::world::World;
use crate::common::client::text;

const PICTURE: &[u8] = include_bytes!("../federation/scenarios/picture.png");

pub async fn walk(world: &mut World) {
    files(world).await;
    voice(world).await;
    calls(world).await;
}

/// Server and id of an `mxc:` URI.
fn parts(uri: &str) -> [(&'static str, String); 2] {
    let (server, id) = uri["mxc://".len()..]
        .split_once('/')
        .expect("a content URI has two parts");
    [("server_name", server.to_owned()), ("media_id", id.to_owned())]
}

async fn files(world: &mut World) {
    let uploaded = world
        .section("8.1")
        .field("content", json!(STANDARD.encode(PICTURE)))
        .done()
        .await;
    let bytes = json!({ "content": PICTURE, "content_type": "image/png" });
    world.section("8.1").body(bytes.clone()).done().await;
    for (name, value) in parts(&text(&uploaded, "content_uri")) {
        world.name(name, &value);
    }
    let path = "/_matrix/media/v1/upload";
    let upload = world.counted("POST", path, "as `/v3/upload`").body(bytes.clone());
    upload.like(json!({ "content_uri": "mxc://" })).done().await;

    // By default, media are for those with a token.
    let alice = world.alice().clone();
    let seen = world.section("8.2").by(&alice).seen().await;
    assert_eq!(
        (seen.bytes.as_slice(), seen.header(CONTENT_TYPE)),
        (PICTURE, "image/png")
    );
    assert_eq!(seen.header(CONTENT_LENGTH), PICTURE.len().to_string());
    world
        .section("8.2")
        .with("media_id", "none")
        .by(&alice)
        .refused(404, "M_NOT_FOUND")
        .await;
    for path in ["v1", "r1"] {
        let path = format!("/_matrix/media/{path}/download/{{server_name}}/{{media_id}}");
        let seen = world.counted("GET", &path, "as `/v3/download`").by(&alice).seen().await;
        assert_eq!(seen.bytes, PICTURE);
    }
    let seen = world.section("8.3").by(&alice).seen().await;
    assert!(seen.header(CONTENT_TYPE).starts_with("image/"));
    let limit = world.section("8.4").done().await;
    assert!(limit["m.upload.size"].as_u64() > Some(0));

    let (_, reserved) = alice.post("/_matrix/media/v1/create", json!({})).await;
    let ids = parts(&text(&reserved, "content_uri"));
    let ids: Vec<(&str, &str)> = ids.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let path = "/_matrix/media/v3/upload/{server_name}/{media_id}";
    let what = "as PUT in Matrix: for an id that the same user has reserved";
    let upload = world.counted("POST", path, what).with_all(&ids).body(bytes.clone());
    upload.like(json!({ "content_uri": "mxc://" })).done().await;
    world
        .counted("POST", path, what)
        .body(bytes)
        .refused(409, "M_CANNOT_OVERWRITE_MEDIA")
        .await;
}

/// One second of a tone as WAV, 16 bits at 48 kHz.
fn tone() -> Vec<u8> {
    let samples = (0..48_000).map(|at| (f64::from(at) * 440.0 * std::f64::consts::TAU / 48_000.0).sin() * 9_000.0);
    let data: Vec<u8> = samples.flat_map(|sample| (sample as i16).to_le_bytes()).collect();
    let size = u32::try_from(data.len()).expect("a second is short");
    let mut file = b"RIFF".to_vec();
    file.extend((36 + size).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    file.extend([1, 0, 1, 0]);
    file.extend(48_000_u32.to_le_bytes());
    file.extend(96_000_u32.to_le_bytes());
    file.extend([2, 0, 16, 0]);
    file.extend(b"data");
    file.extend(size.to_le_bytes());
    file.extend(data);
    file
}

async fn voice(world: &mut World) {
    let config = world.section("9.1").done().await;
    assert!(
        config["supported_formats"]
            .as_array()
            .is_some_and(|formats| formats.contains(&json!("audio/wav")))
    );
    let upload = world
        .section("9.2")
        .field("content", json!(STANDARD.encode(tone())))
        .field("content_type", json!("audio/wav"));
    let uploaded = upload.done().await;
    assert_eq!(uploaded["duration_ms"], 1_000, "measured, whatever the request says");
    let broken = world
        .section("9.2")
        .field("content", json!(STANDARD.encode("no audio at all")));
    broken.refused(400, "M_UNKNOWN").await;
    let message = text(&uploaded, "message_id");
    world.name("message_id", &message);
    world.name("msg_123", &message);
    let alice = world.alice().clone();
    let got = world.section("9.3").by(&alice).done().await;
    assert_eq!(
        STANDARD.decode(text(&got, "content")).map(|bytes| bytes.len()),
        Ok(tone().len())
    );
    world.section("9.3").refused(404, "M_NOT_FOUND").await;
    world.section("9.5").by(&alice).done().await;
    world.section("9.6").by(&alice).done().await;
    world.section("9.7").by(&alice).done().await;
    let stats = world.section("9.8").done().await;
    assert_eq!(stats["total_duration_ms"], 1_000);
    let converted = world.section("9.9").done().await;
    assert_eq!(converted["target_format"], "audio/mpeg");
    world
        .section("9.9")
        .field("target_format", json!("audio/none"))
        .refused(400, "M_INVALID_PARAM")
        .await;
    world.section("9.10").done().await;
    world
        .section("9.10")
        .field("target_size_kb", json!(1))
        .refused(400, "M_INVALID_PARAM")
        .await;
    world.section("9.4").by_bob().refused(403, "M_FORBIDDEN").await;
    world.section("9.4").done().await;
    world.section("9.3").by(&alice).refused(404, "M_NOT_FOUND").await;
}

async fn calls(world: &mut World) {
    let turn = world.section("10.1").done().await;
    assert!(turn["ttl"].as_u64() > Some(0));
    world.section("10.2").done().await;
    world.section("10.3").done().await;
}
