//! From committed facts to servers: one task for all of them.
//!
//! It follows the journal, gives every event of ours to the servers that must get it, and writes once a second what is not
//! in memory only: how it goes with servers, what they are owed, and the cursor. Every event of ours at or below the cursor
//! was sent or is noted as owed; those above it are read again after a crash. A fact that concerns a thousand servers costs
//! no statement of its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use entities::error::StoreError;
use entities::store::peer::Settlement;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{mpsc, oneshot};

use super::entitled::{Entitled, target};
use super::ephemeral::Ephemeral;
use super::handle::Shared;
use super::outbox::{Changes, Queued};
use super::sender;
use crate::clock::Millis;
use crate::env::Env;
use crate::error::Outcome;
use crate::room::event::StoredEvent;
use crate::room::snapshot::RoomSnapshot;
use crate::stream::fact::{Fact, FactKind};

/// How often changes are written and servers whose pause is over are tried.
const TICK: Duration = Duration::from_secs(1);
/// How often memory is swept, in ticks.
const SWEEP_EVERY: u64 = 10;
/// The cursor follows facts that concern no server once in so many ticks.
const IDLE_EVERY: u64 = 60;
/// How long to wait where the database does not answer.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// Events read at once.
const PAGE: u32 = 500;
/// Servers looked up at once.
const SERVERS: usize = 1_000;
/// Orders that wait.
const ORDERS: usize = 16;

/// What the task can be told to do out of turn; it answers when that is done.
pub(super) enum Order {
    /// Look at everything that was committed until now.
    Look(oneshot::Sender<()>),
    /// Write what is not written yet.
    Write(oneshot::Sender<()>),
}

/// An event and the servers that must get it.
type Addressed = (Arc<StoredEvent>, Arc<[OwnedServerName]>);

/// Starts the task; it ends with what it looks after. `idle`: servers that nobody has to do with leave the memory.
pub(super) fn start(shared: &Arc<Shared>, idle: Duration) -> mpsc::Sender<Order> {
    let (orders, queue) = mpsc::channel(ORDERS);
    let outbound = Outbound {
        facts: shared.env.journal.subscribe(),
        idle: Millis::try_from(idle.as_millis()).unwrap_or(Millis::MAX),
        cursor: 0,
        consumed: 0,
        concerned: false,
        ticks: 0,
        ephemeral: Ephemeral::default(),
    };
    shared.env.io.spawn(run(outbound, Arc::downgrade(shared), queue));
    orders
}

struct Outbound {
    facts: Receiver<Arc<[Fact]>>,
    idle: Millis,
    /// As written.
    cursor: i64,
    /// Up to here every fact was looked at.
    consumed: i64,
    /// Whether any of them concerned a server since the cursor was written.
    concerned: bool,
    ticks: u64,
    ephemeral: Ephemeral,
}

async fn run(mut outbound: Outbound, weak: Weak<Shared>, mut orders: mpsc::Receiver<Order>) {
    if let Some(shared) = weak.upgrade() {
        outbound.resume(&shared).await;
    }
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            batch = outbound.facts.recv() => Event::Facts(batch),
            Some(order) = orders.recv() => Event::Order(order),
            _ = tick.tick() => Event::Tick,
        };
        let Some(shared) = weak.upgrade() else { return };
        match event {
            Event::Facts(Ok(batch)) => outbound.take(&shared, &batch).await,
            Event::Facts(Err(RecvError::Lagged(_))) => outbound.reread(&shared).await,
            Event::Facts(Err(RecvError::Closed)) => return,
            Event::Tick => outbound.tick(&shared).await,
            Event::Order(Order::Look(done)) => {
                outbound.look(&shared).await;
                // Whoever ordered it may be gone.
                let _ = done.send(());
            }
            Event::Order(Order::Write(done)) => {
                outbound.look(&shared).await;
                outbound.concerned = true;
                outbound.write(&shared).await;
                // As above.
                let _ = done.send(());
            }
        }
    }
}

enum Event {
    Facts(Result<Arc<[Fact]>, RecvError>),
    Order(Order),
    Tick,
}

