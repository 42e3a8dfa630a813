//! A small HTTPS server that answers as badly as a test wants it to.

use std::{sync::Arc, time::Duration};

use rustls::{ServerConfig, crypto::ring};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::common::authority::Authority;

/// The longest head of a request that is read.
const MAX_HEAD: usize = 64 * 1024;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With the query, percent-encoded.
    pub path: String,
    pub body: Vec<u8>,
}

impl Request {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// What comes back.
pub enum Answer {
    Json(u16, Value),
    /// Nothing, and the connection stays open.
    Silence,
    /// A head and a byte of the body now and then, for ever.
    Trickle,
    /// A body of JSON that does not end.
    Endless,
    /// Bytes that are not HTTP.
    Noise,
}

pub type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// Serves until the task is aborted.
pub fn serve(listener: std::net::TcpListener, authority: &Authority, handler: Arc<Handler>) -> JoinHandle<()> {
    let acceptor = TlsAcceptor::from(Arc::new(config(authority)));
    listener
        .set_nonblocking(true)
        .expect("a socket can be made non-blocking");
    tokio::spawn(async move {
        let listener = TcpListener::from_std(listener).expect("the runtime takes the listener");
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(connection(acceptor.clone(), stream, handler.clone()));
            while connections.try_join_next().is_some() {}
        }
    })
}

fn config(authority: &Authority) -> ServerConfig {
    let read = |path| std::fs::read(path).expect("the authority has written its files");
    let certificates = rustls_pemfile::certs(&mut read(authority.certificate()).as_slice()).collect::<Result<_, _>>();
    let key = rustls_pemfile::private_key(&mut read(authority.key()).as_slice());
    let key = key.ok().flatten().expect("the file has a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for all versions")
        .with_no_client_auth()
        .with_single_cert(certificates.expect("the file has certificates"), key);
    config.expect("the key is the certificate's")
}

/// An error is the client's going away, which is its right.
async fn connection(acceptor: TlsAcceptor, stream: TcpStream, handler: Arc<Handler>) -> Option<()> {
    let stream = acceptor.accept(stream).await.ok()?;
    let mut stream = BufReader::new(stream);
    loop {
        let request = read(&mut stream).await?;
        write(&mut stream, handler(&request)).await?;
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
        if head.len() > MAX_HEAD {
            return None;
        }
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let length = lines.filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        let found = name.eq_ignore_ascii_case("content-length");
        found.then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    let mut body = vec![0; length.unwrap_or_default()];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { method, path, body })
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), answer: Answer) -> Option<()> {
    match answer {
        Answer::Json(status, body) => {
            let body = body.to_string();
            let head = format!("HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\n");
            let text = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(text.as_bytes()).await.ok()?;
            stream.flush().await.ok()
        }
        Answer::Silence => std::future::pending().await,
        Answer::Trickle => {
            let head = "HTTP/1.1 200 Answer\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{";
            stream.write_all(head.as_bytes()).await.ok()?;
            loop {
                stream.write_all(b" ").await.ok()?;
                stream.flush().await.ok()?;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        Answer::Endless => {
            let head = "HTTP/1.1 200 Answer\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.ok()?;
            stream.write_all(b"1\r\n[\r\n").await.ok()?;
            let chunk = format!("10000\r\n{}\r\n", "0,".repeat(0x8000));
            loop {
                stream.write_all(chunk.as_bytes()).await.ok()?;
            }
        }
        Answer::Noise => {
            stream.write_all(b"\x00\x01 not HTTP at all\r\n\r\n").await.ok()?;
            None
        }
    }
}
