//! Media: lists, quarantine, protection, deletion.

use std::collections::BTreeSet;
use std::time::Duration;

use actors::error::{DomainError, Outcome};
use actors::media as files;
use entities::media;
use entities::store::admin::media::MediaOrder;
use http::Method;
use ruma::{RoomId, ServerName};
use serde_json::{Value, json};

use super::params::{flag, local_id, local_user, number, room_id, set_next, slice};
use super::rooms::existing;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Rows looked at together.
const CHUNK: i64 = 500;
/// Media of one room that are told of.
const MAX_OF_ROOM: usize = 100_000;
/// How long a client may wait for the deletion of many.
const DELETION: Duration = Duration::from_secs(600);
/// What is less than this old, seen from 1970, is a time in seconds by mistake.
const EARLIEST_MS: i64 = 10_000_000_000;

/// Registers the endpoints.
pub fn routes(t: &mut Table) {
    let admin = Policy::Admin;
    let of_user = "/_synapse/admin/v1/users/{user_id}/media";
    t.raw(Method::GET, of_user, admin, list);
    t.raw(Method::DELETE, of_user, admin, delete_of_user).deadline(DELETION);
    t.raw(Method::GET, "/_synapse/admin/v1/room/{room_id}/media", admin, of_room);
    t.raw(Method::POST, "/_synapse/admin/v1/media/delete", admin, delete_old)
        .deadline(DELETION);
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/media/{server_name}/delete",
        admin,
        delete_old,
    )
    .deadline(DELETION);
    t.raw(Method::POST, "/_synapse/admin/v1/purge_media_cache", admin, purge_cache)
        .deadline(DELETION);
    let one = "/_synapse/admin/v1/media/{server_name}/{media_id}";
    t.raw(Method::GET, one, admin, get);
    t.raw(Method::DELETE, one, admin, delete);
    quarantine_routes(t);
}

fn quarantine_routes(t: &mut Table) {
    let admin = Policy::Admin;
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/media/protect/{media_id}",
        admin,
        protect,
    );
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/media/unprotect/{media_id}",
        admin,
        unprotect,
    );
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/media/quarantine/{server_name}/{media_id}",
        admin,
        quarantine,
    );
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/media/unquarantine/{server_name}/{media_id}",
        admin,
        release,
    );
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/room/{room_id}/media/quarantine",
        admin,
        quarantine_room,
    )
    .also("/_synapse/admin/v1/quarantine_media/{room_id}")
    .deadline(DELETION);
    t.raw(
        Method::POST,
        "/_synapse/admin/v1/user/{user_id}/media/quarantine",
        admin,
        quarantine_user,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/media/quarantine_changes",
        admin,
        changes,
    );
}

async fn shown(ctx: &Ctx, row: &media::Model) -> Outcome<Value> {
    let safe = ctx.hub.env().store.is_protected(&row.media_id).await?;
    Ok(json!({
        "media_origin": row.origin,
        "user_id": row.user_id,
        "media_id": row.media_id,
        "media_type": row.content_type,
        "media_length": row.size_bytes,
        "upload_name": row.upload_name,
        "created_ts": row.created_ts,
        "last_access_ts": row.last_access_ts,
        "quarantined_by": row.quarantined_by,
        "safe_from_quarantine": safe,
        "sha256": row.sha256.as_ref().map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }))
}

async fn user_media(
    ctx: &Ctx,
    request: &RawRequest,
) -> Outcome<(Vec<media::Model>, i64, entities::store::admin::Slice)> {
    let (user, _) = local_user(ctx, request, 0).await?;
    let order = match ctx.request.query_param("order_by").as_deref() {
        None | Some("created_ts") => MediaOrder::Created,
        Some("media_id") => MediaOrder::Id,
        Some("upload_name") => MediaOrder::UploadName,
        Some("last_access_ts") => MediaOrder::LastAccess,
        Some("media_length") => MediaOrder::Length,
        Some("media_type") => MediaOrder::Type,
        Some("quarantined_by") => MediaOrder::Quarantined,
        Some("safe_from_quarantine") => MediaOrder::Safe,
        Some(_) => return Err(DomainError::invalid_param("unknown order_by")),
    };
    // The newest first where nothing is said.
    let slice = slice(ctx, ctx.request.query_param("order_by").is_none())?;
    let (rows, total) = ctx.hub.env().store.media_of_user(user.as_str(), order, slice).await?;
    Ok((rows, total, slice))
}

