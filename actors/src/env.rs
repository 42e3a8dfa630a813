//! Everything an actor needs besides its own state: built once, shared by all.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use entities::ids::StreamPos;
use entities::store::Store;
use federation::{KeyRing, Outbound, Tools, Wire};
use ruma::OwnedServerName;
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::cpu::Cpu;
use crate::error::{DomainError, Outcome};
use crate::failpoint::Failpoints;
use crate::flows::admin::tasks::Tasks;
use crate::flows::alias::Aliases;
use crate::flows::backfill::Backfills;
use crate::flows::delayed::Delayed;
use crate::flows::friends::Pairs;
use crate::flows::ingest::Ingests;
use crate::flows::profile::Spreading;
use crate::flows::remote::Entries;
use crate::flows::transaction::Gate;
use crate::flows::turns::Turns;
use crate::key::ServerKey;
use crate::mail::Mailer;
use crate::media::Filling;
use crate::media::preview::Previews;
use crate::media::remote::Fetches;
use crate::media::voice::Jobs;
use crate::policy::Policies;
use crate::presence::Presence;
use crate::rendezvous::Rendezvous;
use crate::rng::Rng;
use crate::room::cache::{Capacity, RoomCache};
use crate::room::export::Exports;
use crate::room::txns::Txns;
use crate::security::Security;
use crate::session::auth::{self, TokenCache};
use crate::session::data::filters::FilterCache;
use crate::session::inbox::Inboxes;
use crate::session::lease::Leases;
use crate::session::load::UserCache;
use crate::session::quota::Quota;
use crate::session::seen::LastSeen;
use crate::session::shared_secret::Nonces;
use crate::session::sync::lazy::LazyMembers;
use crate::session::sync::unread::UnreadCache;
use crate::session::uia::Uia;
use crate::session::view::UserView;
use crate::settings::Settings;
use crate::stream::feed::Feeds;
use crate::stream::ids::Ids;
use crate::stream::journal::{Journal, Start};

/// The environment of every actor, flow and handler.
pub struct Env {
    /// What the operator chose.
    pub settings: Settings,
    /// This server.
    pub server_name: OwnedServerName,
    /// This server's key.
    pub key: Arc<ServerKey>,
    /// The database.
    pub store: Store,
    /// The writer of the stream.
    pub journal: Journal,
    /// Internal numbers.
    pub ids: Ids,
    /// Counts the events of history that was fetched: they take the negative positions.
    pub history: Ids,
    /// Time.
    pub clock: Clock,
    /// When this process began, Unix milliseconds.
    pub started_ms: i64,
    /// Randomness.
    pub rng: Rng,
    /// CPU-bound work.
    pub cpu: Cpu,
    /// Requests to other servers; flows go through `Hub::peers`, which keeps count.
    pub wire: Wire,
    /// The keys of other servers, and this one's.
    pub keyring: KeyRing,
    /// Other requests that leave the server.
    pub outbound: Outbound,
    /// Sends mail, where the operator has told how.
    pub mail: Option<Mailer>,
    /// The shared runtime.
    pub io: Handle,
    /// Who is told what.
    pub feeds: Arc<Feeds>,
    /// See [`Env::creation_ms`].
    pub(crate) last_creation: AtomicI64,
    /// What readers share of rooms.
    pub rooms: Arc<RoomCache>,
    /// Which events transactions have made.
    pub txns: Txns,
    /// Large answers to other servers.
    pub exports: Exports,
    /// Which members each device was sent already.
    pub lazy: LazyMembers,
    /// Which messages devices were given.
    pub inboxes: Inboxes,
    /// Who is polling.
    pub leases: Leases,
    /// Unread counts.
    pub unread: UnreadCache,
    /// Views of local users; their session actors publish here.
    pub users: Arc<UserCache>,
    /// Known access tokens.
    pub tokens: Arc<TokenCache>,
    /// Notes when devices were last seen.
    pub seen: LastSeen,
    /// User-interactive authentications under way.
    pub uia: Uia,
    /// For registration by a shared secret.
    pub nonces: Nonces,
    /// How much users keep.
    pub quota: Quota,
    /// Where devices meet that sign each other in.
    pub rendezvous: Rendezvous,
    /// Stored filters.
    pub filters: FilterCache,
    /// Who is online.
    pub presence: Presence,
    /// Media that is being uploaded to a reserved address.
    pub filling: Filling,
    /// Web pages that users saw previews of.
    pub previews: Previews,
    /// Media of other servers that is being fetched.
    pub fetches: Fetches,
    /// Whose voice messages are being worked on.
    pub voice_jobs: Jobs,
    /// Where this process is to die, in tests.
    pub failpoints: Failpoints,
    /// Whose rooms are being told of a new profile.
    pub spreading: Spreading,
    /// Events that are sent later.
    pub delayed: Delayed,
    /// Which rooms are being upgraded.
    pub upgrading: Turns,
    /// Which friendships are being worked on.
    pub pairs: Pairs,
    /// Transactions of other servers that are under way.
    pub gate: Gate,
    /// Rooms whose history is being fetched.
    pub backfills: Backfills,
    /// Rooms whose staged events are worked on.
    pub ingests: Ingests,
    /// Where aliases of other servers lead.
    pub aliases: Aliases,
    /// Rooms of other servers that are being joined.
    pub entering: Entries,
    /// What rooms' policy servers said.
    pub policies: Policies,
    /// Blocked addresses, security events, and what administrators decide about users.
    pub security: Security,
    /// Work that administrators asked for.
    pub admin_tasks: Tasks,
}

