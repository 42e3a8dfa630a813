//! The way to other servers: every outgoing request passes here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use federation::client::Signing;
use ruma::api::path_builder::SinglePath;
use ruma::api::{Metadata, OutgoingRequest};
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{mpsc, oneshot};

use super::edu::TransientEdu;
use super::health::Sign;
use super::kind::{PeerCommand, PeerKind};
use super::outbound::{self, Order};
use super::transport::{Answer, Transport, WireError, WireRequest, WireResponse};
use super::view::PeerView;
use super::views::Views;
use super::{sender, typed};
use crate::clock::Millis;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::supervisor::{Fabric, Handle, Settings};

/// Whether a request heeds the pause of a server that did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It is refused at once.
    Patient,
    /// It is sent all the same: somebody waits for the answer.
    Now,
}

/// What all that has to do with other servers shares.
pub struct Shared {
    /// See there.
    pub env: Arc<Env>,
    /// The servers in memory.
    pub views: Views,
    transport: Arc<dyn Transport>,
    /// No transaction of an earlier process has an id that begins like this.
    ids: String,
    last_id: AtomicU64,
    stopping: AtomicBool,
}

impl Shared {
    /// Unix milliseconds.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.env.clock.now_ms()
    }

    /// The server with what is stored about it.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn open(&self, server: &ServerName) -> Outcome<Arc<PeerView>> {
        let mut views = self.views.open(&self.env, &[server]).await?;
        views
            .pop()
            .ok_or_else(|| DomainError::internal("a server was not opened"))
    }

    /// The id of a new transaction.
    pub(super) fn transaction_id(&self) -> String {
        format!("{}{}", self.ids, self.last_id.fetch_add(1, Relaxed))
    }

    /// Whether nothing new is to be sent.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Nothing new is sent from now on.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// One request, whose outcome is noted as `sign` reads it.
    pub(super) async fn exchange(
        &self,
        view: &PeerView,
        request: WireRequest,
        sign: impl FnOnce(&Result<WireResponse, WireError>) -> Sign,
    ) -> Result<WireResponse, WireError> {
        let sent = self.transport.send(view.server(), request);
        self.noted(view, sent, sign).await
    }

    async fn noted<T>(
        &self,
        view: &PeerView,
        sent: impl Future<Output = Result<T, WireError>>,
        sign: impl FnOnce(&Result<T, WireError>) -> Sign,
    ) -> Result<T, WireError> {
        let began = self.now();
        view.figures.in_flight.fetch_add(1, Relaxed);
        let outcome = sent.await;
        view.figures.in_flight.fetch_sub(1, Relaxed);
        if let Err(error) = &outcome {
            tracing::debug!(server = %view.server(), %error, "a request to a server failed");
        }
        view.note(sign(&outcome), began, self.now(), self.env.rng.below(1_001));
        outcome
    }

    pub(super) fn tell_edu(self: &Arc<Self>, servers: &[OwnedServerName], edu: &TransientEdu) {
        let now = self.now();
        for server in servers.iter().filter(|server| **server != self.env.server_name) {
            let view = self.views.get_or_new(server);
            view.push_edu(edu.clone(), now);
            if edu.is_urgent() {
                sender::kick(self, &view);
            }
        }
    }

    pub(super) fn wake(self: &Arc<Self>, server: &ServerName) {
        if *server != self.env.server_name {
            let view = self.views.get_or_new(server);
            view.want(self.now());
            sender::kick(self, &view);
        }
    }

    /// Forgets the pause of a server and sends what waits for it.
    pub(super) fn reset(self: &Arc<Self>, view: &Arc<PeerView>) {
        view.reset(self.now());
        sender::kick(self, view);
    }
}

/// All other servers. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
    actors: Handle<PeerKind>,
    orders: mpsc::Sender<Order>,
}

impl Peers {
    /// Starts the supervisors of peers, and what looks after all of them.
    #[must_use]
    pub fn start(fabric: &Fabric, env: Arc<Env>, transport: Arc<dyn Transport>, settings: Settings) -> Self {
        let shared = Arc::new(Shared {
            views: Views::default(),
            transport,
            ids: format!("{}{}-", env.clock.now_ms(), env.rng.alphanumeric(6)),
            last_id: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            env,
        });
        Self {
            orders: outbound::start(&shared, settings.idle),
            actors: Handle::start(fabric, Arc::clone(&shared), settings),
            shared,
        }
    }

    /// The actors themselves.
    #[must_use]
    pub fn actors(&self) -> &Handle<PeerKind> {
        &self.actors
    }

    /// What this process knows of a server; `None` where it has nothing to do with it at present.
    #[must_use]
    pub fn view(&self, server: &ServerName) -> Option<Arc<PeerView>> {
        self.shared.views.get(server)
    }