async fn list(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (rows, total, slice) = user_media(&ctx, &request).await?;
    let mut shown_rows = Vec::with_capacity(rows.len());
    for row in &rows {
        shown_rows.push(shown(&ctx, row).await?);
    }
    let mut answer = json!({ "media": shown_rows, "total": total });
    set_next(&mut answer, slice, rows.len(), total);
    Reply::json(&answer)
}

async fn delete_of_user(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (rows, ..) = user_media(&ctx, &request).await?;
    deleted(&ctx, &rows).await
}

async fn deleted(ctx: &Ctx, rows: &[media::Model]) -> Outcome<Reply> {
    for row in rows {
        files::delete(ctx.hub.env(), row).await?;
    }
    let ids: Vec<&str> = rows.iter().map(|row| row.media_id.as_str()).collect();
    Reply::json(&json!({ "deleted_media": ids, "total": ids.len() }))
}

/// `(origin, id)` of every `mxc://` address in a text.
fn addresses(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split("mxc://").skip(1).filter_map(|rest| {
        let end = rest
            .find(['"', '\\', ' ', '<', '>', '?', '#', ')'])
            .unwrap_or(rest.len());
        let (origin, id) = rest.get(..end)?.split_once('/')?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let fits = ServerName::parse(origin).is_ok() && !id.is_empty() && id.bytes().all(plain);
        fits.then(|| (origin.to_owned(), id.to_owned()))
    })
}

/// The media that a room's events mention; those of encrypted messages nobody here can see.
async fn mentioned(ctx: &Ctx, room_id: &RoomId) -> Outcome<BTreeSet<(String, String)>> {
    let room = existing(ctx, room_id).await?;
    let (mut found, mut below) = (BTreeSet::new(), i64::MAX);
    loop {
        let page = ctx.hub.env().store.texts_with_media(room.nid.0, below, CHUNK).await?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        below = *last;
        for (_, text) in &page {
            found.extend(addresses(text));
        }
        if found.len() >= MAX_OF_ROOM {
            return Ok(found);
        }
    }
}

async fn of_room(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let found = mentioned(&ctx, &room_id(&request, 0)?).await?;
    let own = &ctx.hub.env().server_name;
    let (local, remote): (Vec<_>, Vec<_>) = found.iter().partition(|(origin, _)| origin == own.as_str());
    let uris = |media: Vec<&(String, String)>| -> Vec<String> {
        let uri = |(origin, id): &(String, String)| format!("mxc://{origin}/{id}");
        media.into_iter().map(uri).collect()
    };
    Reply::json(&json!({ "local": uris(local), "remote": uris(remote) }))
}

fn unknown() -> DomainError {
    DomainError::not_found("Unknown media")
}

async fn get(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let row = ctx.hub.env().store.media(request.arg(0)?, request.arg(1)?).await?;
    Reply::json(&json!({ "media_info": shown(&ctx, &row.ok_or_else(unknown)?).await? }))
}

/// Local media; what other servers have cannot be deleted here.
async fn delete(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let (origin, id) = (request.arg(0)?, request.arg(1)?);
    if origin != env.server_name.as_str() {
        return Err(DomainError::invalid_param("Only media of this server can be deleted"));
    }
    let row = env.store.media(origin, id).await?.ok_or_else(unknown)?;
    deleted(&ctx, &[row]).await
}

/// A time of the query that is needed and plausible, Unix milliseconds.
fn before(ctx: &Ctx) -> Outcome<i64> {
    if ctx.request.query_param("before_ts").is_none() {
        return Err(DomainError::missing_param("before_ts is missing"));
    }
    match number(ctx, "before_ts", 0)? {
        ts if ts < EARLIEST_MS => Err(DomainError::invalid_param(
            "before_ts is a time in milliseconds, and lies in 1970",
        )),
        ts => Ok(ts),
    }
}

