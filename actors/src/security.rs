//! Who is kept out and what was refused: blocked addresses, security events, and what administrators decide about users.
//! Looking something up takes no database; what is noted is written in the background.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use dashmap::DashMap;
use entities::store::Store;
use entities::{ip_block, security_event, user_override};
use ipnet::IpNet;
use moka::sync::Cache;
use ruma::{OwnedUserId, UserId};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::clock::{Clock, Millis};
use crate::error::{DomainError, Outcome};
use crate::stream::ids::Ids;

/// Events that may wait to be written; more are dropped.
const WAITING: usize = 1_024;
/// Events written together.
const BATCH: usize = 200;
/// How long events are gathered for one statement.
const GATHER: Duration = Duration::from_millis(200);
/// Events that are kept.
const KEPT: i64 = 50_000;
/// Refusals of one kind at one address are noted once in this time: who is refused may come often.
const QUIET: Duration = Duration::from_secs(10);
/// Addresses whose last refusal is remembered.
const REMEMBERED: u64 = 10_000;
/// Addresses and networks that can be blocked.
pub const MAX_BLOCKS: usize = 100_000;
/// Networks that can be blocked: each is compared with every address.
pub const MAX_NETWORKS: usize = 2_000;
/// Longer user agents are cut.
const MAX_AGENT: usize = 256;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Incident {
    /// Wrong credentials.
    LoginFailed,
    /// A log-in that went well.
    LoginSucceeded,
    /// A token that is none.
    TokenRefused,
    /// A request from a blocked address.
    AddressRefused,
}

impl Incident {
    fn name(self) -> &'static str {
        match self {
            Self::LoginFailed => "login_failed",
            Self::LoginSucceeded => "login_succeeded",
            Self::TokenRefused => "token_refused",
            Self::AddressRefused => "address_refused",
        }
    }
}

struct Noted {
    incident: Incident,
    user_id: Option<String>,
    ip: IpAddr,
    user_agent: Option<String>,
    ts: Millis,
}

/// Blocked addresses and networks, with when that ends (Unix milliseconds).
#[derive(Default)]
struct Blocks {
    hosts: HashMap<IpAddr, Millis>,
    networks: Vec<(IpNet, Millis)>,
}

impl Blocks {
    fn of(rows: &[ip_block::Model]) -> Self {
        let mut blocks = Self::default();
        for row in rows {
            let until = row.expires_ts.unwrap_or(Millis::MAX);
            match parse_net(&row.net) {
                Ok(net) if net.prefix_len() == net.max_prefix_len() => drop(blocks.hosts.insert(net.addr(), until)),
                Ok(net) => blocks.networks.push((net, until)),
                Err(_) => tracing::warn!(net = row.net, "a blocked network cannot be read"),
            }
        }
        blocks
    }

    fn hold(&self, ip: IpAddr, now: Millis) -> bool {
        self.hosts.get(&ip).is_some_and(|until| *until > now)
            || self
                .networks
                .iter()
                .any(|(net, until)| *until > now && net.contains(&ip))
    }
}

/// An address or network as text. IPv4 addresses in the form of IPv6 ones count as what they are.
///
/// # Errors
/// `M_INVALID_PARAM`.
pub fn parse_net(text: &str) -> Outcome<IpNet> {
    let bad = || DomainError::invalid_param("ip must be an address or a network, like 192.0.2.1 or 192.0.2.0/24");
    let text = text.trim();
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(IpNet::from(ip.to_canonical())),
        Err(_) => text.parse::<IpNet>().map(|net| net.trunc()).map_err(|_| bad()),
    }
}

/// How a network is written: an address of its own without a prefix.
#[must_use]
pub fn net_text(net: &IpNet) -> String {
    match net.prefix_len() == net.max_prefix_len() {
        true => net.addr().to_string(),
        false => net.to_string(),
    }
}

/// See the module.
pub struct Security {
    store: Store,
    clock: Clock,
    blocks: RwLock<Arc<Blocks>>,
    overrides: DashMap<OwnedUserId, user_override::Model>,
    lately: Cache<(Incident, IpAddr), ()>,
    queue: mpsc::Sender<Noted>,
}

