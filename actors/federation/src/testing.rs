//! A small internet for tests: names, addresses, and servers with certificates of one authority.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base::clock::{Clock, Millis, TimeSource};
use base::cpu::Cpu;
use base::key::ServerKey;
use base::rng::Rng;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::unfold;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ruma::OwnedServerName;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::client::{Tools, Wire, WireSettings};
use crate::network::{Network, Service};

/// Names, addresses, and where the servers at those addresses really listen.
#[derive(Default)]
pub struct FakeNetwork {
    hosts: Mutex<HashMap<String, Vec<IpAddr>>>,
    services: Mutex<HashMap<String, Vec<Service>>>,
    routes: Mutex<HashMap<SocketAddr, SocketAddr>>,
    /// Addresses that were connected to.
    pub dialled: Mutex<Vec<SocketAddr>>,
}

impl Network for FakeNetwork {
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let found = self.hosts.lock().expect("no panic").get(host).cloned();
        Box::pin(async move { Ok(found.unwrap_or_default()) })
    }

    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<Service>>> {
        let found = self.services.lock().expect("no panic").get(name).cloned();
        Box::pin(async move { Ok(found.unwrap_or_default()) })
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        self.dialled.lock().expect("no panic").push(to);
        let route = self.routes.lock().expect("no panic").get(&to).copied();
        Box::pin(async move {
            match route {
                Some(real) => TcpStream::connect(real).await,
                None => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }
}

/// What a server got.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub uri: String,
    pub host: String,
    pub sni: Option<String>,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What a server answers.
pub enum Reply {
    Json(u16, Value),
    With(u16, Vec<(&'static str, String)>, Bytes),
    /// A body without an announced length.
    Chunks(Vec<Bytes>),
    /// A byte now and then, for ever.
    Trickle,
    /// Only after a while.
    Later(Duration, Box<Reply>),
}

type Handler = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A clock to be set.
#[derive(Clone)]
struct TestClock(Arc<AtomicI64>);

impl TimeSource for TestClock {
    fn now_ms(&self) -> Millis {
        self.0.load(Ordering::SeqCst)
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// The internet.
pub struct World {
    pub network: Arc<FakeNetwork>,
    clock: TestClock,
    authority: CertifiedIssuer<'static, KeyPair>,
    http1_only: bool,
}

/// When tests begin, Unix milliseconds.
pub const START: Millis = 1_700_000_000_000;

impl World {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are needed");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        Self {
            network: Arc::default(),
            clock: TestClock(Arc::new(AtomicI64::new(START))),
            authority: CertifiedIssuer::self_signed(params, key).expect("an authority signs itself"),
            http1_only: false,
        }
    }

    /// Servers speak HTTP/1 only from now on.
    pub fn http1_only(mut self) -> Self {
        self.http1_only = true;
        self
    }

    pub fn pass(&self, ms: Millis) {
        self.clock.0.fetch_add(ms, Ordering::SeqCst);
    }

    pub fn host(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses
            .iter()
            .map(|address| address.parse().expect("an address"))
            .collect();
        self.network
            .hosts
            .lock()
            .expect("no panic")
            .insert(name.to_owned(), addresses);
    }

    pub fn service(&self, name: &str, target: &str, port: u16) {
        let service = Service {
            target: target.to_owned(),
            port,
            priority: 0,
            weight: 0,
        };
        let mut services = self.network.services.lock().expect("no panic");
        services.entry(name.to_owned()).or_default().push(service);
    }

    /// A server with a certificate for `names` that is reached at `address`.
    pub async fn serve(
        &self,
        names: &[&str],
        address: &str,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Arc<Mutex<Vec<Seen>>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let real = listener.local_addr().expect("it is bound");
        let nominal = address.parse().expect("an address with a port");
        self.network.routes.lock().expect("no panic").insert(nominal, real);
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let acceptor = TlsAcceptor::from(Arc::new(self.server_config(names)));
        tokio::spawn(accept(listener, acceptor, Arc::new(handler), seen.clone()));
        seen
    }

    fn server_config(&self, names: &[&str]) -> ServerConfig {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key can be made");
        let params = CertificateParams::new(names).expect("the names are good");
        let certificate = params.signed_by(&key, &self.authority).expect("it can be signed");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("the key is one"),
            )
            .expect("key and certificate fit");
        if !self.http1_only {
            config.alpn_protocols.push(b"h2".to_vec());
        }
        config.alpn_protocols.push(b"http/1.1".to_vec());
        config
    }

    pub fn authorities(&self) -> Vec<CertificateDer<'static>> {
        vec![self.authority.der().clone()]
    }

    pub fn tools(&self) -> Tools {
        Tools {
            clock: Clock::from_source(self.clock.clone()),
            rng: Rng::seeded(1),
            cpu: Cpu::new(tokio::runtime::Handle::current(), 2),
        }
    }

    /// `us.example` with the settings that trust this world.
    pub fn wire(&self) -> Wire {
        self.wire_with(WireSettings {
            authorities: self.authorities(),
            ..WireSettings::default()
        })
    }

    pub fn wire_with(&self, settings: WireSettings) -> Wire {
        Wire::with_network(us(), our_key(), settings, self.tools(), self.network.clone())
    }
}

pub fn us() -> OwnedServerName {
    name("us.example")
}

pub fn our_key() -> Arc<ServerKey> {
    Arc::new(ServerKey::new(&[1; 32], "us"))
}

pub fn name(text: &str) -> OwnedServerName {
    text.try_into().expect("a server name")
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, handler: Handler, seen: Arc<Mutex<Vec<Seen>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, handler, seen) = (acceptor.clone(), handler.clone(), seen.clone());
        tokio::spawn(async move {
            // A client that does not like the certificate goes away.
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let sni = stream.get_ref().1.server_name().map(ToOwned::to_owned);
            let service = service_fn(move |request| respond(request, sni.clone(), handler.clone(), seen.clone()));
            let server = auto::Builder::new(TokioExecutor::new());
            let _ended = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Body = http_body_util::combinators::BoxBody<Bytes, io::Error>;

async fn respond(
    request: Request<Incoming>,
    sni: Option<String>,
    handler: Handler,
    seen: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let header = head
        .headers
        .get("host")
        .and_then(|host| host.to_str().ok())
        .map(ToOwned::to_owned);
    let authority = head.uri.authority().map(|authority| authority.as_str().to_owned());
    assert!(
        authority.is_none() || header.is_none() || authority == header,
        "both say the same"
    );
    let got = Seen {
        method: head.method,
        uri: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        host: authority.or(header).unwrap_or_default(),
        sni,
        version: head.version,
        headers: head.headers,
        body: body.collect().await?.to_bytes(),
    };
    seen.lock().expect("no panic").push(got.clone());
    let reply = match handler(&got) {
        Reply::Later(wait, reply) => {
            tokio::time::sleep(wait).await;
            *reply
        }
        reply => reply,
    };
    Ok(render(reply))
}

fn render(reply: Reply) -> Response<Body> {
    let (status, headers, body): (u16, Vec<(&'static str, String)>, Body) = match reply {
        Reply::Json(status, value) => (status, Vec::new(), full(value.to_string().into())),
        Reply::With(status, headers, body) => (status, headers, full(body)),
        Reply::Chunks(chunks) => {
            let frames = chunks.into_iter().map(|chunk| Ok(Frame::data(chunk)));
            (
                200,
                Vec::new(),
                StreamBody::new(futures_util::stream::iter(frames)).boxed(),
            )
        }
        Reply::Later(..) => unreachable!("waited for before"),
        Reply::Trickle => {
            let frames = unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Ok(Frame::data(Bytes::from_static(b" "))), ()))
            });
            (
                200,
                Vec::new(),
                BodyExt::boxed(StreamBody::new(Box::pin(frames) as SyncStream)),
            )
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status.try_into().expect("a status");
    for (name, value) in headers {
        let value = HeaderValue::from_str(&value).expect("a header");
        response.headers_mut().append(HeaderName::from_static(name), value);
    }
    response
}

type SyncStream = std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, io::Error>> + Send + Sync>>;

fn full(bytes: Bytes) -> Body {
    http_body_util::Full::new(bytes).map_err(|never| match never {}).boxed()
}