async fn delete_old(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let own = env.server_name.as_str();
    if request.arg(0).is_ok_and(|server| server != own) {
        return Err(DomainError::invalid_param("Only media of this server can be deleted"));
    }
    let (before, above) = (before(&ctx)?, number(&ctx, "size_gt", 0)?);
    let keep_profiles = flag(&ctx, "keep_profiles")?.unwrap_or(true);
    let mut gone = Vec::new();
    loop {
        let rows = env
            .store
            .old_local_media(own, before, above, keep_profiles, CHUNK)
            .await?;
        if rows.is_empty() {
            return Reply::json(&json!({ "deleted_media": gone, "total": gone.len() }));
        }
        for row in rows {
            files::delete(env, &row).await?;
            gone.push(row.media_id);
        }
    }
}

async fn purge_cache(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let (env, before) = (ctx.hub.env(), before(&ctx)?);
    let mut gone = 0_usize;
    loop {
        let rows = env
            .store
            .old_remote_media(env.server_name.as_str(), before, CHUNK)
            .await?;
        if rows.is_empty() {
            return Reply::json(&json!({ "deleted": gone }));
        }
        for row in rows {
            files::delete(env, &row).await?;
            gone += 1;
        }
    }
}

async fn protect(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    ctx.hub.env().store.protect_media(request.arg(0)?, true).await?;
    Ok(Reply::empty())
}

async fn unprotect(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    ctx.hub.env().store.protect_media(request.arg(0)?, false).await?;
    Ok(Reply::empty())
}

/// Takes media into quarantine, or out of it. Answers how many changed.
async fn move_media(ctx: &Ctx, media: &[(String, String)], into: bool) -> Outcome<u64> {
    let (env, admin) = (ctx.hub.env(), ctx.user()?.user_id.as_str());
    let mut changed = 0;
    for chunk in media.chunks(100) {
        let id = env.ids.take(chunk.len()).await?;
        let by = into.then_some(admin);
        changed += env.store.quarantine(chunk, by, admin, id, env.clock.now_ms()).await?;
    }
    Ok(changed)
}

async fn one(ctx: &Ctx, request: &RawRequest, into: bool) -> Outcome<Reply> {
    let media = (request.arg(0)?.to_owned(), request.arg(1)?.to_owned());
    move_media(ctx, &[media], into).await?;
    Ok(Reply::empty())
}

async fn quarantine(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    one(&ctx, &request, true).await
}

async fn release(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    one(&ctx, &request, false).await
}

async fn quarantine_room(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let media: Vec<_> = mentioned(&ctx, &room_id(&request, 0)?).await?.into_iter().collect();
    let changed = move_media(&ctx, &media, true).await?;
    Reply::json(&json!({ "num_quarantined": changed }))
}

async fn quarantine_user(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let user = local_id(&ctx, &request, 0)?;
    let env = ctx.hub.env();
    let own = env.server_name.to_string();
    let ids = env.store.media_ids_of_user(user.as_str()).await?;
    let media: Vec<_> = ids.into_iter().map(|id| (own.clone(), id)).collect();
    let changed = move_media(&ctx, &media, true).await?;
    Reply::json(&json!({ "num_quarantined": changed }))
}

async fn changes(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let (from, slice) = (number(&ctx, "from", 0)?, slice(&ctx, false)?);
    let rows = ctx.hub.env().store.quarantine_changes(from, slice.limit).await?;
    let next = rows.last().map(|row| row.id);
    let shown = rows.iter().map(|row| {
        json!({
            "id": row.id,
            "origin": row.origin,
            "media_id": row.media_id,
            "quarantined": row.quarantined,
            "changed_by": row.changed_by,
            "ts": row.ts,
        })
    });
    let mut answer = json!({ "changes": shown.collect::<Vec<_>>() });
    if let Some(next) = next {
        answer["next_batch"] = next.into();
    }
    Reply::json(&answer)
}

#[cfg(test)]
mod tests {
    use super::addresses;

    #[test]
    fn addresses_are_found_in_json() {
        let text = r#"{"url":"mxc://a.example/abc","info":{"thumbnail_url":"mxc://b.example:8448/d-E_"},
            "body":"see mxc://c.example/x\n and mxc://no/../slash mxc://c.example/"}"#;
        let found: Vec<String> = addresses(text).map(|(origin, id)| format!("{origin}/{id}")).collect();
        assert_eq!(found, ["a.example/abc", "b.example:8448/d-E_", "c.example/x"]);
    }
}
