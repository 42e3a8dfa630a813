//! Homeservers that talk with each other over TLS.

use std::{future::Future, pin::Pin, sync::Arc};

use serde_json::json;
use toml::{Table, Value, toml};

use super::{
    authority::{Authority, as_text},
    client::{Client, PASSWORD, User, encode},
    db::{Backend, unique},
    port::Port,
    server::TestServer,
};

/// Something that takes a while.
pub type Step<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A running homeserver that a test may bring down and up again, of whatever make.
pub trait Homeserver {
    /// `host:port`, where other servers find it.
    fn name(&self) -> &str;

    /// For clients, without a token.
    fn client(&self) -> &Client;

    /// Ends it in good order.
    fn stop(&self) -> Step<'_>;

    /// `kill -9`.
    fn kill(&self);

    /// Starts it again on the same ports and data, and waits until it answers.
    fn restart(&self) -> Step<'_>;

    /// Has it forget that another server could not be reached, if it remembers for long.
    fn forgive(&self, other: &str) -> Step<'_>;
}

/// Two servers, and the version of the rooms that the first of them makes.
pub struct Town {
    /// Where the rooms are made.
    pub here: Arc<dyn Homeserver>,
    /// Where the others are.
    pub there: Arc<dyn Homeserver>,
    pub version: String,
}

impl Town {
    /// A user of each of the two servers.
    pub async fn people(&self) -> (User, User) {
        (self.local("alice").await, self.remote("bob").await)
    }

    /// A new user of the server where the rooms are made.
    pub async fn local(&self, name: &str) -> User {
        User::register(self.here.client(), &unique(name)).await
    }

    /// A new user of the other server.
    pub async fn remote(&self, name: &str) -> User {
        User::register(self.there.client(), &unique(name)).await
    }

    /// Makes a room of this town's version; `options` as for `POST /createRoom`.
    pub async fn room(&self, by: &User, mut options: serde_json::Value) -> String {
        options["room_version"] = serde_json::Value::String(self.version.clone());
        by.create_room(options).await
    }
}

/// The server under test, open for other servers.
#[derive(Debug)]
pub struct Ours {
    pub server: TestServer,
    name: String,
    _port: Port,
}

impl Ours {
    /// `host` is a name or address of this machine that the authority has a certificate for.
    pub async fn start(backend: Backend, authority: &Authority, host: &str) -> Self {
        Self::start_with(backend, authority, host, |_| {}).await
    }

    /// As [`Ours::start`], with a changed configuration.
    pub async fn start_with(
        backend: Backend,
        authority: &Authority,
        host: &str,
        change: impl FnOnce(&mut Table),
    ) -> Self {
        let port = Port::claim();
        let name = format!("{host}:{}", port.number());
        let configure = |config: &mut Table| {
            open(config, authority, &name, port.number());
            change(config);
        };
        let server = TestServer::start(backend, configure).await;
        Self {
            server,
            name,
            _port: port,
        }
    }

    /// As [`Ours::start`], but with the default list of addresses never to connect to.
    pub async fn start_guarded(backend: Backend, authority: &Authority, host: &str) -> Self {
        let guard = |config: &mut Table| {
            let federation = config.get_mut("federation").and_then(Value::as_table_mut);
            federation.and_then(|table| table.remove("ip_range_blocklist"));
        };
        Self::start_with(backend, authority, host, guard).await
    }

    /// A new administrator, made with the program's own command.
    pub async fn administrator(&self) -> User {
        let name = unique("root");
        let made = self
            .server
            .run_command(&["register-user", "--user", &name, "--password", PASSWORD, "--admin"]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        User::login(&self.server.client, &name).await
    }
}

impl Homeserver for Ours {
    fn name(&self) -> &str {
        &self.name
    }

    fn client(&self) -> &Client {
        &self.server.client
    }

    fn stop(&self) -> Step<'_> {
        Box::pin(async {
            let status = self.server.stop().await;
            assert!(status.success(), "the server ended with {status}");
        })
    }

    fn kill(&self) {
        self.server.kill();
    }

    fn restart(&self) -> Step<'_> {
        Box::pin(async {
            self.server.restart().await;
        })
    }

    fn forgive(&self, other: &str) -> Step<'_> {
        let path = format!(
            "/_synapse/admin/v1/federation/destinations/{}/reset_connection",
            encode(other)
        );
        Box::pin(async move {
            let admin = self.administrator().await;
            let (status, answer) = admin.post(&path, json!({})).await;
            // 400 and 404: it remembers nothing, which is as good.
            assert!([200, 400, 404].contains(&status), "{path}: {status} {answer}");
        })
    }
}

/// Lets a server talk with the other servers of its test.
fn open(config: &mut Table, authority: &Authority, name: &str, port: u16) {
    let plain = toml! {
        bind_addresses = ["127.0.0.1"]
        resources = ["client", "federation", "keys", "media", "admin", "metrics"]
    };
    let mut secure = toml! {
        bind_addresses = ["127.0.0.1"]
        tls = true
        resources = ["federation", "keys", "media"]
    };
    secure.insert("port".to_owned(), Value::Integer(port.into()));
    for (key, path) in [
        ("tls_certificate_path", authority.certificate()),
        ("tls_private_key_path", authority.key()),
    ] {
        secure.insert(key.to_owned(), Value::String(as_text(&path)));
    }
    let mut federation = toml! {
        enabled = true
        ip_range_blocklist = []
        allow_public_rooms_over_federation = true
    };
    let authorities = vec![Value::String(as_text(&authority.authority()))];
    federation.insert("custom_ca_paths".to_owned(), Value::Array(authorities));
    config.insert("server_name".to_owned(), Value::String(name.to_owned()));
    config.insert(
        "listeners".to_owned(),
        Value::Array(vec![Value::Table(plain), Value::Table(secure)]),
    );
    config.insert("federation".to_owned(), Value::Table(federation));
}
