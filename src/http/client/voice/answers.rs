//! Voice messages as JSON.

use actors::error::Outcome;
use actors::media::voice::{Measured, Page, Stored};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use entities::voice_message;
use futures_util::{StreamExt as _, stream};
use http::header::CONTENT_TYPE;
use ruma::ServerName;
use serde_json::{Map, Value, json};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use crate::http::reply::Reply;

/// Bytes of a file that become base64 at a time: a multiple of three, so that the pieces join.
const PIECE: u64 = 48 * 1_024;

/// What is known of a message, without its sound.
fn describe(server: &ServerName, row: &voice_message::Model) -> Map<String, Value> {
    let waveform: Value = serde_json::from_str(&row.waveform).unwrap_or_default();
    let members = [
        ("message_id", row.message_id.as_str().into()),
        ("content_uri", format!("mxc://{server}/{}", row.media_id).into()),
        ("user_id", row.user_id.as_str().into()),
        ("room_id", row.room_id.as_deref().into()),
        ("event_id", row.event_id.as_deref().into()),
        ("session_id", row.session_id.as_deref().into()),
        ("source_message_id", row.source_id.as_deref().into()),
        ("content_type", row.content_type.as_str().into()),
        ("size", row.size_bytes.into()),
        ("duration_ms", row.duration_ms.into()),
        ("sample_rate", row.sample_rate.into()),
        ("channels", row.channels.into()),
        ("waveform", waveform),
        ("created_at", row.created_ts.into()),
    ];
    members
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// A tenth of a decibel is more than anybody hears.
pub(super) fn decibels(value: Option<f64>) -> Value {
    value.map(|value| (value * 10.0).round() / 10.0).into()
}

/// The answer to an upload.
pub(super) fn stored(server: &ServerName, stored: &Stored) -> Map<String, Value> {
    let mut answer = describe(server, &stored.message);
    answer.insert("loudness_lufs".to_owned(), decibels(stored.loudness_lufs));
    answer
}

/// A page of a list.
pub(super) fn page(server: &ServerName, page: &Page) -> Value {
    let messages: Vec<_> = page.messages.iter().map(|row| describe(server, row)).collect();
    let mut answer = json!({ "messages": messages });
    if let Some(next) = &page.next {
        answer["next_batch"] = next.as_str().into();
    }
    answer
}

/// What became of a message, and what it was.
pub(super) fn made(
    server: &ServerName,
    row: &voice_message::Model,
    before: &Measured,
    after: &Measured,
) -> Map<String, Value> {
    let mut answer = describe(server, row);
    answer.extend([
        ("status".to_owned(), "success".into()),
        ("loudness_lufs".to_owned(), decibels(after.loudness_lufs)),
        ("true_peak_dbtp".to_owned(), decibels(after.true_peak_dbtp)),
        ("original_content_type".to_owned(), before.kind.mime().into()),
        ("original_duration_ms".to_owned(), before.duration_ms.into()),
        ("original_loudness_lufs".to_owned(), decibels(before.loudness_lufs)),
        ("original_true_peak_dbtp".to_owned(), decibels(before.true_peak_dbtp)),
    ]);
    answer
}

/// A message with its sound in base64, which is made as it is sent.
pub(super) fn with_content(server: &ServerName, row: &voice_message::Model, file: File) -> Outcome<Reply> {
    let mut head = Value::Object(describe(server, row)).to_string();
    // Without the closing brace, which comes after the sound.
    head.pop();
    let head = stream::once(async move { Ok(Bytes::from(format!("{head},\"content\":\""))) });
    let sound = stream::unfold(Some(file), |file| async move {
        let mut file = file?;
        let mut piece = Vec::with_capacity(usize::try_from(PIECE).unwrap_or(0));
        match (&mut file).take(PIECE).read_to_end(&mut piece).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(Bytes::from(STANDARD.encode(&piece))), Some(file))),
            Err(error) => Some((Err(error), None)),
        }
    });
    let tail = stream::once(async { Ok(Bytes::from_static(b"\"}")) });
    Reply::stream(None, head.chain(sound).chain(tail).boxed()).with_header(CONTENT_TYPE, "application/json")
}
