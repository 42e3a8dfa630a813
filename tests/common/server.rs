//! The real server as a child process on a port, with a folder and a database of its own.

use std::{
    env,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use toml::{Table, Value, toml};

use super::{
    client::{Client, User},
    db::{Backend, TestDatabase, unique},
    port::Port,
};

/// The longest that a start or a stop may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// `[registration] shared_secret` of every test server.
pub const SHARED_SECRET: &str = "the secret of the tests";

/// One server; killed, and its folder and database removed, when dropped.
#[derive(Debug)]
pub struct TestServer {
    /// A client without a token.
    pub client: Client,
    process: Mutex<Option<Child>>,
    // Dropped after the process has been killed, in this order.
    database: TestDatabase,
    folder: Folder,
    _port: Port,
}

impl TestServer {
    /// Starts a server on a fresh database and waits until it answers. `change` may alter its configuration.
    pub async fn start(backend: Backend, change: impl FnOnce(&mut Table)) -> Self {
        let folder = Folder::create();
        let database = TestDatabase::create(backend, &folder.0);
        let mut config = default_config(&folder.0, &database.url);
        change(&mut config);
        let mut attempts = 5;
        loop {
            let (base, port) = listen_on_a_free_port(&mut config);
            let client = Client::new(&base);
            let text = toml::to_string(&config).expect("a table of plain values is TOML");
            fs::write(folder.config(), text).expect("the test's folder can be written");
            let mut process = folder.spawn(&[]);
            match wait_until_ready(&client, &mut process, &folder).await {
                Ok(()) => {
                    return Self {
                        client,
                        process: Mutex::new(Some(process)),
                        database,
                        folder,
                        _port: port,
                    };
                }
                // Somebody took the port between our look and the server's.
                Err(log) if log.contains("in use") && attempts > 1 => attempts -= 1,
                Err(log) => panic!("the server did not start:\n{log}"),
            }
        }
    }

    /// Registers a user with a password and a first device.
    pub async fn register(&self, localpart: &str) -> User {
        User::register(&self.client, localpart).await
    }

    /// `kill -9`: the process gets no chance to finish anything.
    pub fn kill(&self) {
        if let Some(mut process) = self.process().take() {
            kill_and_wait(&mut process);
        }
    }

    /// SIGTERM; returns how the process ended.
    pub async fn stop(&self) -> ExitStatus {
        self.signal("TERM");
        let mut process = self.process().take().expect("the server runs");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = process.try_wait().expect("a child can be asked for its end") {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        kill_and_wait(&mut process);
        panic!("the server did not stop:\n{}", self.folder.log());
    }

    /// Starts the killed or stopped server again, on the same port and data.
    /// Returns the time from the start of the process to its first answer.
    pub async fn restart(&self) -> Duration {
        self.restart_with(&[]).await
    }

    /// As [`TestServer::restart`], with environment variables.
    pub async fn restart_with(&self, variables: &[(&str, &str)]) -> Duration {
        let begin = Instant::now();
        let mut process = self.folder.spawn(variables);
        let ready = wait_until_ready(&self.client, &mut process, &self.folder).await;
        let took = begin.elapsed();
        if let Err(log) = ready {
            panic!("the server did not start again:\n{log}");
        }
        let before = self.process().replace(process);
        assert!(before.is_none(), "restart needs a killed or stopped server");
        took
    }

    /// Waits until the process has ended by itself, for at most `patience`; tells whether it has.
    pub async fn ended(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            if self.has_ended() {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn has_ended(&self) -> bool {
        let mut process = self.process();
        let running = process.as_mut().expect("the server was started");
        let ended = running.try_wait().expect("a child can be asked for its end").is_some();
        if ended {
            *process = None;
        }
        ended
    }

    /// A second process on the same database, behind a port of its own.
    pub async fn rival(&self) -> Rival {
        let folder = Folder::create();
        let text = fs::read_to_string(self.folder.config()).expect("the configuration was written at the start");
        let mut config: Table = text.parse().expect("the configuration is TOML");
        let (base, port) = listen_on_a_free_port(&mut config);
        let client = Client::new(&base);
        let text = toml::to_string(&config).expect("a table of plain values is TOML");
        fs::write(folder.config(), text).expect("the test's folder can be written");
        let mut process = folder.spawn(&[]);
        if let Err(log) = wait_until_ready(&client, &mut process, &folder).await {
            panic!("the second process did not start:\n{log}");
        }
        Rival {
            client,
            process,
            _folder: folder,
            _port: port,
        }
    }

    /// Has PostgreSQL end all of the server's connections; tells how many there were.
    pub fn cut_connections(&self) -> usize {
        self.database.cut_connections()
    }

    /// Runs a command of the program with this server's configuration, whether the server runs or not.
    pub fn run_command(&self, arguments: &[&str]) -> Output {
        let mut command = self.folder.command();
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.output().expect("the program can be started")
    }

    /// Changes the configuration file of the running server.
    pub fn edit_config(&self, change: impl FnOnce(&mut Table)) {
        let text = fs::read_to_string(self.folder.config()).expect("the configuration was written at the start");
        let mut config: Table = text.parse().expect("the configuration is TOML");
        change(&mut config);
        let text = toml::to_string(&config).expect("a table of plain values is TOML");
        fs::write(self.folder.config(), text).expect("the test's folder can be written");
    }

    /// Sends a signal by its name, like `HUP`.
    pub fn signal(&self, name: &str) {
        let process = self.process();
        let id = process.as_ref().expect("the server runs").id();
        let command = format!("kill -{name} {id}");
        let sent = Command::new("sh").args(["-c", &command]).status();
        assert!(sent.is_ok_and(|status| status.success()), "cannot run {command}");
    }

    /// The running process, as the system knows it.
    pub fn process_id(&self) -> u32 {
        self.process().as_ref().expect("the server runs").id()
    }

    /// The memory that the process holds now, KiB.
    pub fn memory_kib(&self) -> u64 {
        let id = self.process_id();
        let path = format!("/proc/{id}/status");
        let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no VmRSS in {path}"))
    }

    /// Waits until the server's log has `text`.
    pub async fn logged(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.folder.log().contains(text) {
            assert!(
                Instant::now() < deadline,
                "the log lacks {text:?}:\n{}",
                self.folder.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`TestServer::rival`]; killed when dropped.
#[derive(Debug)]
pub struct Rival {
    /// A client without a token.
    pub client: Client,
    process: Child,
    _folder: Folder,
    _port: Port,
}

impl Drop for Rival {
    fn drop(&mut self) {
        kill_and_wait(&mut self.process);
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("the server's log ends with:\n{}", self.folder.log());
        }
    }
}

/// Brings a database's schema up to date with the server's own command.
pub fn migrate(database_url: &str) {
    let folder = Folder::create();
    let mut config = default_config(&folder.0, database_url);
    let (_, _port) = listen_on_a_free_port(&mut config);
    fs::write(
        folder.config(),
        toml::to_string(&config).expect("a table of plain values is TOML"),
    )
    .expect("the test's folder can be written");
    let status = folder.command().arg("migrate").status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "`migrate` failed:\n{}",
        folder.log()
    );
}

/// A configuration that makes tests quick: a cheap password hash, no rate limits, open registration.
fn default_config(folder: &Path, database_url: &str) -> Table {
    let mut config = toml! {
        server_name = "localhost"

        [registration]
        enabled = true
        enabled_without_verification = true
        allow_guest_access = true

        [passwords]
        cheap_hash_for_testing = true

        [rate_limits]
        enabled = false
    };
    let mut set = |section: &str, key: &str, value: String| {
        let table = config.entry(section).or_insert_with(|| Value::Table(Table::new()));
        table
            .as_table_mut()
            .expect("a section is a table")
            .insert(key.to_owned(), Value::String(value));
    };
    set("registration", "shared_secret", SHARED_SECRET.to_owned());
    set("database", "url", database_url.to_owned());
    set("media", "store_path", folder.join("media").display().to_string());
    config.insert(
        "signing_key_path".to_owned(),
        Value::String(folder.join("signing.key").display().to_string()),
    );
    config
}

/// Puts a listener on a port of its own; returns its base URL. Listeners that a test has
/// configured by itself stay, with the new port in the first one.
fn listen_on_a_free_port(config: &mut Table) -> (String, Port) {
    let port = Port::claim();
    let base = format!("http://127.0.0.1:{}", port.number());
    let listeners = config.entry("listeners").or_insert_with(|| {
        let listener = toml! {
            bind_addresses = ["127.0.0.1"]
            tls = false
            resources = ["client", "federation", "keys", "media", "admin", "metrics"]
        };
        Value::Array(vec![Value::Table(listener)])
    });
    let first = listeners
        .as_array_mut()
        .and_then(|all| all.first_mut())
        .and_then(Value::as_table_mut);
    first
        .expect("the first of `[[listeners]]` is a table")
        .insert("port".to_owned(), Value::Integer(port.number().into()));
    config.insert("public_baseurl".to_owned(), Value::String(base.clone()));
    (base, port)
}

/// Waits for the first answer; the server's log if it ends or stays silent instead.
async fn wait_until_ready(client: &Client, process: &mut Child, folder: &Folder) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Ok((200, _)) = client.try_request("GET", "/_matrix/client/versions", None, None).await {
            return Ok(());
        }
        if let Some(status) = process.try_wait().expect("a child can be asked for its end") {
            return Err(format!("{}(ended with {status})", folder.log()));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    kill_and_wait(process);
    Err(format!("{}(no answer for {} s)", folder.log(), PATIENCE.as_secs()))
}

fn kill_and_wait(process: &mut Child) {
    // An error means that it has ended by itself.
    drop(process.kill());
    process.wait().expect("a child can be waited for");
}

/// A server's files: configuration, log, signing key, media, SQLite database. Removed when dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn create() -> Self {
        let path = env::temp_dir().join(unique("synapse-rust-test"));
        // A leftover of an earlier process with the same id, if any.
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        Self(path)
    }

    fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    fn spawn(&self, variables: &[(&str, &str)]) -> Child {
        let mut command = self.command();
        command.envs(variables.iter().copied());
        command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", binary().display()))
    }

    /// The server with this folder's configuration, writing to this folder's log.
    fn command(&self) -> Command {
        let open = || {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.0.join("server.log"))
        };
        let log = || open().expect("the test's folder can be written");
        let mut command = Command::new(binary());
        command.arg("--config").arg(self.config()).current_dir(&self.0);
        command.stdin(Stdio::null()).stdout(log()).stderr(log());
        // The server reads settings from its environment; a test's are all in its file.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SYNAPSE_RUST_")) {
            command.env_remove(name);
        }
        command
    }

    /// The last lines of the server's log.
    fn log(&self) -> String {
        let text = fs::read(self.0.join("server.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let mut tail = lines[lines.len().saturating_sub(100)..].join("\n");
        tail.push('\n');
        tail
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        keep_log(&self.0);
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Copies a server's log to the folder that `TEST_LOGS` names, if it names one.
pub fn keep_log(folder: &Path) {
    if let (Some(logs), Some(name)) = (env::var_os("TEST_LOGS"), folder.file_name()) {
        let copy = Path::new(&logs).join(name).with_extension("log");
        if let Err(error) = fs::copy(folder.join("server.log"), &copy) {
            eprintln!("cannot write {}: {error}", copy.display());
        }
    }
}

/// The server under test: `SYNAPSE_RUST_BIN`, or else the one that cargo has built for this package's tests.
pub fn binary() -> PathBuf {
    let named = env::var_os("SYNAPSE_RUST_BIN").map(PathBuf::from);
    named
        .or_else(|| option_env!("CARGO_BIN_EXE_synapse-rust").map(PathBuf::from))
        .unwrap_or_else(|| {
            panic!("SYNAPSE_RUST_BIN must name the server's binary; scripts/test builds it and sets the variable")
        })
}