impl Security {
    /// Reads what is stored and starts the writer on `io`; it ends with the last handle.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn open(store: &Store, ids: &Ids, clock: &Clock, io: &Handle) -> Outcome<Self> {
        let (queue, notes) = mpsc::channel(WAITING);
        let security = Self {
            store: store.clone(),
            clock: clock.clone(),
            blocks: RwLock::default(),
            overrides: DashMap::new(),
            lately: Cache::builder().max_capacity(REMEMBERED).time_to_live(QUIET).build(),
            queue,
        };
        security.read_blocks().await?;
        for row in store.user_overrides().await? {
            if let Ok(user) = UserId::parse(&row.user_id) {
                security.overrides.insert(user, row);
            }
        }
        io.spawn(write(store.clone(), ids.clone(), notes));
        Ok(security)
    }

    /// Notes what happened. Cheap; never waits.
    pub fn note(&self, incident: Incident, user: Option<&str>, ip: IpAddr, user_agent: Option<&str>) {
        metrics::counter!("security_incidents_total", "kind" => incident.name()).increment(1);
        let refusal = matches!(incident, Incident::TokenRefused | Incident::AddressRefused);
        if refusal && self.lately.contains_key(&(incident, ip)) {
            return;
        }
        let plain = |text: &str, most: usize| text.chars().filter(|c| *c != '\0').take(most).collect::<String>();
        let noted = Noted {
            incident,
            user_id: user.map(|user| plain(user, 255)),
            ip,
            user_agent: user_agent.map(|agent| plain(agent, MAX_AGENT)),
            ts: self.clock.now_ms(),
        };
        if self.queue.try_send(noted).is_ok() && refusal {
            self.lately.insert((incident, ip), ());
        }
    }

    /// Whether an address is blocked.
    #[must_use]
    pub fn is_blocked(&self, ip: IpAddr) -> bool {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner).clone();
        blocks.hold(ip, self.clock.now_ms())
    }

    async fn read_blocks(&self) -> Outcome<()> {
        let blocks = Arc::new(Blocks::of(&self.store.ip_blocks().await?));
        *self.blocks.write().unwrap_or_else(PoisonError::into_inner) = blocks;
        Ok(())
    }

    /// Blocks an address or network.
    ///
    /// # Errors
    /// `M_RESOURCE_LIMIT_EXCEEDED` when too many are.
    pub async fn block(&self, row: &ip_block::Model) -> Outcome<()> {
        let (hosts, networks) = {
            let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
            (blocks.hosts.len(), blocks.networks.len())
        };
        if hosts + networks >= MAX_BLOCKS || (row.net.contains('/') && networks >= MAX_NETWORKS) {
            let message = "too many addresses are blocked already";
            return Err(DomainError::matrix(403, "M_RESOURCE_LIMIT_EXCEEDED", message));
        }
        self.store.set_ip_block(row).await?;
        self.read_blocks().await
    }

    /// Lifts the block of an address or network; false if there was none.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn unblock(&self, net: &str) -> Outcome<bool> {
        let there = self.store.delete_ip_block(net).await?;
        self.read_blocks().await?;
        Ok(there)
    }

    /// What administrators have decided about a user, if anything.
    #[must_use]
    pub fn override_of(&self, user: &UserId) -> Option<user_override::Model> {
        self.overrides.get(user).map(|row| row.clone())
    }

    /// Keeps a decision about a user.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn decide(&self, user: &UserId, change: impl FnOnce(&mut user_override::Model)) -> Outcome<()> {
        let mut row = self.override_of(user).unwrap_or_else(|| user_override::Model {
            user_id: user.to_string(),
            messages_per_second: None,
            burst_count: None,
            shadow_banned: false,
            cross_signing_until: 0,
            user_type: None,
        });
        change(&mut row);
        self.store.set_user_override(&row).await?;
        self.overrides.insert(user.to_owned(), row);
        Ok(())
    }

    /// Whether what the user sends is acknowledged and dropped.
    #[must_use]
    pub fn is_shadow_banned(&self, user: &UserId) -> bool {
        self.overrides.get(user).is_some_and(|row| row.shadow_banned)
    }

    /// Whether the user may replace cross-signing keys without proving the password.
    #[must_use]
    pub fn may_replace_cross_signing(&self, user: &UserId) -> bool {
        let now = self.clock.now_ms();
        self.overrides
            .get(user)
            .is_some_and(|row| row.cross_signing_until > now)
    }

    /// The user's own rate limit, `(per second, burst)`; 0 for none.
    #[must_use]
    pub fn rate_limit(&self, user: &UserId) -> Option<(i64, i64)> {
        let row = self.overrides.get(user)?;
        Some((row.messages_per_second?, row.burst_count?))
    }
}

async fn write(store: Store, ids: Ids, mut notes: mpsc::Receiver<Noted>) {
    while let Some(first) = notes.recv().await {
        tokio::time::sleep(GATHER).await;
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(note) = notes.try_recv()
        {
            batch.push(note);
        }
        if let Err(error) = keep(&store, &ids, &batch).await {
            tracing::warn!(%error, events = batch.len(), "security events are not written");
        }
    }
}

async fn keep(store: &Store, ids: &Ids, batch: &[Noted]) -> Outcome<()> {
    let first = ids.take(batch.len()).await?;
    let rows: Vec<security_event::Model> = batch
        .iter()
        .zip(first..)
        .map(|(noted, id)| security_event::Model {
            id,
            kind: noted.incident.name().to_owned(),
            user_id: noted.user_id.clone(),
            ip: noted.ip.to_string(),
            user_agent: noted.user_agent.clone(),
            ts: noted.ts,
        })
        .collect();
    Ok(store.note_security_events(&rows, KEPT).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(net: &str, expires_ts: Option<Millis>) -> ip_block::Model {
        ip_block::Model {
            net: net.to_owned(),
            reason: None,
            blocked_ts: 0,
            blocked_by: "@admin:hs".to_owned(),
            expires_ts,
        }
    }

    #[test]
    fn addresses_and_networks_of_both_families_are_blocked() {
        let blocks = Blocks::of(&[
            row("192.0.2.7", None),
            row("198.51.100.0/24", Some(10)),
            row("2001:db8::/32", None),
        ]);
        let held = |ip: &str, now| blocks.hold(ip.parse().expect("an address"), now);
        assert!(held("192.0.2.7", 0) && !held("192.0.2.8", 0));
        assert!(held("198.51.100.9", 9) && !held("198.51.100.9", 10), "it ends");
        assert!(held("2001:db8:1::1", 0) && !held("2001:db9::1", 0));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "example.org", "1.2.3", "1.2.3.4/33", "::/129", "1.2.3.4:80"] {
            assert!(parse_net(text).is_err(), "{text}");
        }
        let written = |text| net_text(&parse_net(text).expect("a network"));
        assert_eq!(written("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(written("192.0.2.77/24"), "192.0.2.0/24");
        assert_eq!(written("2001:DB8::1/128"), "2001:db8::1");
    }
}
