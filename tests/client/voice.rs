//! Voice messages that the server looks into.

use std::time::Duration;

use audio::{Limits, Measured, Stop};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::common::{
    client::{Answer, AnswerExt, User, encode, text, timeline},
    server::TestServer,
};

/// A WAV file, 16 bits, 16 kHz: seconds of a rising tone, each as loud as told.
fn tone(loudness: &[f64]) -> Vec<u8> {
    let rate = 16_000_u32;
    let mut pcm = Vec::new();
    for (second, amplitude) in loudness.iter().enumerate() {
        for at in 0..rate {
            let time = second as f64 + f64::from(at) / f64::from(rate);
            // Slowly up and down, so that no two moments are the same.
            let phase = 300.0 * time + 20.0 * (time * 3.0).sin();
            let sample = (phase * std::f64::consts::TAU).sin() * amplitude;
            pcm.extend(((sample * 32_767.0) as i16).to_le_bytes());
        }
    }
    let mut file = b"RIFF".to_vec();
    file.extend((pcm.len() as u32 + 36).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(rate.to_le_bytes());
    file.extend((2 * rate).to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend((pcm.len() as u32).to_le_bytes());
    file.extend(pcm);
    file
}

fn measured(file: &[u8]) -> Measured {
    let limits = Limits {
        max_duration_ms: 600_000,
    };
    audio::measure(file, limits, &Stop::default()).expect("it is audio")
}

async fn send_file(user: &User, path: &str, content_type: &str, file: Vec<u8>) -> Answer {
    let (status, _, body) = user
        .client
        .raw("POST", path, Some(&user.token), Some((content_type, file)))
        .await;
    let body = serde_json::from_slice(&body).expect("answers are JSON");
    (status, body)
}

async fn uploaded(user: &User, query: &str, file: Vec<u8>) -> Value {
    send_file(user, &format!("voice/upload{query}"), "audio/wav", file)
        .await
        .ok()
}

async fn media_status(server: &TestServer, user: &User, uri: &str) -> (u16, String, Vec<u8>) {
    let id = uri.strip_prefix("mxc://").expect("a media address");
    let path = format!("/_matrix/client/v1/media/download/{id}");
    server.client.raw("GET", &path, Some(&user.token), None).await
}

async fn event(user: &User, room: &str, id: &str) -> Value {
    user.get(&format!("rooms/{}/event/{}", encode(room), encode(id)))
        .await
        .ok()
}

both_databases! {
    async fn the_limits_are_told_to_everybody(server) {
        for path in ["voice/config", "/_matrix/client/r0/voice/config"] {
            let config = server.client.get(path).await.ok();
            assert_eq!(config["supported_formats"], json!(["audio/ogg", "audio/mpeg", "audio/wav"]));
            assert_eq!(config["max_size_bytes"], 52_428_800, "no more than any upload");
            assert_eq!(config["max_duration_ms"], 600_000);
            assert_eq!(config["default_sample_rate"], 48_000);
            assert_eq!(config["default_channels"], 2);
        }
    }

    async fn a_voice_message_is_looked_into_stored_and_sent(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        let file = tone(&[0.0, 0.5, 0.25]);
        let answer = uploaded(&alice, &format!("?room_id={}&session_id=s1", encode(&room)), file.clone()).await;
        assert_eq!(answer["duration_ms"], 3_000);
        assert_eq!((&answer["sample_rate"], &answer["channels"]), (&json!(16_000), &json!(1)));
        assert_eq!((&answer["size"], &answer["session_id"]), (&json!(file.len()), &json!("s1")));
        let waveform: Vec<u64> = serde_json::from_value(answer["waveform"].clone()).expect("a list of numbers");
        assert_eq!(waveform.len(), 100);
        assert!(waveform[..32].iter().all(|entry| *entry == 0), "{waveform:?}");
        assert!(waveform[35..65].iter().all(|entry| (500..=515).contains(entry)), "{waveform:?}");
        assert!(waveform[68..].iter().all(|entry| (250..=260).contains(entry)), "{waveform:?}");

        // What other members' clients get is a voice message that they know to play.
        let sync = bob.sync_until(None, |sync| {
            timeline(sync, &room).iter().any(|event| event["content"]["msgtype"] == "m.audio")
        }).await;
        let sent = timeline(&sync, &room).iter().find(|event| event["content"]["msgtype"] == "m.audio");
        let sent = sent.expect("it was looked for");
        assert_eq!((&sent["event_id"], &sent["sender"]), (&answer["event_id"], &json!(alice.user_id)));
        let content = &sent["content"];
        assert_eq!(content["url"], answer["content_uri"]);
        assert_eq!(content["info"], json!({ "duration": 3_000, "mimetype": "audio/wav", "size": file.len() }));
        assert_eq!(content["org.matrix.msc3245.voice"], json!({}));
        assert_eq!(content["org.matrix.msc1767.audio"], json!({ "duration": 3_000, "waveform": waveform }));
        let (status, content_type, body) = media_status(server, &bob, &text(content, "url")).await;
        assert_eq!((status, content_type.as_str()), (200, "audio/wav"));
        assert!(body == file);

        let id = text(&answer, "message_id");
        let got = bob.get(&format!("voice/{id}")).await.ok();
        assert_eq!((&got["message_id"], &got["content_type"]), (&json!(id), &json!("audio/wav")));
        assert_eq!(got["size"], file.len());
        assert!(STANDARD.decode(text(&got, "content")).expect("base64") == file);
        let list = bob.get(&format!("voice/room/{}", encode(&room))).await.ok();
        assert_eq!(list["messages"][0]["message_id"], json!(id));
        assert_eq!(list["messages"][0]["user_id"], json!(alice.user_id));
        assert_eq!(list["messages"][0]["duration_ms"], 3_000);
        let list = bob.get(&format!("voice/user/{}", encode(&alice.user_id))).await.ok();
        assert!(list["messages"][0]["created_at"].as_i64() > Some(1_600_000_000_000), "{list}");
        let totals = json!({
            "user_id": alice.user_id, "total_messages": 1, "total_duration_ms": 3_000, "total_size_bytes": file.len(),
        });
        assert_eq!(alice.get("voice/stats").await.ok(), totals);
        assert_eq!(bob.get(&format!("voice/user/{}/stats", encode(&alice.user_id))).await.ok(), totals);
    }

    async fn the_uploaders_word_is_not_needed(server) {
        let alice = server.register("alice").await;
        let wav = tone(&[0.5, 0.5]);
        let made = convert_file(&wav, audio::Format::Opus);
        let body = json!({
            "content": STANDARD.encode(&made), "content_type": "audio/mpeg", "duration_ms": 5, "session_id": "x",
        });
        let answer = alice.post("/_matrix/client/r0/voice/upload", body).await.ok();
        assert!((1_950..=2_050).contains(&answer["duration_ms"].as_i64().expect("a number")), "{answer}");
        assert_eq!(answer["content_type"], "audio/ogg");
        assert!(text(&answer, "content_uri").starts_with("mxc://localhost/"));
        let (_, content_type, body) = media_status(server, &alice, &text(&answer, "content_uri")).await;
        assert_eq!(content_type, "audio/ogg");
        assert!(body == made);
    }

    config |table| {
        table.insert("voice".into(), toml::toml! { max_duration_secs = 2 max_size_bytes = 100000 }.into());
    }
    async fn what_is_no_voice_message_is_refused(server) {
        let alice = server.register("alice").await;
        for file in [&b"hello"[..], b"", b"OggS", b"RIFF\x24\0\0\0WAVEfmt ", b"\xFF\xFB\x90\0\0\0\0"] {
            let refusal = send_file(&alice, "voice/upload", "audio/ogg", file.to_vec()).await.refused(400, "M_UNKNOWN");
            assert!(text(&refusal, "error").starts_with("Refused"), "{refusal}");
        }
        let quiet = tone(&[0.1, 0.1, 0.1]);
        send_file(&alice, "voice/upload", "audio/wav", quiet).await.refused(413, "M_TOO_LARGE");
        send_file(&alice, "voice/upload", "audio/wav", tone(&[0.1; 4])).await.refused(413, "M_TOO_LARGE");
        let refusal = alice.post("/_matrix/client/r0/voice/upload", json!({ "duration_ms": 1 })).await;
        assert_eq!(refusal.refused(400, "M_MISSING_PARAM")["status"], "error");
        alice.post("voice/upload", json!({ "content": "no base64!", "duration_ms": 1 })).await.refused(400, "M_INVALID_PARAM");
        alice.post("voice/upload", json!({ "content": 5, "duration_ms": 1 })).await.refused(400, "M_BAD_JSON");
        send_file(&alice, "voice/upload", "application/json", b"{".to_vec()).await.refused(400, "M_NOT_JSON");
        let wav = Some(("audio/wav", tone(&[0.1])));
        let (status, _, _) = server.client.raw("POST", "voice/upload", None, wav).await;
        assert_eq!(status, 401);
        assert_eq!(alice.get("voice/stats").await.ok()["total_messages"], 0, "nothing of it was kept");
    }

    async fn rooms_decide_who_may_send_and_hear(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let private = alice.create_room(json!({})).await;
        let to = |room: &str| format!("?room_id={}", encode(room));
        let file = tone(&[0.5]);
        let path = format!("voice/upload{}", to(&private));
        send_file(&bob, &path, "audio/wav", file.clone()).await.refused(403, "M_FORBIDDEN");
        let nowhere = format!("voice/upload{}", to("!nowhere:localhost"));
        send_file(&bob, &nowhere, "audio/wav", file.clone()).await.refused(403, "M_FORBIDDEN");
        assert_eq!(bob.get("voice/stats").await.ok()["total_messages"], 0);
        let state = json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
        let encrypted = alice.create_room(json!({ "initial_state": [state] })).await;
        let path = format!("voice/upload{}", to(&encrypted));
        let refusal = send_file(&alice, &path, "audio/wav", file.clone()).await.refused(403, "M_FORBIDDEN");
        assert!(text(&refusal, "error").contains("encrypted"), "{refusal}");
        let envelope = json!({ "content": STANDARD.encode(&file), "room_id": encrypted });
        alice.post("voice/upload", envelope).await.refused(403, "M_FORBIDDEN");
        assert_eq!(alice.get("voice/stats").await.ok()["total_messages"], 0, "nothing of it was kept");
        let messages = alice.get(&format!("rooms/{}/messages?dir=b", encode(&encrypted))).await.ok();
        let sent = messages["chunk"].as_array().expect("a list").iter().filter(|event| event["type"] == "m.room.message");
        assert_eq!(sent.count(), 0);

        let secret = text(&uploaded(&alice, &to(&private), file.clone()).await, "message_id");
        let own = text(&uploaded(&alice, "", file.clone()).await, "message_id");
        let world = alice.create_room(json!({ "preset": "public_chat" })).await;
        alice.set_state(&world, "m.room.history_visibility", "", json!({ "history_visibility": "world_readable" })).await;
        let open = text(&uploaded(&alice, &to(&world), file).await, "message_id");

        let (of_alice, stats) = (
            format!("voice/user/{}", encode(&alice.user_id)),
            format!("voice/user/{}/stats", encode(&alice.user_id)),
        );
        for id in [&secret, &own] {
            alice.get(&format!("voice/{id}")).await.ok();
            bob.get(&format!("voice/{id}")).await.refused(404, "M_NOT_FOUND");
            server.client.get(&format!("voice/{id}")).await.refused(404, "M_NOT_FOUND");
        }
        server.client.get(&format!("voice/{open}")).await.ok();
        server.client.get(&format!("voice/room/{}", encode(&world))).await.ok();
        for room in [private.as_str(), "!nowhere:localhost"] {
            server.client.get(&format!("voice/room/{}", encode(room))).await.refused(403, "M_FORBIDDEN");
            bob.get(&format!("voice/room/{}", encode(room))).await.refused(403, "M_FORBIDDEN");
        }
        for list in [bob.get(&of_alice).await.ok(), server.client.get(&of_alice).await.ok()] {
            let ids: Vec<_> = list["messages"].as_array().expect("a list").iter().map(|m| &m["message_id"]).collect();
            assert_eq!(ids, [&json!(open)]);
        }
        assert_eq!(server.client.get(&stats).await.ok()["total_messages"], 1);
        assert_eq!(alice.get(&stats).await.ok()["total_messages"], 3);

        // Page by page, newest first.
        let page = alice.get(&format!("{of_alice}?limit=2")).await.ok();
        assert_eq!((&page["messages"][0]["message_id"], &page["messages"][1]["message_id"]), (&json!(open), &json!(own)));
        let page = alice.get(&format!("{of_alice}?limit=2&from={}", encode(&text(&page, "next_batch")))).await.ok();
        assert_eq!((&page["messages"][0]["message_id"], &page["next_batch"]), (&json!(secret), &Value::Null));
        alice.get(&format!("{of_alice}?from=nowhere")).await.refused(400, "M_INVALID_PARAM");
    }

    async fn what_is_deleted_is_gone(server) {
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        let answer = uploaded(&alice, &format!("?room_id={}", encode(&room)), tone(&[0.5])).await;
        let (id, uri) = (text(&answer, "message_id"), text(&answer, "content_uri"));
        let path = format!("voice/{id}");
        bob.delete(&path, None).await.refused(403, "M_FORBIDDEN");
        server.client.request("DELETE", &path, None, None).await.refused(401, "M_MISSING_TOKEN");
        assert_eq!(alice.delete(&path, None).await.ok(), json!({ "deleted": true, "message_id": id }));
        alice.delete(&path, None).await.refused(404, "M_NOT_FOUND");
        alice.get(&path).await.refused(404, "M_NOT_FOUND");
        assert_eq!(media_status(server, &alice, &uri).await.0, 404);
        let left = event(&bob, &room, &text(&answer, "event_id")).await;
        assert_eq!(left["content"], json!({}), "the event was redacted");
        assert_eq!(alice.get("voice/stats").await.ok()["total_messages"], 0);
    }

    async fn formats_change_and_the_answer_is_true(server) {
        let alice = server.register("alice").await;
        let answer = uploaded(&alice, "", tone(&[0.5; 3])).await;
        let id = text(&answer, "message_id");
        for (format, kind) in [("audio/mpeg", audio::Kind::Mp3), ("audio/ogg", audio::Kind::OggOpus), ("wav", audio::Kind::Wav)] {
            let body = json!({ "message_id": id, "target_format": format, "quality": 128, "bitrate": 64_000, "sample_rate": 48_000 });
            let made = alice.post("/_matrix/client/r0/voice/convert", body).await.ok();
            assert_eq!((&made["status"], &made["message_id"]), (&json!("success"), &json!(id)));
            assert_eq!((&made["target_format"], &made["quality"], &made["bitrate"]), (&json!(format), &json!(128), &json!(64_000)));
            let (_, content_type, file) = media_status(server, &alice, &text(&made, "content_uri")).await;
            let seen = measured(&file);
            assert_eq!((seen.kind, content_type.as_str()), (kind, seen.kind.mime()));
            assert_eq!((seen.sample_rate, seen.channels), (48_000, 1));
            assert!(seen.duration_ms.abs_diff(3_000) <= 50, "{seen:?}");
            assert_eq!((&made["size"], &made["duration_ms"]), (&json!(file.len()), &json!(seen.duration_ms)));
            let (before, after) = (made["original_loudness_lufs"].as_f64(), made["loudness_lufs"].as_f64());
            let change = before.expect("a number") - after.expect("a number");
            assert!(change.abs() <= 1.0, "{made}");
            let again = alice.get(&format!("voice/{}", text(&made, "converted_message_id"))).await.ok();
            assert_eq!(again["source_message_id"], json!(id));
        }
        let refused = |body: Value| alice.post("voice/convert", body);
        refused(json!({ "message_id": id, "target_format": "audio/flac" })).await.refused(400, "M_INVALID_PARAM");
        refused(json!({ "message_id": id, "target_format": "audio/ogg", "quality": 31 })).await.refused(400, "M_INVALID_PARAM");
        refused(json!({ "message_id": id, "target_format": "audio/ogg", "bitrate": 320_001 })).await.refused(400, "M_INVALID_PARAM");
        refused(json!({ "message_id": id, "target_format": "mp3", "sample_rate": 12_345 })).await.refused(400, "M_INVALID_PARAM");
        refused(json!({ "message_id": id })).await.refused(400, "M_MISSING_PARAM");
        refused(json!({ "message_id": "nothing", "target_format": "audio/ogg" })).await.refused(404, "M_NOT_FOUND");
        let bob = server.register("bob").await;
        bob.post("voice/convert", json!({ "message_id": id, "target_format": "mp3" })).await.refused(404, "M_NOT_FOUND");
    }

    async fn messages_get_smaller_and_better(server) {
        let alice = server.register("alice").await;
        let answer = uploaded(&alice, "", tone(&[0.05, 0.05, 0.0, 0.0, 0.0, 0.0, 0.05, 0.05])).await;
        let id = text(&answer, "message_id");
        let body = json!({
            "message_id": id, "target_size_kb": 20, "preserve_quality": true, "remove_silence": true, "normalize_volume": true,
        });
        let made = alice.post("/_matrix/client/r0/voice/optimize", body).await.ok();
        assert_eq!((&made["status"], &made["message_id"], &made["target_size_kb"]), (&json!("success"), &json!(id), &json!(20)));
        assert_eq!((&made["changed"], &made["target_size_reached"]), (&json!(true), &json!(true)), "{made}");
        let (_, _, file) = media_status(server, &alice, &text(&made, "content_uri")).await;
        let seen = measured(&file);
        assert!(file.len() <= 20 * 1_024 && made["size"] == json!(file.len()), "{made}");
        // Four seconds of silence became half a second.
        assert!((4_300..=4_700).contains(&seen.duration_ms), "{seen:?}");
        let loudness = seen.loudness_lufs.expect("it is not silent");
        assert!((loudness + 23.0).abs() <= 1.0, "{loudness}");
        assert!(made["gain_db"].as_f64() > Some(1.0), "{made}");
        for size in [9, 10_001] {
            let body = json!({ "message_id": id, "target_size_kb": size });
            alice.post("voice/optimize", body).await.refused(400, "M_INVALID_PARAM");
        }
    }

    async fn each_user_has_one_job_at_a_time(server) {
        let alice = server.register("alice").await;
        let id = text(&uploaded(&alice, "", tone(&[0.5; 60])).await, "message_id");
        let convert = || alice.post("voice/convert", json!({ "message_id": id, "target_format": "audio/ogg" }));
        let (a, b, c) = tokio::join!(convert(), convert(), convert());
        let answers = [a, b, c];
        assert!(answers.iter().any(|(status, _)| *status == 200), "{answers:?}");
        let busy = answers.into_iter().find(|(status, _)| *status == 429).expect("the others are too many");
        assert!(busy.refused(429, "M_LIMIT_EXCEEDED")["retry_after_ms"].as_u64() > Some(0));
        convert().await.ok();
    }

    async fn a_hang_up_ends_the_job(server) {
        let alice = server.register("alice").await;
        let long = text(&uploaded(&alice, "", tone(&[0.5; 500])).await, "message_id");
        hang_up(&alice, &json!({ "message_id": long, "remove_silence": true, "normalize_volume": true })).await;
        assert_eq!(alice.get("voice/stats").await.ok()["total_messages"], 1, "nothing came of it");
        let short = text(&uploaded(&alice, "", tone(&[0.5])).await, "message_id");
        alice.post("voice/convert", json!({ "message_id": short, "target_format": "mp3" })).await.ok();
    }

    config |table| {
        table.insert("voice".into(), toml::toml! { job_deadline_secs = 4 }.into());
    }
    async fn a_deadline_ends_the_job(server) {
        let alice = server.register("alice").await;
        let long = text(&uploaded(&alice, "", tone(&[0.5; 500])).await, "message_id");
        let body = json!({ "message_id": long, "remove_silence": true, "normalize_volume": true, "target_size_kb": 2_000 });
        let (status, answer) = alice.post("voice/optimize", body).await;
        assert_eq!(status, 503, "{answer}");
        until_free(&alice).await;
        assert_eq!(alice.get("voice/stats").await.ok()["total_messages"], 1, "nothing came of it");
    }

    async fn what_was_acknowledged_survives(server) {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let file = tone(&[0.5]);
        let answer = uploaded(&alice, &format!("?room_id={}", encode(&room)), file.clone()).await;
        server.kill();
        server.restart().await;
        let got = alice.get(&format!("voice/{}", text(&answer, "message_id"))).await.ok();
        assert!(STANDARD.decode(text(&got, "content")).expect("base64") == file);
        assert_eq!(got["event_id"], answer["event_id"]);
        event(&alice, &room, &text(&answer, "event_id")).await;
    }
}

/// Whether a job of the user runs: what does not exist is looked for in turn, too.
async fn is_busy(user: &User) -> bool {
    let body = json!({ "message_id": "nothing", "target_format": "mp3" });
    match user.post("voice/convert", body).await.0 {
        429 => true,
        404 => false,
        status => panic!("unexpected {status}"),
    }
}

async fn until_free(user: &User) {
    while is_busy(user).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Has a message optimised, hangs up once that has begun, and waits until it is over.
async fn hang_up(user: &User, body: &Value) {
    loop {
        let begun = async { while !is_busy(user).await {} };
        tokio::select! {
            // The question whether it has begun was in the way.
            (status, _) = user.post("voice/optimize", body.clone()) => assert_eq!(status, 429, "it was done at once"),
            () = begun => break,
        }
    }
    until_free(user).await;
}

fn convert_file(file: &[u8], format: audio::Format) -> Vec<u8> {
    let limits = Limits {
        max_duration_ms: 600_000,
    };
    let target = audio::Target {
        format,
        bitrate: None,
        sample_rate: None,
        channels: None,
        most: audio::Spec {
            rate: 48_000,
            channels: 2,
        },
    };
    audio::convert(file, target, limits, &Stop::default())
        .expect("it can be converted")
        .file
}
