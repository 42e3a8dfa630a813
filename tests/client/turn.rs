//! A real TURN server (coturn) on the loopback, and as much of a TURN client as shows whom it lets in.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use sha1::Sha1;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::common::port::Port;

/// How long the server may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// RFC 8489 §5.
const COOKIE: u32 = 0x2112_A442;
const ALLOCATE: u16 = 0x0003;
const ALLOCATED: u16 = 0x0103;
const REFUSED: u16 = 0x0113;
const USERNAME: u16 = 0x0006;
const INTEGRITY: u16 = 0x0008;
const ERROR: u16 = 0x0009;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const REQUESTED_TRANSPORT: u16 = 0x0019;

/// The server; ends when dropped.
#[derive(Debug)]
pub struct Coturn {
    process: Child,
    port: Port,
}

impl Coturn {
    /// Starts it and waits until it takes connections. `options` say whom it lets in.
    pub async fn start(options: &[&str]) -> Self {
        let port = Port::claim();
        let number = port.number().to_string();
        // The port's UDP half is taken by the claim on it.
        let fixed = "-n --no-udp --no-tls --no-dtls --no-cli --lt-cred-mech --realm localhost --log-file stdout \
                     --listening-ip 127.0.0.1 --relay-ip 127.0.0.1 --pidfile /dev/null";
        let mut command = Command::new("turnserver");
        command
            .args(fixed.split_whitespace())
            .args(["--listening-port", &number])
            .args(options);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.unwrap_or_else(|error| panic!("coturn (apt-get install coturn) is needed: {error}"));
        let started = Self { process, port };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(started.address()).await.is_err() {
            assert!(Instant::now() < deadline, "coturn did not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        started
    }

    fn address(&self) -> (&'static str, u16) {
        ("127.0.0.1", self.port.number())
    }

    /// Asks for a relay with long-term credentials (RFC 8656 §7.1, RFC 8489 §9.2); the code of the refusal, if it is one.
    pub async fn allocate(&self, username: &str, password: &str) -> Result<(), u16> {
        let mut stream = TcpStream::connect(self.address())
            .await
            .expect("coturn takes connections");
        let challenge = ask(&mut stream, &message(&[(REQUESTED_TRANSPORT, vec![17, 0, 0, 0])])).await;
        assert_eq!(
            (challenge.kind, challenge.error()),
            (REFUSED, Some(401)),
            "credentials are asked for"
        );
        let realm = challenge.get(REALM).expect("a challenge has a realm").to_vec();
        let nonce = challenge.get(NONCE).expect("a challenge has a nonce").to_vec();
        let key = Md5::digest([username.as_bytes(), b":", realm.as_slice(), b":", password.as_bytes()].concat());
        let mut request = message(&[
            (REQUESTED_TRANSPORT, vec![17, 0, 0, 0]),
            (USERNAME, username.as_bytes().to_vec()),
            (REALM, realm),
            (NONCE, nonce),
        ]);
        // The code covers a length that counts the code itself.
        let length = u16::try_from(request.len() - 20 + 24).expect("a short message");
        request[2..4].copy_from_slice(&length.to_be_bytes());
        let mut mac = Hmac::<Sha1>::new_from_slice(&key).expect("any key will do");
        mac.update(&request);
        attribute(&mut request, INTEGRITY, &mac.finalize().into_bytes());
        let answer = ask(&mut stream, &request).await;
        match answer.kind {
            ALLOCATED => Ok(()),
            _ => Err(answer.error().unwrap_or(0)),
        }
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        // It has nothing to lose; that it ended by itself is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Answer {
    kind: u16,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Answer {
    fn get(&self, kind: u16) -> Option<&[u8]> {
        let found = self.attributes.iter().find(|(known, _)| *known == kind)?;
        Some(&found.1)
    }

    fn error(&self) -> Option<u16> {
        let value = self.get(ERROR)?;
        Some(u16::from(value[2] & 7) * 100 + u16::from(value[3]))
    }
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend(u16::try_from(value.len()).expect("a short attribute").to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn message(attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut message = ALLOCATE.to_be_bytes().to_vec();
    message.extend([0, 0]);
    message.extend(COOKIE.to_be_bytes());
    message.extend(*b"a test's id.");
    for (kind, value) in attributes {
        attribute(&mut message, *kind, value);
    }
    let length = u16::try_from(message.len() - 20).expect("a short message");
    message[2..4].copy_from_slice(&length.to_be_bytes());
    message
}

async fn ask(stream: &mut TcpStream, request: &[u8]) -> Answer {
    stream.write_all(request).await.expect("coturn reads");
    let mut head = [0; 20];
    stream.read_exact(&mut head).await.expect("coturn answers");
    let mut body = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
    stream.read_exact(&mut body).await.expect("coturn answers");
    let (mut attributes, mut rest) = (Vec::new(), body.as_slice());
    while let [a, b, c, d, value @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        attributes.push((u16::from_be_bytes([*a, *b]), value[..length].to_vec()));
        rest = &value[length.next_multiple_of(4)..];
    }
    Answer {
        kind: u16::from_be_bytes([head[0], head[1]]),
        attributes,
    }
}
