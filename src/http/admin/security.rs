//! Security events, blocked addresses, and what is known of an address.

use std::net::IpAddr;

use actors::error::{DomainError, Outcome};
use actors::security::{net_text, parse_net};
use entities::ip_block;
use entities::store::admin::security::AddressRecord;
use http::Method;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::params::{set_next, slice};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// How far back the reputation of an address reaches.
const MEMORY_MS: i64 = 30 * 24 * 60 * 60 * 1_000;
/// Characters of a reason.
const MAX_REASON: usize = 1_000;

/// Registers the endpoints.
pub fn routes(t: &mut Table) {
    let admin = Policy::Admin;
    t.raw(Method::GET, "/_synapse/admin/v1/security/events", admin, events);
    t.raw(Method::GET, "/_synapse/admin/v1/security/ip/blocks", admin, blocks);
    t.raw(Method::POST, "/_synapse/admin/v1/security/ip/block", admin, block);
    t.raw(Method::POST, "/_synapse/admin/v1/security/ip/unblock", admin, unblock);
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/security/ip/reputation/{ip}",
        admin,
        reputation,
    );
}

async fn events(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let param = |name| ctx.request.query_param(name).unwrap_or_default();
    let (kind, ip, user) = (param("type"), param("ip"), param("user_id"));
    let slice = slice(&ctx, true)?;
    let (rows, total) = ctx.hub.env().store.security_events(&kind, &ip, &user, slice).await?;
    let shown: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "id": row.id,
                "type": row.kind,
                "user_id": row.user_id,
                "timestamp": row.ts,
                "ip": row.ip,
                "ip_address": row.ip,
                "user_agent": row.user_agent,
            })
        })
        .collect();
    let mut answer = json!({ "events": shown, "total": total });
    set_next(&mut answer, slice, rows.len(), total);
    Reply::json(&answer)
}

fn shown(row: &ip_block::Model) -> Value {
    json!({
        "ip": row.net,
        "ip_address": row.net,
        "reason": row.reason,
        "blocked_at": row.blocked_ts,
        "blocked_by": row.blocked_by,
        "expires_at": row.expires_ts,
    })
}

async fn blocks(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let slice = slice(&ctx, false)?;
    let env = ctx.hub.env();
    let now = env.clock.now_ms();
    let mut rows = env.store.ip_blocks().await?;
    rows.retain(|row| row.expires_ts.is_none_or(|ts| ts > now));
    let total = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let page: Vec<Value> = rows
        .iter()
        .skip(usize::try_from(slice.from).unwrap_or(usize::MAX))
        .take(usize::try_from(slice.limit).unwrap_or(0))
        .map(shown)
        .collect();
    let mut answer = json!({ "blocks": page, "blocked_ips": page, "total": total });
    set_next(&mut answer, slice, page.len(), total);
    Reply::json(&answer)
}

#[derive(Deserialize)]
struct Wish {
    ip: Option<String>,
    ip_address: Option<String>,
    reason: Option<String>,
    expires_at: Option<i64>,
    /// Also where it shuts out whoever asks.
    #[serde(default)]
    force: bool,
}

impl Wish {
    fn net(&self) -> Outcome<IpNet> {
        let text = self.ip.as_deref().or(self.ip_address.as_deref());
        parse_net(text.ok_or_else(|| DomainError::missing_param("ip is missing"))?)
    }
}

async fn block(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let wish: Wish = request.json()?;
    let net = wish.net()?;
    let env = ctx.hub.env();
    if wish.expires_at.is_some_and(|ts| ts <= env.clock.now_ms()) {
        return Err(DomainError::invalid_param("expires_at must not be in the past"));
    }
    let warning = danger(&net, ctx.request.ip);
    if let Some(warning) = warning
        && !wish.force
    {
        let message = format!("{warning}; send \"force\": true if that is meant");
        return Err(DomainError::invalid_param(message));
    }
    let reason = wish.reason.map(|reason| reason.chars().take(MAX_REASON).collect());
    let row = ip_block::Model {
        net: net_text(&net),
        reason,
        blocked_ts: env.clock.now_ms(),
        blocked_by: ctx.user()?.user_id.to_string(),
        expires_ts: wish.expires_at,
    };
    env.security.block(&row).await?;
    tracing::warn!(net = row.net, by = row.blocked_by, "an address is blocked");
    let mut answer = json!({ "blocked": true, "success": true, "ip": row.net, "ip_address": row.net });
    if let Some(warning) = warning {
        answer["warning"] = warning.into();
    }
    Reply::json(&answer)
}

