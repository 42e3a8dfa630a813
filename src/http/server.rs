//! The listeners: sockets, TLS, workers. What arrives is dispatched through the table (`super::dispatch`).

use std::io;
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use actors::hub::Hub;
use tokio::net::TcpSocket;
use tokio::time::Instant;

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
/// Connections that wait to be accepted.
const BACKLOG: u32 = 2_048;
/// Connections one worker holds.
const CONNECTIONS: usize = 25_000;

/// A stopping server waits for a while without requests before it closes the connections that are left: a client that
/// has just had its answer may be sending the next request.
const QUIET: Duration = Duration::from_millis(250);
/// How soon a pause has reached the accepting thread.
const PAUSE: Duration = Duration::from_millis(20);
/// Seconds for bytes that connections have still to write after the last request.
const FLUSH_SECS: u64 = 2;

/// Why the server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
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
    /// Second handles on the sockets that the workers' connections come from.
    listeners: Vec<TcpListener>,
}

/// A listening socket; nobody answers on it yet.
pub struct Socket {
    listener: TcpListener,
    address: SocketAddr,
    certificate: Option<Arc<Certificate>>,
    door: Door,
}

/// Binds the address of every listener and reads the certificates.
///
/// # Errors
/// [`ServerError::Bind`] and [`ServerError::Tls`]
pub fn bind(listeners: &[Listener]) -> Result<Vec<Socket>, ServerError> {
    let mut sockets = Vec::new();
    for config in listeners {
        let certificate = Certificate::of(config)?;
        let door = Door {
            resources: config.resources.clone(),
            x_forwarded: config.x_forwarded,
        };
        // `::` takes IPv4 along: after it `0.0.0.0` finds its port taken by ourselves.
        let mut addresses = config.bind_addresses.clone();
        addresses.sort_by_key(IpAddr::is_ipv4);
        let both = addresses.contains(&IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        for ip in addresses {
            let address = SocketAddr::new(ip, config.port);
            let failed = |source| ServerError::Bind { address, source };
            let listener = match listen(address) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && both && ip.is_ipv4() => continue,
                outcome => outcome.map_err(failed)?,
            };
            let address = listener.local_addr().map_err(failed)?;
            sockets.push(Socket {
                listener,
                address,
                certificate: certificate.clone(),
                door: door.clone(),
            });
        }
    }
    Ok(sockets)
}

/// Must be called within the shared runtime.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // A new process may listen while connections of the old one are still winding up.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Starts the workers.
///
/// # Errors
/// [`ServerError`]
pub fn start(
    sockets: Vec<Socket>,
    config: Arc<Config>,
    hub: Arc<Hub>,
    telemetry: Telemetry,
) -> Result<Server, ServerError> {
    let logs = telemetry.logs().clone();
    let process = Process::new(config.clone(), move || telemetry.render_metrics()).with_logs(logs);
    let table = super::table(&process);
    if !table.conflicts().is_empty() {
        return Err(ServerError::Conflict(table.conflicts().join(", ")));
    }
    let mut state = HttpState::new(hub, config, table);
    state.doors = sockets
        .iter()
        .map(|socket| (socket.address, socket.door.clone()))
        .collect();
    let state = web::Data::new(state);
    let addresses = sockets.iter().map(|socket| socket.address).collect();
    let mut certificates: Vec<Arc<Certificate>> = Vec::new();
    for certificate in sockets.iter().filter_map(|socket| socket.certificate.as_ref()) {
        if !certificates.iter().any(|known| Arc::ptr_eq(known, certificate)) {
            certificates.push(certificate.clone());
        }
    }
    let mut listeners = Vec::new();
    for Socket { listener, address, .. } in &sockets {
        let address = *address;
        let again = listener.try_clone();
        listeners.push(again.map_err(|source| ServerError::Bind { address, source })?);
    }
    let handle = serve(state.clone(), sockets)?;
    Ok(Server {
        handle,
        state,
        certificates,
        addresses,
        listeners,
    })
}

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
        // Who closes their half has hung up: otherwise nobody would notice before the answer is written.
        .h1_allow_half_closed(false)
        .shutdown_timeout(FLUSH_SECS)
        .disable_signals();
    for Socket {
        listener,
        address,
        certificate,
        ..
    } in sockets
    {
        tracing::info!(%address, tls = certificate.is_some(), "listening");
        let bound = match certificate {
            Some(certificate) => server.listen_rustls_0_23(listener, certificate.server_config()),
            None => server.listen(listener),
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

    /// From now on new connections are refused, and every answer closes its connection.
    pub async fn close(&mut self) {
        if self.listeners.is_empty() {
            return;
        }
        self.handle.pause().await;
        // The accepting thread has to have let go of the sockets, or it reports an error on each.
        tokio::time::sleep(PAUSE).await;
        for listener in self.listeners.drain(..) {
            // A paused listener would leave connections waiting for an answer that never comes.
            if let Err(error) = TcpStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both) {
                tracing::debug!(%error, "a listening socket stays open until the end");
            }
        }
        self.state.gate.close();
    }

    /// Waits until all requests have been answered, for at most `patience`, and closes the connections that are left.
    pub async fn stop(mut self, patience: Duration) {
        self.close().await;
        let (begin, gate) = (Instant::now(), &self.state.gate);
        // Over HTTP/2 a client can go on asking.
        gate.quiet(QUIET, begin + patience / 2).await;
        gate.shut();
        if !gate.quiet(Duration::ZERO, begin + patience).await {
            tracing::warn!("requests were still under way");
        }
        self.handle.stop(true).await;
    }
}