    /// What is known of a server, whether or not it is in memory.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn look(&self, server: &ServerName) -> Outcome<Arc<PeerView>> {
        self.shared.open(server).await
    }

    /// Returns once everything that was committed until now, and before the start, was given to the servers' queues: what
    /// these tell is then true of it.
    pub async fn catch_up(&self) {
        self.order(Order::Look).await;
    }

    /// The server; its actor is started with it.
    async fn meet(&self, server: &ServerName) -> Outcome<Arc<PeerView>> {
        if *server == self.shared.env.server_name {
            return Err(DomainError::internal("this server asks itself over the network"));
        }
        let view = self.shared.open(server).await?;
        if !self.actors.is_present(server.as_str()) {
            self.actors.tell(server.as_str(), PeerCommand::Meet)?;
        }
        Ok(view)
    }

    /// Sends one of ruma's requests and reads the answer.
    ///
    /// # Errors
    /// The other server's refusal as `Matrix`; `Unavailable` when it does not answer, or lately did not and `pace` is
    /// patient; `Overloaded` when too many requests to it wait; 502 `M_UNKNOWN` for answers that break the specification.
    pub async fn call<R>(&self, server: &ServerName, request: R, pace: Pace) -> Outcome<R::IncomingResponse>
    where
        R: OutgoingRequest + Metadata<PathBuilder = SinglePath, Authentication: Signing>,
    {
        let answer = self.send(server, typed::outgoing(request)?, pace).await?;
        typed::incoming(&answer)
    }

    /// Sends a request. It runs to its end also where nobody waits for it any more.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn send(&self, server: &ServerName, request: WireRequest, pace: Pace) -> Outcome<WireResponse> {
        self.admitted(server, pace, |shared, view| async move {
            shared.exchange(&view, request, Sign::of).await
        })
        .await
    }

    /// Sends a request; the answer's body is left to be read.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn open(&self, server: &ServerName, request: WireRequest, pace: Pace) -> Outcome<Answer> {
        self.admitted(server, pace, |shared, view| async move {
            let sent = shared.transport.open(view.server(), request);
            shared.noted(&view, sent, Sign::of).await
        })
        .await
    }

    async fn admitted<T, F>(
        &self,
        server: &ServerName,
        pace: Pace,
        send: impl FnOnce(Arc<Shared>, Arc<PeerView>) -> F,
    ) -> Outcome<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, WireError>> + Send + 'static,
    {
        let view = self.meet(server).await?;
        let admit = || match pace {
            Pace::Patient => view.admit(self.shared.now()),
            Pace::Now => Ok(()),
        };
        admit()?;
        let place = view.place().await?;
        // What was sent in the meantime may have shown that the server is down.
        admit()?;
        let sending = send(Arc::clone(&self.shared), Arc::clone(&view));
        let sent = self.shared.env.io.spawn(async move {
            let _place = place;
            sending.await
        });
        let outcome = sent
            .await
            .map_err(|error| DomainError::internal(format!("a request to a server: {error}")))?;
        outcome.map_err(|error| {
            let wait = view.health().wait(self.shared.now());
            typed::refusal(error, u64::try_from(wait).unwrap_or(0))
        })
    }

    /// The server has sent a signed request: it is worth another try, and what waits for it is sent.
    pub fn seen(&self, server: &ServerName) {
        let shared = &self.shared;
        if let Some(view) = shared.views.get(server).filter(|view| view.is_loaded()) {
            view.seen(shared.now());
            return sender::kick(shared, &view);
        }
        let (shared, server) = (Arc::clone(shared), server.to_owned());
        self.shared.env.io.spawn(async move {
            match shared.open(&server).await {
                Ok(view) => {
                    view.seen(shared.now());
                    sender::kick(&shared, &view);
                }
                Err(error) => tracing::warn!(%server, %error, "a server that called is not looked up"),
            }
        });
    }

    /// Tells servers something that nobody misses for long: memory only, the newest of a kind wins.
    pub fn tell_edu(&self, servers: &[OwnedServerName], edu: TransientEdu) {
        self.shared.tell_edu(servers, &edu);
    }

    /// Something durable waits for the server.
    pub fn wake(&self, server: &ServerName) {
        self.shared.wake(server);
    }

    /// Ends the pause of a server and tries it at once: the operator's wish.
    ///
    /// # Errors
    /// `M_NOT_FOUND` for what is no server's name; `Unavailable`.
    pub async fn reset(&self, server: &ServerName) -> Outcome<()> {
        self.actors.ask(server.as_str(), PeerCommand::Reset).await.map(|_| ())
    }

    /// Sends what can be sent at once, writes down what waits on, and lets the actors end. Answers how many were left after
    /// `within`.
    pub async fn drain(&self, within: Duration) -> usize {
        let shared = &self.shared;
        self.catch_up().await;
        let sending = async {
            while shared.views.all().iter().any(|view| view.is_sending()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Whoever does not answer by then gets it after the start.
        if tokio::time::timeout(within / 2, sending).await.is_err() {
            tracing::info!("some servers get later what they were to get now");
        }
        shared.stop();
        let left = self.actors.drain(within / 2).await;
        self.order(Order::Write).await;
        left
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) {
        let (done, wait) = oneshot::channel();
        if self.orders.send(order(done)).await.is_ok() {
            // It ends only with what it looks after.
            let _ = wait.await;
        }
    }
}