/// Whom a block would hit that is hardly meant.
fn danger(net: &IpNet, own: IpAddr) -> Option<&'static str> {
    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    if net.contains(&own) {
        return Some("this would shut out the address that you are asking from");
    }
    let local = loopback.iter().any(|ip| net.contains(ip)) || net.addr().is_loopback();
    local.then_some("this would shut out this machine itself, and whatever reaches the server through a proxy on it")
}

async fn unblock(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let wish: Wish = request.json()?;
    let net = net_text(&wish.net()?);
    let there = ctx.hub.env().security.unblock(&net).await?;
    tracing::warn!(net, by = %ctx.user()?.user_id, there, "the block of an address is lifted");
    let message = match there {
        true => "The address is not blocked any more",
        false => "The address was not blocked",
    };
    Reply::json(&json!({
        "unblocked": true,
        "success": true,
        "was_blocked": there,
        "ip": net,
        "ip_address": net,
        "message": message,
    }))
}

/// 100 for an address that nothing is known against, less for each failure of the last 30 days, 0 while it is blocked.
fn score(record: &AddressRecord, blocked: bool) -> i64 {
    if blocked {
        return 0;
    }
    let against = 5 * record.failed_logins + 2 * record.refused_tokens + 10 * record.refused_requests;
    // Who has logged in as well is rather somebody who mistypes.
    let good = record.login_attempts - record.failed_logins;
    (100 - against + 5 * good.min(record.failed_logins)).clamp(0, 100)
}

async fn reputation(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let text = request.arg(0)?;
    let ip: IpAddr = text
        .parse()
        .map_err(|_| DomainError::invalid_param(format!("{text:?} is no address")))?;
    let ip = ip.to_canonical();
    let env = ctx.hub.env();
    let since = env.clock.now_ms().saturating_sub(MEMORY_MS);
    let name = ip.to_string();
    let record = env.store.address_record(&name, since).await?;
    let seen = env.store.address_last_seen(&name).await?;
    let blocked = env.security.is_blocked(ip);
    Reply::json(&json!({
        "ip": name,
        "ip_address": name,
        "score": score(&record, blocked),
        "blocked": blocked,
        "last_seen": record.last_seen.max(seen),
        "login_attempts": record.login_attempts,
        "failed_logins": record.failed_logins,
        "refused_tokens": record.refused_tokens,
        "refused_requests": record.refused_requests,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_lower_the_score_and_success_mends_it() {
        let record = |login_attempts, failed_logins, refused_tokens| AddressRecord {
            login_attempts,
            failed_logins,
            refused_tokens,
            refused_requests: 0,
            last_seen: None,
        };
        assert_eq!(score(&record(0, 0, 0), false), 100);
        assert_eq!(score(&record(4, 0, 0), false), 100);
        assert_eq!(score(&record(5, 5, 0), false), 75);
        assert_eq!(score(&record(6, 5, 0), false), 80);
        assert_eq!(score(&record(500, 500, 9), false), 0);
        assert_eq!(score(&record(0, 0, 0), true), 0);
    }

    #[test]
    fn nobody_shuts_themselves_out_unasked() {
        let own: IpAddr = "192.0.2.7".parse().expect("an address");
        let danger = |net: &str| danger(&parse_net(net).expect("a network"), own).is_some();
        assert!(danger("192.0.2.7") && danger("192.0.2.0/24") && danger("0.0.0.0/0"));
        assert!(danger("127.0.0.1") && danger("127.0.0.0/8") && danger("::1") && danger("127.0.0.9"));
        assert!(!danger("192.0.2.8") && !danger("2001:db8::/32"));
    }
}