impl Outbound {
    /// Where the last process ended: events above the cursor, and servers for which something waits.
    async fn resume(&mut self, shared: &Arc<Shared>) {
        self.cursor = loop {
            match shared.env.store.outbound_cursor().await {
                // The schema begins with one; without it, everything is looked at again rather than anything lost.
                Ok(cursor) => break cursor.unwrap_or(0),
                Err(error) => pause(&error).await,
            }
        };
        self.consumed = self.cursor;
        self.concerned = true;
        self.reread(shared).await;
    }

    /// Facts were missed, or there were none yet: what they would have told is read from the database.
    async fn reread(&mut self, shared: &Arc<Shared>) {
        self.reread_events(shared).await;
        let waiting = loop {
            match shared.env.store.servers_waiting().await {
                Ok(servers) => break servers,
                Err(error) => pause(&error).await,
            }
        };
        let waiting: Vec<OwnedServerName> = waiting
            .iter()
            .filter_map(|name| name.as_str().try_into().ok())
            .collect();
        for servers in waiting.chunks(SERVERS) {
            while let Err(error) = shared.views.open(&shared.env, servers).await {
                pause(&error).await;
            }
            servers.iter().for_each(|server| shared.wake(server));
        }
    }

    /// Takes what was committed.
    async fn take(&mut self, shared: &Arc<Shared>, batch: &[Fact]) {
        let mut events: Vec<Addressed> = Vec::new();
        for fact in batch {
            match &fact.kind {
                FactKind::Event { event, servers, .. } if fact.pos.0 > self.consumed && !servers.is_empty() => {
                    events.push((event.clone(), servers.clone()));
                }
                FactKind::Outbound { servers } => servers.iter().for_each(|server| shared.wake(server)),
                _ => {}
            }
        }
        self.give(shared, events).await;
        let newest = batch.iter().map(|fact| fact.pos.0).max();
        self.consumed = self.consumed.max(newest.unwrap_or(0));
        for fact in batch {
            self.ephemeral.take(shared, &fact.kind).await;
        }
    }

