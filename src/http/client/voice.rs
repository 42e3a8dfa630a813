//! Voice messages that the server looks into: an extension, as the API reference beside the specification has it.

mod answers;

use std::time::Duration;

use actors::error::{DomainError, Outcome};
use actors::media;
use actors::media::voice::{self, ConvertWishes, Fields, Format, Incoming, OptimiseWishes, Reader};
use http::Method;
use http::header::CONTENT_TYPE;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::json;

use crate::config::Config;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Messages of one page.
const DEFAULT_PAGE: u32 = 100;
const MAX_PAGE: u32 = 200;
/// What may be asked for: kbit/s, bit/s, KiB.
const QUALITY: std::ops::RangeInclusive<u32> = 32..=320;
const BITRATE: std::ops::RangeInclusive<u32> = 64_000..=320_000;
const TARGET_SIZE_KB: std::ops::RangeInclusive<u32> = 10..=10_000;

/// Registers the chapter.
pub fn routes(t: &mut Table, config: &Config) {
    let body = usize::try_from(voice::max_body_bytes(config.media.max_upload_bytes)).unwrap_or(usize::MAX);
    let job_deadline = Duration::from_secs(config.voice.job_deadline_secs);
    t.raw(Method::POST, "/_matrix/client/r0/voice/upload", Policy::User, upload)
        .also("/_matrix/client/v3/voice/upload")
        .streamed(body)
        .deadline(job_deadline)
        .abandoned()
        .limit(Class::Media);
    t.raw(Method::POST, "/_matrix/client/r0/voice/convert", Policy::User, convert)
        .also("/_matrix/client/v3/voice/convert")
        .deadline(job_deadline)
        .abandoned()
        .limit(Class::Media);
    t.raw(
        Method::POST,
        "/_matrix/client/r0/voice/optimize",
        Policy::User,
        optimise,
    )
    .also("/_matrix/client/v3/voice/optimize")
    .deadline(job_deadline)
    .abandoned()
    .limit(Class::Media);
    t.raw(Method::GET, "/_matrix/client/r0/voice/config", Policy::Open, limits)
        .also("/_matrix/client/v3/voice/config");
    t.raw(Method::GET, "/_matrix/client/r0/voice/stats", Policy::User, own_stats)
        .also("/_matrix/client/v3/voice/stats")
        .limit(Class::Media);
    t.raw(Method::DELETE, "/_matrix/client/r0/voice/{id}", Policy::User, delete)
        .also("/_matrix/client/v3/voice/{id}")
        .limit(Class::Media);
    let reads = Policy::Optional;
    t.raw(Method::GET, "/_matrix/client/r0/voice/{id}", reads, get)
        .also("/_matrix/client/v3/voice/{id}")
        .limit(Class::Media);
    t.raw(Method::GET, "/_matrix/client/r0/voice/user/{user}", reads, of_user)
        .also("/_matrix/client/v3/voice/user/{user}")
        .limit(Class::Media);
    t.raw(Method::GET, "/_matrix/client/r0/voice/user/{user}/stats", reads, stats)
        .also("/_matrix/client/v3/voice/user/{user}/stats")
        .limit(Class::Media);
    t.raw(Method::GET, "/_matrix/client/r0/voice/room/{room}", reads, of_room)
        .also("/_matrix/client/v3/voice/room/{room}")
        .limit(Class::Media);
}

async fn limits(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let settings = ctx.hub.env().settings.voice;
    Reply::json(&json!({
        "supported_formats": ["audio/ogg", "audio/mpeg", "audio/wav"],
        "upload_formats": voice::Kind::ALL_MIMES,
        "max_size_bytes": voice::max_size_bytes(ctx.hub.env()),
        "max_duration_ms": settings.max_duration_ms,
        "default_sample_rate": settings.default_sample_rate,
        "default_channels": settings.default_channels,
        "loudness_lufs": settings.loudness_lufs,
    }))
}

fn reader(ctx: &Ctx) -> Reader<'_> {
    let identity = ctx.identity.as_deref();
    Reader {
        user: identity.map(|identity| &*identity.user_id),
        is_admin: identity.is_some_and(|identity| identity.is_admin),
    }
}

async fn upload(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let identity = ctx.user()?;
    let param = |name| ctx.request.query_param(name);
    let kind = ctx.request.header(&CONTENT_TYPE).unwrap_or_default();
    let room_id = param("room_id").map(OwnedRoomId::try_from).transpose();
    let incoming = Incoming {
        user: identity.user_id.clone(),
        body: request
            .take_stream()
            .ok_or_else(|| DomainError::internal("an upload without a stream"))?,
        is_envelope: kind.starts_with("application/json"),
        fields: Fields {
            room_id: room_id.map_err(|e| DomainError::invalid_param(format!("`room_id`: {e}")))?,
            session_id: param("session_id"),
            filename: param("filename"),
        },
        may_send: !identity.is_suspended,
    };
    let stored = voice::upload(&ctx.hub, incoming).await?;
    Reply::json(&answers::stored(&ctx.config.server_name, &stored))
}

async fn get(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let (row, media) = voice::content(env, &reader(&ctx), request.arg(0)?).await?;
    let file = media::open(env, &media).await?;
    answers::with_content(&ctx.config.server_name, &row, file)
}

async fn delete(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let message_id = request.arg(0)?;
    voice::delete(&ctx.hub, &reader(&ctx), message_id).await?;
    Reply::json(&json!({ "deleted": true, "message_id": message_id }))
}

