//! Synapse as a child process, with a folder and a SQLite database of its own.

use std::{
    env, fs,
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::common::{
    authority::{Authority, as_text},
    client::Client,
    db::unique,
    homeserver::{Homeserver, Step},
    port::Port,
    server::keep_log,
};

/// The longest that a start or a stop may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// One Synapse; killed, and its folder removed, when dropped.
#[derive(Debug)]
pub struct Synapse {
    name: String,
    client: Client,
    process: Mutex<Option<Child>>,
    folder: PathBuf,
    _ports: [Port; 2],
}

impl Synapse {
    /// `host` is a name or address of this machine that the authority has a certificate for.
    pub async fn start(authority: &Authority, host: &str) -> Self {
        let ports = [Port::claim(), Port::claim()];
        let folder = env::temp_dir().join(unique("synapse-rust-foreign"));
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("cannot create {}: {error}", folder.display()));
        let name = format!("{host}:{}", ports[1].number());
        let config = configuration(&name, [ports[0].number(), ports[1].number()], &folder, authority);
        fs::write(folder.join("homeserver.yaml"), config).expect("the folder can be written");
        fs::write(folder.join("log.yaml"), LOGGING).expect("the folder can be written");
        let this = Self {
            name,
            client: Client::new(&format!("http://127.0.0.1:{}", ports[0].number())),
            process: Mutex::new(None),
            folder,
            _ports: ports,
        };
        let keys = this.command().arg("--generate-keys").status();
        assert!(
            keys.is_ok_and(|status| status.success()),
            "Synapse makes no keys:\n{}",
            this.log()
        );
        this.begin().await;
        this
    }

    fn command(&self) -> Command {
        let log = || {
            let path = self.folder.join("server.log");
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.expect("the folder can be written")
        };
        let mut command = Command::new(python());
        command
            .args(["-m", "synapse.app.homeserver", "--config-path", "homeserver.yaml"])
            .current_dir(&self.folder)
            .env_remove("PYTHONPATH")
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log());
        command
    }

    async fn begin(&self) {
        let mut process = self
            .command()
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start Synapse with {}: {error}", python().display()));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.client.try_request("GET", "/_matrix/client/versions", None, None);
            if let Ok((200, _)) = answer.await {
                break;
            }
            let ended = process.try_wait().expect("a child can be asked for its end");
            assert!(ended.is_none(), "Synapse did not start:\n{}", self.log());
            assert!(Instant::now() < deadline, "Synapse does not answer:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        *self.process() = Some(process);
    }

    async fn end(&self) {
        let mut process = self.process().take().expect("Synapse runs");
        let sent = Command::new("kill").args(["-TERM", &process.id().to_string()]).status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "a child can be sent a signal"
        );
        let deadline = Instant::now() + PATIENCE;
        while process.try_wait().expect("a child can be asked for its end").is_none() {
            assert!(Instant::now() < deadline, "Synapse did not stop:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running process, as the system knows it.
    pub fn process_id(&self) -> u32 {
        self.process().as_ref().expect("Synapse runs").id()
    }

    /// The last lines of the log.
    pub fn log(&self) -> String {
        let text = fs::read(self.folder.join("server.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Homeserver for Synapse {
    fn name(&self) -> &str {
        &self.name
    }

    fn client(&self) -> &Client {
        &self.client
    }

    fn stop(&self) -> Step<'_> {
        Box::pin(self.end())
    }

    fn kill(&self) {
        if let Some(mut process) = self.process().take() {
            // An error means that it has ended by itself.
            drop(process.kill());
            process.wait().expect("a child can be waited for");
        }
    }

    fn restart(&self) -> Step<'_> {
        Box::pin(self.begin())
    }

    /// It is configured to try again soon.
    fn forgive(&self, _other: &str) -> Step<'_> {
        Box::pin(async {})
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        self.kill();
        keep_log(&self.folder);
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// The interpreter of the virtual environment that `scripts/synapse-test` makes.
fn python() -> PathBuf {
    env::var_os("SYNAPSE_RUST_TEST_SYNAPSE").map_or_else(
        || panic!("SYNAPSE_RUST_TEST_SYNAPSE must name a Python with Synapse; scripts/synapse-test makes one"),
        PathBuf::from,
    )
}

const LOGGING: &str = "
version: 1
formatters:
  plain: {format: '%(asctime)s %(name)s %(levelname)s %(request)s %(message)s'}
handlers:
  console: {class: logging.StreamHandler, formatter: plain}
root: {level: INFO, handlers: [console]}
loggers:
  synapse.storage.SQL: {level: INFO}
disable_existing_loggers: false
";

/// A configuration that makes tests quick: a cheap password hash, no rate limits, open registration, and another
/// server that was away is tried again soon. `ports` are those for clients and for servers.
fn configuration(name: &str, ports: [u16; 2], folder: &Path, authority: &Authority) -> String {
    let [plain, secure] = ports;
    let [authority, certificate, key] =
        [authority.authority(), authority.certificate(), authority.key()].map(|path| as_text(&path));
    let folder = folder.display();
    let free = "{per_second: 100000, burst_count: 100000}";
    format!(
        "
server_name: '{name}'
public_baseurl: 'http://127.0.0.1:{plain}/'
pid_file: {folder}/pid
listeners:
  - {{port: {plain}, type: http, tls: false, bind_addresses: ['127.0.0.1'], resources: [{{names: [client]}}]}}
  - {{port: {secure}, type: http, tls: true, bind_addresses: ['127.0.0.1'], resources: [{{names: [federation, keys, media]}}]}}
tls_certificate_path: {certificate}
tls_private_key_path: {key}
database: {{name: sqlite3, args: {{database: {folder}/homeserver.db}}}}
log_config: {folder}/log.yaml
media_store_path: {folder}/media
signing_key_path: {folder}/signing.key
registration_shared_secret: the secret of the tests
macaroon_secret_key: another secret
form_secret: a third one
report_stats: false
enable_registration: true
enable_registration_without_verification: true
suppress_key_server_warning: true
trusted_key_servers: []
federation_custom_ca_list: ['{authority}']
ip_range_blacklist: []
federation_ip_range_blacklist: []
federation:
  destination_min_retry_interval: 500
  destination_max_retry_interval: 2000
  destination_retry_multiplier: 2
bcrypt_rounds: 4
caches: {{sync_response_cache_duration: 0}}
allow_public_rooms_over_federation: true
room_list_publication_rules: [{{action: allow}}]
rc_message: {free}
rc_registration: {free}
rc_login: {{address: {free}, account: {free}, failed_attempts: {free}}}
rc_joins: {{local: {free}, remote: {free}}}
rc_joins_per_room: {free}
rc_admin_redaction: {free}
rc_invites: {{per_room: {free}, per_user: {free}, per_issuer: {free}}}
rc_federation: {{window_size: 1000, sleep_limit: 100000, sleep_delay: 1, reject_limit: 100000, concurrent: 100}}
rc_key_requests: {free}
rc_media_create: {free}
rc_third_party_invite: {free}
rc_presence: {{per_user: {free}}}
rc_room_creation: {free}
"
    )
}
