//! Device keys and one-time keys (client-server API, "End-to-end encryption").

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actors::error::{DomainError, Outcome};
use actors::flows::{claims, remote_devices};
use actors::hub::Hub;
use actors::session::keys::changes::changes;
use actors::session::keys::{Claimed, Upload};
use actors::stream::token::SyncToken;
use futures_util::StreamExt as _;
use http::Method;
use ruma::api::client::keys::{claim_keys, get_key_changes, get_keys};
use ruma::{OwnedDeviceId, OwnedUserId};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Users whose keys are claimed at the same time for one request.
const CLAIMS: usize = 16;

/// How long other servers are waited for if the client does not say, and at most.
const PATIENCE: Duration = Duration::from_secs(10);
const MAX_PATIENCE: Duration = Duration::from_secs(25);

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.raw(Method::POST, "/_matrix/client/v3/keys/upload", Policy::Guest, upload)
        .also("/_matrix/client/r0/keys/upload")
        .also("/_matrix/client/unstable/keys/upload")
        .also("/_matrix/client/v3/keys/upload/{device_id}")
        .also("/_matrix/client/r0/keys/upload/{device_id}")
        .also("/_matrix/client/unstable/keys/upload/{device_id}");
    t.guest(query_keys).also("/_matrix/client/unstable/keys/query");
    t.guest(claim)
        .also("/_matrix/client/unstable/keys/claim")
        .limit(Class::KeyClaim);
    let several = "/_matrix/client/unstable/org.matrix.msc3983/keys/claim";
    t.raw(Method::POST, several, Policy::User, claim_several)
        .limit(Class::KeyClaim);
    t.user(key_changes).also("/_matrix/client/unstable/keys/changes");
}

/// Keys by `algorithm:key_id`.
pub type Keys = BTreeMap<String, Box<RawValue>>;

#[derive(Deserialize)]
struct UploadBody {
    device_keys: Option<Box<RawValue>>,
    one_time_keys: Option<Keys>,
    #[serde(alias = "org.matrix.msc2732.fallback_keys")]
    fallback_keys: Option<Keys>,
}

async fn upload(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let identity = ctx.user()?;
    // Older clients name the device, which is that of their token.
    if request
        .args
        .first()
        .is_some_and(|device| *device != identity.device_id.as_str())
    {
        return Err(DomainError::forbidden("The keys of another device cannot be uploaded"));
    }
    let body: UploadBody = request.json()?;
    let upload = Upload {
        device_id: identity.device_id.clone(),
        device_keys: body.device_keys.filter(|keys| keys.get() != "{}"),
        one_time_keys: body.one_time_keys.unwrap_or_default(),
        fallback_keys: body.fallback_keys.unwrap_or_default(),
    };
    let counts = ctx.hub.sessions().upload_keys(&identity.user_id, upload).await?;
    Reply::json(&json!({ "one_time_key_counts": counts }))
}

fn patience(asked: Option<Duration>) -> Duration {
    asked.unwrap_or(PATIENCE).min(MAX_PATIENCE)
}

async fn query_keys(ctx: Ctx, request: get_keys::v3::Request) -> Outcome<Reply> {
    let patience = patience(request.timeout);
    let user = &ctx.user()?.user_id;
    let found = remote_devices::query(&ctx.hub, user, request.device_keys, patience).await?;
    Reply::json(&found)
}

async fn claim(ctx: Ctx, request: claim_keys::v3::Request) -> Outcome<Reply> {
    let (mut local, mut remote) = (BTreeMap::new(), BTreeMap::new());
    for (user, devices) in request.one_time_keys {
        let wanted = devices.into_iter().map(|(id, algorithm)| (id, algorithm.to_string()));
        let side = match ctx.hub.env().is_local(&user) {
            true => &mut local,
            false => &mut remote,
        };
        side.insert(user, wanted.collect());
    }
    let (local, (remote, failures)) = tokio::join!(
        claim_local(&ctx.hub, local),
        remote_devices::claim(&ctx.hub, remote, patience(request.timeout))
    );
    let mut keys = json!(local);
    for (user, claimed) in remote {
        keys[user.as_str()] = claimed;
    }
    Reply::json(&json!({ "one_time_keys": keys, "failures": failures }))
}

#[derive(Deserialize)]
struct SeveralBody {
    one_time_keys: claims::Several,
    /// Milliseconds.
    timeout: Option<u64>,
}

/// Several keys of a device at once, and its fallback key (MSC3983).
async fn claim_several(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let body: SeveralBody = request.json()?;
    let patience = patience(body.timeout.map(Duration::from_millis));
    let (keys, failures) = claims::anybodys(&ctx.hub, body.one_time_keys, patience).await;
    Reply::json(&json!({ "one_time_keys": keys, "failures": failures }))
}

/// Claims keys of local users: for each, devices and algorithms. Users without keys are left out.
pub(in crate::http) async fn claim_local(
    hub: &Arc<Hub>,
    wanted: BTreeMap<OwnedUserId, Vec<(OwnedDeviceId, String)>>,
) -> BTreeMap<OwnedUserId, Claimed> {
    let claims = wanted.into_iter().map(|(user, wanted)| {
        let hub = hub.clone();
        async move {
            let claimed = hub.sessions().claim_keys(&user, wanted).await;
            (user, claimed)
        }
    });
    let mut keys = BTreeMap::new();
    let mut claims = futures_util::stream::iter(claims).buffer_unordered(CLAIMS);
    while let Some((user, claimed)) = claims.next().await {
        match claimed {
            Ok(claimed) if claimed.is_empty() => {}
            Ok(claimed) => {
                keys.insert(user, claimed);
            }
            // What the others gave is gone already: it must reach the asker.
            Err(error) => tracing::debug!(%user, %error, "no keys claimed"),
        }
    }
    keys
}

async fn key_changes(ctx: Ctx, request: get_key_changes::v3::Request) -> Outcome<Reply> {
    let (from, to) = (SyncToken::parse(&request.from)?, SyncToken::parse(&request.to)?);
    let found = changes(ctx.hub.env(), &ctx.user()?.user_id, from.pos, to.pos).await?;
    Reply::json(&json!({ "changed": found.changed, "left": found.left }))
}