/// `?limit=` and `?from=`.
fn page(ctx: &Ctx) -> Outcome<(u32, Option<String>)> {
    let limit = match ctx.request.query_param("limit") {
        None => DEFAULT_PAGE,
        Some(text) => text
            .parse::<u32>()
            .map_err(|_| DomainError::invalid_param("`limit` is not a number"))?,
    };
    Ok((limit.clamp(1, MAX_PAGE), ctx.request.query_param("from")))
}

async fn of_user(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let user: OwnedUserId = request.parse(0)?;
    let (limit, from) = page(&ctx)?;
    let page = voice::list_of_user(ctx.hub.env(), &reader(&ctx), &user, from.as_deref(), limit).await?;
    Reply::json(&answers::page(&ctx.config.server_name, &page))
}

async fn of_room(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let room: OwnedRoomId = request.parse(0)?;
    let (limit, from) = page(&ctx)?;
    let page = voice::list_of_room(ctx.hub.env(), &reader(&ctx), &room, from.as_deref(), limit).await?;
    Reply::json(&answers::page(&ctx.config.server_name, &page))
}

async fn stats(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    totals(&ctx, request.parse(0)?).await
}

async fn own_stats(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    totals(&ctx, ctx.user()?.user_id.clone()).await
}

async fn totals(ctx: &Ctx, user: OwnedUserId) -> Outcome<Reply> {
    let totals = voice::totals(ctx.hub.env(), &reader(ctx), &user).await?;
    Reply::json(&json!({
        "user_id": user,
        "total_messages": totals.messages,
        "total_duration_ms": totals.duration_ms,
        "total_size_bytes": totals.size_bytes,
    }))
}

#[derive(Deserialize)]
struct ConvertBody {
    message_id: String,
    target_format: String,
    quality: Option<u32>,
    bitrate: Option<u32>,
    sample_rate: Option<u32>,
    channels: Option<u32>,
}

async fn convert(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let body: ConvertBody = request.json()?;
    let format = Format::parse(&body.target_format)
        .ok_or_else(|| DomainError::invalid_param("`target_format` is none of audio/ogg, audio/mpeg and audio/wav"))?;
    within("quality", body.quality, QUALITY)?;
    within("bitrate", body.bitrate, BITRATE)?;
    let wishes = ConvertWishes {
        format,
        bitrate: body.bitrate.or(body.quality.map(|kilobits| kilobits * 1_000)),
        sample_rate: body.sample_rate,
        channels: body.channels,
    };
    let user = ctx.user()?.user_id.clone();
    let made = voice::convert(&ctx.hub, user, reader(&ctx), &body.message_id, wishes).await?;
    let bitrate = body.bitrate.or(made.bitrate);
    let mut answer = answers::made(&ctx.config.server_name, &made.message, &made.before, &made.after);
    answer.extend([
        ("message_id".to_owned(), body.message_id.into()),
        ("target_format".to_owned(), body.target_format.into()),
        (
            "quality".to_owned(),
            body.quality.or(bitrate.map(|bits| bits / 1_000)).into(),
        ),
        ("bitrate".to_owned(), bitrate.into()),
        ("encoder_bitrate".to_owned(), made.bitrate.into()),
        ("converted_message_id".to_owned(), made.message.message_id.into()),
        ("original_size".to_owned(), made.size_before.into()),
    ]);
    Reply::json(&answer)
}

#[derive(Deserialize)]
struct OptimiseBody {
    message_id: String,
    target_size_kb: Option<u32>,
    #[serde(default)]
    preserve_quality: bool,
    #[serde(default)]
    remove_silence: bool,
    #[serde(default)]
    normalize_volume: bool,
}

async fn optimise(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let body: OptimiseBody = request.json()?;
    within("target_size_kb", body.target_size_kb, TARGET_SIZE_KB)?;
    let target_bytes = body.target_size_kb.map(|kib| u64::from(kib) * 1_024);
    let wishes = OptimiseWishes {
        target_bytes,
        preserve_quality: body.preserve_quality,
        remove_silence: body.remove_silence,
        normalize_volume: body.normalize_volume,
    };
    let user = ctx.user()?.user_id.clone();
    let made = voice::optimise(&ctx.hub, user, reader(&ctx), &body.message_id, wishes).await?;
    let reached = target_bytes.map(|bytes| u64::try_from(made.message.size_bytes).is_ok_and(|size| size <= bytes));
    let mut answer = answers::made(&ctx.config.server_name, &made.message, &made.before, &made.after);
    answer.extend([
        ("message_id".to_owned(), body.message_id.into()),
        ("target_size_kb".to_owned(), body.target_size_kb.into()),
        ("target_size_reached".to_owned(), reached.into()),
        ("changed".to_owned(), made.changed.into()),
        ("gain_db".to_owned(), answers::decibels(Some(made.gain_db))),
        ("encoder_bitrate".to_owned(), made.bitrate.into()),
        ("optimized_message_id".to_owned(), made.message.message_id.into()),
        ("original_size".to_owned(), made.size_before.into()),
    ]);
    Reply::json(&answer)
}

fn within(name: &str, value: Option<u32>, range: std::ops::RangeInclusive<u32>) -> Outcome<()> {
    if value.is_none_or(|value| range.contains(&value)) {
        return Ok(());
    }
    let (least, most) = (range.start(), range.end());
    Err(DomainError::invalid_param(format!(
        "`{name}` is between {least} and {most}"
    )))
}
