//! The listeners: sockets, TLS, workers. What arrives is dispatched through the table (`super::dispatch`).

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use actors::hub::Hub;

use super::dispatch::dispatch;
use super::process::Process;
use super::state::{Door, HttpState};
use crate::config::{Config, Listener, RateLimits};
use crate::telemetry::Telemetry;
use crate::tls::{Certificate, TlsError};

/// Idle connections are closed after this time; longer than what proxies in front keep theirs.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take to send a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(20);
/// Connections one worker holds.
const CONNECTIONS: usize = 25_000;

/// Why the server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Two endpoints claim one path: a mistake in the program.
    #[error("endpoints registered twice: {0}")]
    Conflict(String),
}

/// Running listeners.
pub struct Server {
    handle: ServerHandle,
    state: web::Data<HttpState<Hub>>,
    certificates: Vec<Arc<Certificate>>,
    addresses: Vec<SocketAddr>,
}

/// Binds every listener and starts the workers.
///
/// # Errors
/// [`ServerError`]
pub fn start(config: Arc<Config>, hub: Arc<Hub>, telemetry: Telemetry) -> Result<Server, ServerError> {
    let table = super::table(&Process::new(config.clone(), telemetry));
    if !table.conflicts().is_empty() {
        return Err(ServerError::Conflict(table.conflicts().join(", ")));
    }
    let mut sockets = Vec::new();
    let mut doors = HashMap::new();
    let mut certificates = Vec::new();
    for listener in &config.listeners {
        let certificate = Certificate::of(listener)?;
        certificates.extend(certificate.clone());
        for ip in &listener.bind_addresses {
            let socket = bind(SocketAddr::new(*ip, listener.port))?;
            let address = socket.local_addr().unwrap_or(SocketAddr::new(*ip, listener.port));
            doors.insert(address, door(listener));
            tracing::info!(%address, tls = certificate.is_some(), "listening");
            sockets.push((socket, address, certificate.clone()));
        }
    }
    let mut state = HttpState::new(hub, config, table);
    state.doors = doors;
    let state = web::Data::new(state);
    let addresses = sockets.iter().map(|(_, address, _)| *address).collect();
    let handle = serve(state.clone(), sockets)?;
    Ok(Server {
        handle,
        state,
        certificates,
        addresses,
    })
}

type Socket = (TcpListener, SocketAddr, Option<Arc<Certificate>>);

fn serve(state: web::Data<HttpState<Hub>>, sockets: Vec<Socket>) -> Result<ServerHandle, ServerError> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let shared = state;
    let app = move || {
        let state = shared.clone();
        App::new().app_data(state).default_service(web::to(dispatch::<Hub>))
    };
    let mut server = HttpServer::new(app)
        .workers(workers)
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_DEADLINE)
        .max_connections(CONNECTIONS)
        .shutdown_timeout(20)
        .disable_signals();
    for (socket, address, certificate) in sockets {
        let bound = match certificate {
            Some(certificate) => server.listen_rustls_0_23(socket, certificate.server_config()),
            None => server.listen(socket),
        };
        server = bound.map_err(|source| ServerError::Bind { address, source })?;
    }
    let server = server.run();
    let handle = server.handle();
    // The server is a future of the process's main thread; it ends with `Server::stop`.
    actix_rt::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the listeners failed");
        }
    });
    Ok(handle)
}

fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let failed = |source| ServerError::Bind { address, source };
    let socket = TcpListener::bind(address).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(socket)
}

fn door(listener: &Listener) -> Door {
    Door {
        resources: listener.resources.clone(),
        x_forwarded: listener.x_forwarded,
    }
}

impl Server {
    /// Where it listens, with the ports that were chosen for port 0.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Reads every certificate again; one that cannot be read stays as it is.
    pub fn reload_certificates(&self) {
        for certificate in &self.certificates {
            match certificate.reload() {
                Ok(true) => tracing::info!("certificate reloaded"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "certificate not reloaded"),
            }
        }
    }

    /// New limits for all callers, with fresh buckets.
    pub fn set_rate_limits(&self, limits: &RateLimits) {
        self.state.limits.reload(limits);
    }

    /// Takes no more connections and waits for requests under way, for at most `patience`.
    pub async fn stop(self, patience: Duration) {
        if tokio::time::timeout(patience, self.handle.stop(true)).await.is_err() {
            tracing::warn!("requests were still under way");
            self.handle.stop(false).await;
        }
    }
}