/// What [`Env::open`] builds from.
pub struct Parts {
    /// See [`Env`].
    pub settings: Settings,
    /// See [`Env`].
    pub server_name: OwnedServerName,
    /// See [`Env`].
    pub key: ServerKey,
    /// A migrated database.
    pub store: Store,
    /// See [`Env`].
    pub clock: Clock,
    /// See [`Env`].
    pub rng: Rng,
    /// See [`Env`].
    pub io: Handle,
}

/// Takes the database over and goes on where the former process ended.
async fn start_journal(store: &Store, clock: &Clock, io: &Handle) -> Outcome<(Journal, Arc<Feeds>, Failpoints)> {
    let head = store.take_epoch().await?;
    let next = store.block_next("position").await?;
    let feeds = Arc::new(Feeds::new(StreamPos(next - 1)));
    let failpoints = Failpoints::from_environment();
    let start = Start {
        head,
        next,
        failpoints: failpoints.clone(),
    };
    let journal = Journal::start(io, Arc::new(store.clone()), feeds.clone(), clock.clone(), start);
    Ok((journal, feeds, failpoints))
}

fn tools(clock: &Clock, rng: &Rng, cpu: &Cpu) -> Tools {
    Tools {
        clock: clock.clone(),
        rng: rng.clone(),
        cpu: cpu.clone(),
    }
}

impl Env {
    /// Takes the database over from any former process and starts the journal.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn open(parts: Parts) -> Outcome<Arc<Self>> {
        let Parts {
            settings,
            server_name,
            key,
            store,
            clock,
            rng,
            io,
        } = parts;
        let (journal, feeds, failpoints) = start_journal(&store, &clock, &io).await?;
        let (ids, cpu) = (Ids::new(store.clone()), Cpu::new(io.clone(), cores()));
        let (key, tools) = (Arc::new(key), tools(&clock, &rng, &cpu));
        let (wire, keyring) = to_others(&settings, &server_name, &key, &store, &tools, &io);
        let (name, capacity) = (server_name.clone(), Capacity::of(&settings));
        let rooms = RoomCache::new(store.clone(), ids.clone(), cpu.clone(), name, capacity);
        Ok(Arc::new(Self {
            security: Security::open(&store, &ids, &clock, &io).await?,
            admin_tasks: Tasks::default(),
            started_ms: clock.now_ms(),
            rooms: Arc::new(rooms),
            txns: Txns::start(&io, store.clone()),
            exports: Exports::default(),
            last_creation: AtomicI64::new(0),
            lazy: LazyMembers::default(),
            inboxes: Inboxes::default(),
            leases: Leases::default(),
            unread: UnreadCache::default(),
            ids,
            history: Ids::of(store.clone(), "history"),
            cpu,
            users: Arc::new(users(&settings)),
            tokens: Arc::new(auth::new_cache()),
            seen: LastSeen::start(&io, store.clone()),
            uia: Uia::new(settings.uia_timeout_ms),
            nonces: Nonces::default(),
            quota: Quota::default(),
            rendezvous: Rendezvous::default(),
            filters: FilterCache::default(),
            presence: Presence::default(),
            filling: Filling::default(),
            fetches: Fetches::default(),
            voice_jobs: Jobs::default(),
            failpoints,
            spreading: Spreading::default(),
            delayed: Delayed::default(),
            previews: Previews::new(settings.outbound.clone(), &settings.preview_blocklist, tools.clone()),
            outbound: Outbound::new(settings.outbound.clone(), tools),
            wire,
            keyring,
            aliases: Aliases::default(),
            entering: Entries::default(),
            policies: Policies::default(),
            mail: mailer(&settings)?,
            key,
            upgrading: Turns::default(),
            pairs: Pairs::default(),
            gate: Gate::default(),
            backfills: Backfills::default(),
            ingests: Ingests::default(),
            settings,
            server_name,
            store,
            journal,
            clock,
            rng,
            io,
            feeds,
        }))
    }

    /// The newest position that readers may see. Sample it first, then read.
    #[must_use]
    pub fn visible(&self) -> StreamPos {
        self.feeds.visible()
    }

    /// The time of a room's creation, Unix milliseconds, never given twice: since room version 12 a room's id is the hash of
    /// its create event, and two rooms made alike in one millisecond would be one room.
    #[must_use]
    pub fn creation_ms(&self) -> i64 {
        let now = self.clock.now_ms();
        let last = self.last_creation.fetch_max(now, Ordering::AcqRel);
        if last < now {
            now
        } else {
            self.last_creation.fetch_add(1, Ordering::AcqRel) + 1
        }
    }

    /// Whether the user is one of this server's.
    #[must_use]
    pub fn is_local(&self, user: &ruma::UserId) -> bool {
        user.server_name() == self.server_name
    }
}

/// What talks to other servers, and knows their keys.
fn to_others(
    settings: &Settings,
    server_name: &OwnedServerName,
    key: &Arc<ServerKey>,
    store: &Store,
    tools: &Tools,
    io: &Handle,
) -> (Wire, KeyRing) {
    let wire = Wire::new(server_name.clone(), key.clone(), settings.wire.clone(), tools.clone());
    let (settings, store) = (settings.keyring.clone(), store.clone());
    let keyring = KeyRing::new(wire.clone(), key.clone(), settings, store, tools.clone(), io.clone());
    (wire, keyring)
}

fn mailer(settings: &Settings) -> Outcome<Option<Mailer>> {
    let mailer = settings.mail.clone().map(Mailer::new).transpose();
    mailer.map_err(|reason| DomainError::internal(format!("email.smtp_host: {reason}")))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

fn users(settings: &Settings) -> UserCache {
    UserCache::with_idle(settings.user_cache_bytes, settings.cache_idle(), UserView::weight)
}
