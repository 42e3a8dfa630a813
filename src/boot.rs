//! The process: what starts in which order, what signals do, and the drain in reverse.
//!
//! Start: configuration → telemetry → signing key → addresses bound → database migrated → hub → listeners served. Stop (SIGINT, SIGTERM):
//! long-polls end, listeners, hub, journal, database; a second signal ends the waiting.

pub mod reload;
mod setup;

use std::sync::Arc;
use std::time::Duration;

use actors::hub::Hub;
use actors::rng::Rng;
use actors::supervisor::Arbiters;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use self::setup::{open_store, settings, store_options};
use crate::config::{self, Config, ConfigError, DatabaseUrl};
use crate::http::server::{self, Server};
use crate::signing_key::SigningKeyError;
use crate::telemetry::{Telemetry, TelemetryError};

/// How often histograms take up what they have gathered.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Reads the configuration again, for SIGHUP.
pub type Reread<'a> = &'a dyn Fn() -> Result<Config, ConfigError>;

/// Why the server did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("telemetry: {0}")]
    Telemetry(#[from] TelemetryError),
    #[error(transparent)]
    SigningKey(#[from] SigningKeyError),
    #[error("database {url}: {reason}")]
    Database { url: String, reason: String },
    /// The value at `key` (dotted path) cannot be used.
    #[error("{key}: {detail}")]
    Setting { key: String, detail: String },
    #[error(transparent)]
    Server(#[from] server::ServerError),
    #[error("{what}: {source}")]
    System { what: &'static str, source: std::io::Error },
    #[error("stopped by a second {0} before the work under way was done")]
    Impatient(&'static str),
}

impl BootError {
    fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    fn setting(key: String, detail: String) -> Self {
        Self::Setting { key, detail }
    }

    fn database(url: &DatabaseUrl, reason: impl std::fmt::Display) -> Self {
        Self::Database {
            url: url.redacted(),
            reason: reason.to_string(),
        }
    }
}

/// Serves until a signal says stop.
pub fn run(config: Config, reread: Reread<'_>) -> Result<(), BootError> {
    let telemetry = Telemetry::install(&config.logging)?;
    for warning in config::warnings(&config) {
        tracing::warn!("{warning}");
    }
    let runtime = Arc::new(runtime()?);
    let system = actix_rt::System::with_tokio_rt(|| runtime.clone());
    let arbiters = Arbiters::start(&runtime, settings(&config).arbiters);
    let io = runtime.handle().clone();
    let served = system.block_on(serve(Arc::new(config), telemetry, io, arbiters.clone(), reread));
    arbiters.stop();
    drop(system);
    if let Some(runtime) = Arc::into_inner(runtime) {
        // What still runs is past its deadline.
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
    served
}

/// The one runtime: sockets, timers, database connections and blocking work of every thread belong to it.
fn runtime() -> Result<Runtime, BootError> {
    Builder::new_multi_thread()
        .thread_name("io")
        .enable_all()
        .build()
        .map_err(BootError::system("runtime"))
}

async fn serve(
    config: Arc<Config>,
    telemetry: Telemetry,
    io: Handle,
    arbiters: Arbiters,
    reread: Reread<'_>,
) -> Result<(), BootError> {
    // First of all, so that a signal during the start is not lost.
    let mut signals = Signals::listen()?;
    let rng = Rng::system();
    let key = setup::signing_key(&config, &rng)?;
    let settings = setup::settings_with_files(&config, &key, &rng)?;
    // Before the hub takes the database over: a second start by mistake must not stop the server that runs.
    let sockets = server::bind(&config.listeners)?;
    let store = open_store(&config).await?;
    let hub = setup::open_hub(&config, settings, key, rng, store, io.clone(), arbiters).await?;
    let server = server::start(sockets, config.clone(), hub.clone(), telemetry.clone())?;
    io.spawn(upkeep(telemetry.clone()));
    tracing::info!(server_name = %config.server_name, database = config.database.url.redacted(), "serving");

    let reason = until_stopped(&mut signals, &config, &telemetry, &server, reread).await;
    tracing::info!(reason, "stopping");
    tokio::select! {
        () = drain(&config, server, &hub) => {
            tracing::info!("stopped");
            Ok(())
        }
        again = signals.stop() => Err(BootError::Impatient(again)),
    }
}

/// Serves and reloads; the answer is the signal that said stop.
async fn until_stopped(
    signals: &mut Signals,
    config: &Config,
    telemetry: &Telemetry,
    server: &Server,
    reread: Reread<'_>,
) -> &'static str {
    let mut running = config.clone();
    loop {
        match signals.next().await {
            Request::Stop(signal) => return signal,
            Request::Reload => reload(&mut running, telemetry, server, reread),
        }
    }
}

/// Takes over what can be taken over and names the rest. A configuration with a mistake changes nothing.
fn reload(running: &mut Config, telemetry: &Telemetry, server: &Server, reread: Reread<'_>) {
    server.reload_certificates();
    let read = match reread() {
        Ok(read) => read,
        Err(error) => {
            tracing::error!(%error, "configuration not reloaded");
            return;
        }
    };
    let reload::Changes { applied, pending } = reload::changes(running, &read);
    if let Err(error) = telemetry.set_level(&read.logging.level) {
        tracing::error!(%error, "log level not changed");
    }
    server.set_rate_limits(&read.rate_limits);
    tracing::info!(changed = applied.join(", "), "configuration reloaded");
    if !pending.is_empty() {
        tracing::warn!(keys = pending.join(", "), "changed, but taken over only by a restart");
    }
    running.logging.level = read.logging.level;
    running.rate_limits = read.rate_limits;
}

/// In reverse: nothing new comes in, what came in is done, what was done is written.
async fn drain(config: &Config, mut server: Server, hub: &Hub) {
    let patience = Duration::from_secs(config.actors.drain_timeout_secs);
    // Before those who wait get their answers, so that they do not come back on the same connection.
    server.close().await;
    hub.begin_drain();
    server.stop(patience).await;
    hub.drain(patience).await;
    if let Err(error) = hub.env().store.close().await {
        tracing::warn!(%error, "database not closed in order");
    }
}

async fn upkeep(telemetry: Telemetry) {
    let mut ticks = tokio::time::interval(METRICS_UPKEEP);
    loop {
        ticks.tick().await;
        telemetry.upkeep();
    }
}

/// The signals the process listens to.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

enum Request {
    Stop(&'static str),
    Reload,
}

impl Signals {
    fn listen() -> Result<Self, BootError> {
        let open = |kind| signal(kind).map_err(BootError::system("signals"));
        Ok(Self {
            interrupt: open(SignalKind::interrupt())?,
            terminate: open(SignalKind::terminate())?,
            hangup: open(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.interrupt.recv() => Request::Stop("SIGINT"),
            _ = self.terminate.recv() => Request::Stop("SIGTERM"),
            _ = self.hangup.recv() => Request::Reload,
        }
    }

    /// The next signal that says stop; others are passed over.
    async fn stop(&mut self) -> &'static str {
        loop {
            if let Request::Stop(name) = self.next().await {
                return name;
            }
        }
    }
}
