//! Where calls of several people meet (MSC4143), as clients are told.

use actors::error::Outcome;
use http::Method;
use serde_json::{Value, json};

use crate::config::Rtc;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    const PATH: &str = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports";
    t.raw(Method::GET, PATH, Policy::Guest, transports).limit(Class::Voip);
}

async fn transports(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    Reply::json(&json!({ "rtc_transports": foci(&ctx.config.rtc) }))
}

/// The transports, the preferred one first (MSC4195).
pub fn foci(rtc: &Rtc) -> Vec<Value> {
    rtc.livekit_service_urls
        .iter()
        .map(|url| json!({ "type": "livekit", "livekit_service_url": url.as_str() }))
        .collect()
}
