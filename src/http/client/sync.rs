//! `/sync` (client-server API, "Syncing") with its long poll.

use std::time::Duration;

use actors::error::{DomainError, Outcome};
use actors::session::inbox::acknowledge;
use actors::session::lease::Lease;
use actors::session::load::view;
use actors::session::sync::response::SyncResponse;
use actors::session::sync::{SyncArgs, compute};
use actors::stream::token::SyncToken;
use entities::ids::StreamPos;
use ruma::api::client::sync::sync_events::v3;
use ruma::{DeviceId, UserId};
use serde_json::{Value, json};

use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// The longest a request is held, whatever the client asks for.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// Registers the chapter.
pub fn routes(table: &mut Table) {
    table.guest::<v3::Request, _>(sync).long_poll();
}

async fn sync(ctx: Ctx, request: v3::Request) -> Outcome<Reply> {
    let identity = ctx.user()?;
    let env = ctx.hub.env();
    let (user, device) = (identity.user_id.clone(), identity.device_id.clone());
    let since = request.since.as_deref().map(SyncToken::parse).transpose()?;
    let since = since.map(|token| clamp(token, env.visible()));
    let filter = super::filter::resolve(env, &user, request.filter).await?;
    let args = SyncArgs {
        user: user.clone(),
        device: device.clone(),
        since: since.map(|token| token.pos),
        inbox_since: since.map_or(StreamPos(0), |token| token.inbox),
        filter,
        full_state: request.full_state,
        use_state_after: request.use_state_after,
    };
    if let Some(token) = since {
        acknowledge(env, &user, &device, token.inbox);
    }
    let _polling = super::presence::seen(&ctx.hub, &user, &request.set_presence);
    // Where there is nothing to wait for (a first sync, a full one), the answer comes at once.
    let timeout = if since.is_none() || request.full_state {
        None
    } else {
        request.timeout
    };
    wait(&ctx, &args, timeout.unwrap_or_default().min(MAX_TIMEOUT)).await
}

/// A token from the future belongs to a database that was restored from a backup.
fn clamp(token: SyncToken, visible: StreamPos) -> SyncToken {
    if token.pos > visible {
        tracing::warn!(token = token.pos.0, visible = visible.0, "sync token from the future");
    }
    SyncToken {
        pos: token.pos.min(visible),
        inbox: token.inbox.min(visible),
    }
}

async fn wait(ctx: &Ctx, args: &SyncArgs, timeout: Duration) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let feed = env.feeds.open(&args.user, env.clock.now_ms());
    let mut wake = feed.subscribe();
    let mut lease = env.leases.take(&args.user, &args.device);
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        wake.borrow_and_update();
        // First the position, then the view: it is at least as new.
        let upto = env.visible();
        let view = view(env, &args.user).await?;
        // Its end wakes a poll: whoever is logged out meanwhile gets nothing more.
        let view = view.filter(|view| view.has_session(&args.device));
        let view = view.ok_or_else(|| unknown(&args.user, &args.device))?;
        let response = compute(env, args, &view, &feed, upto).await?;
        let expired = tokio::time::Instant::now() >= deadline;
        if !response.is_empty() || expired || lease.is_over() || ctx.hub.is_draining() {
            return render(ctx, &response);
        }
        let Lease { ended, .. } = &mut lease;
        tokio::select! {
            _ = wake.changed() => {}
            _ = ended.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}

/// The API reference beside the specification leaves nothing out that is empty.
fn render(ctx: &Ctx, response: &SyncResponse) -> Outcome<Reply> {
    if !ctx.seed_profile() {
        return Reply::json(response);
    }
    let broken = |error: serde_json::Error| DomainError::internal(format!("an answer of /sync: {error}"));
    let mut answer = serde_json::to_value(response).map_err(broken)?;
    fill(
        &mut answer,
        &json!({
            "rooms": { "join": {}, "invite": {}, "leave": {} },
            "presence": { "events": [] },
            "account_data": { "events": [] },
            "to_device": { "events": [] },
            "device_lists": { "changed": [], "left": [] },
            "device_one_time_keys_count": {},
        }),
    );
    Reply::json(&answer)
}

/// Adds the members that an object lacks, two levels deep.
fn fill(answer: &mut Value, empty: &Value) {
    let (Some(answer), Some(empty)) = (answer.as_object_mut(), empty.as_object()) else {
        return;
    };
    for (name, value) in empty {
        match answer.get_mut(name) {
            Some(there) => fill(there, value),
            None => drop(answer.insert(name.clone(), value.clone())),
        }
    }
}

fn unknown(user: &UserId, device: &DeviceId) -> DomainError {
    DomainError::unknown_token(format!("{user} {device} is no more"))
}