    /// Takes what has been committed in the meantime.
    async fn look(&mut self, shared: &Arc<Shared>) {
        loop {
            match self.facts.try_recv() {
                Ok(batch) => self.take(shared, &batch).await,
                Err(TryRecvError::Lagged(_)) => self.reread(shared).await,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    async fn reread_events(&mut self, shared: &Arc<Shared>) {
        let upto = shared.env.visible().0;
        while self.consumed < upto {
            match addressed(&shared.env, self.consumed, upto).await {
                Ok((events, consumed)) => {
                    self.give(shared, events).await;
                    self.consumed = consumed;
                }
                Err(error) => pause(&error).await,
            }
        }
    }

    /// Gives events to servers.
    async fn give(&mut self, shared: &Arc<Shared>, events: Vec<Addressed>) {
        let own = &shared.env.server_name;
        let all: BTreeSet<&OwnedServerName> = events.iter().flat_map(|(_, servers)| servers.iter()).collect();
        let servers: Vec<&ServerName> = all
            .into_iter()
            .filter(|name| *name != own)
            .map(|name| &**name)
            .collect();
        if servers.is_empty() {
            return;
        }
        self.concerned = true;
        let views = loop {
            match shared.views.open(&shared.env, &servers).await {
                Ok(views) => break views,
                Err(error) => pause(&error).await,
            }
        };
        let views: HashMap<&ServerName, _> = servers.into_iter().zip(views).collect();
        let now = shared.now();
        for (event, servers) in &events {
            for view in servers.iter().filter_map(|server| views.get(&**server)) {
                let queued = Queued {
                    pos: event.pos.map_or(0, |pos| pos.0),
                    room: event.room_nid,
                    json: event.pdu.json.clone(),
                };
                view.push(queued, now);
            }
        }
        views.values().for_each(|view| sender::kick(shared, view));
    }

    async fn tick(&mut self, shared: &Arc<Shared>) {
        self.ticks += 1;
        self.ephemeral.tick(shared).await;
        self.write(shared).await;
        for view in shared.views.all() {
            sender::kick(shared, &view);
        }
        if self.ticks.is_multiple_of(SWEEP_EVERY) {
            shared.views.sweep(shared.now().saturating_sub(self.idle));
        }
    }

    /// Writes what is not written yet.
    async fn write(&mut self, shared: &Shared) {
        let mut settlement = Settlement::default();
        let (mut changes, mut lowest) = (Changes::default(), None);
        for view in shared.views.all() {
            let waits = view.take_changes(&mut settlement.destinations, &mut changes);
            lowest = lowest.into_iter().chain(waits).min();
        }
        let cursor = lowest.map_or(self.consumed, |pos: i64| pos - 1).min(self.consumed);
        let due = self.concerned || self.ticks.is_multiple_of(IDLE_EVERY) || !changes.owed.is_empty();
        settlement.cursor = Some(cursor).filter(|cursor| due && *cursor > self.cursor);
        (settlement.owed, settlement.paid) = (changes.owed, changes.paid);
        if settlement.is_empty() {
            return;
        }
        if let Err(error) = shared.env.store.settle(&settlement).await {
            if error == StoreError::Fenced {
                // Its successor sends now.
                return shared.stop();
            }
            tracing::warn!(%error, "the state of other servers is not written yet");
            let changes = Changes {
                owed: settlement.owed,
                paid: settlement.paid,
            };
            return shared.views.keep_changes(&settlement.destinations, &changes);
        }
        self.cursor = settlement.cursor.unwrap_or(self.cursor);
        // As long as something waits, the cursor has a way to go.
        self.concerned = self.cursor < self.consumed && lowest.is_some();
    }
}

async fn pause(error: &impl std::fmt::Display) {
    tracing::warn!(%error, "events for other servers have to wait");
    tokio::time::sleep(STORE_PAUSE).await;
}

/// The next events of ours after `from` with the servers that must get them, and up to where that is all.
async fn addressed(env: &Env, from: i64, to: i64) -> Outcome<(Vec<Addressed>, i64)> {
    let rows = env
        .store
        .events_to_send(env.server_name.as_str(), from, to, PAGE)
        .await?;
    let full = rows.len() == PAGE as usize;
    let upto = rows.last().filter(|_| full).and_then(|row| row.pos).unwrap_or(to);
    let rooms: BTreeSet<i64> = rows.iter().map(|row| row.room_nid).collect();
    let rooms: Vec<i64> = rooms.into_iter().collect();
    let mut moved: HashMap<i64, BTreeSet<OwnedServerName>> = HashMap::new();
    for row in env.store.memberships_since(&rooms, from).await? {
        if let Ok(user) = ruma::UserId::parse(&row.user_id) {
            moved
                .entry(row.room_nid)
                .or_default()
                .insert(user.server_name().to_owned());
        }
    }
    let mut found = Vec::with_capacity(rows.len());
    for event in env.rooms.decode(rows).await? {
        let Some(room) = env.rooms.view_nid(event.room_nid).await? else {
            continue;
        };
        let servers = audience(env, &room, &event, moved.get(&room.nid.0)).await?;
        found.push((event, servers));
    }
    Ok((found, upto))
}

/// The servers that must get an event. Those of which nobody's membership has moved since are in the room as they were then.
async fn audience(
    env: &Env,
    room: &RoomSnapshot,
    event: &StoredEvent,
    moved: Option<&BTreeSet<OwnedServerName>>,
) -> Outcome<Arc<[OwnedServerName]>> {
    let has_moved = |server: &OwnedServerName| moved.is_some_and(|moved| moved.contains(server));
    let target = target(event).map(|user| user.server_name().to_owned());
    let settled = room.joined_servers.iter().filter(|server| !has_moved(server)).cloned();
    let mut servers: BTreeSet<OwnedServerName> = settled.chain(target).collect();
    for server in moved.into_iter().flatten() {
        if !servers.contains(server) && Entitled::new(&env.rooms, room, server).to(event).await? {
            servers.insert(server.clone());
        }
    }
    servers.remove(&env.server_name);
    // Its own server has it already.
    servers.remove(event.pdu.sender.server_name());
    Ok(servers.into_iter().collect())
}
