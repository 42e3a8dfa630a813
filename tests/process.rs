//! The program from outside: its command line, signals, and a second process on the same database.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::common::{
    client::{AnswerExt, PASSWORD, User, encode},
    db::unique,
    server::binary,
};

/// A folder to start the program in; removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn create() -> Self {
        let path = env::temp_dir().join(unique("synapse-rust-process"));
        fs::create_dir_all(&path).expect("the temporary folder can be written");
        Self(path)
    }

    /// Runs the program here with arguments and environment variables.
    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(binary());
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SYNAPSE_RUST_")) {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .envs(variables.iter().copied())
            .current_dir(&self.0)
            .stdin(Stdio::null());
        command.output().expect("the program can be started")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).expect("the test's folder can be written");
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("the test's folder can be read");
        entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[track_caller]
fn failed_with(output: &Output, code: i32, expected: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(expected), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "one clear error: {text}");
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Sends bytes and reads one answer, in lower case where case does not matter.
async fn exchange(connection: &mut TcpStream, bytes: &str) -> String {
    connection.write_all(bytes.as_bytes()).await.expect("the server reads");
    let mut answer = String::new();
    let mut piece = [0; 4_096];
    // Every answer here is one JSON object without others in it.
    while !answer.ends_with('}') {
        let read = connection.read(&mut piece).await.expect("the server answers");
        assert!(read > 0, "the connection was closed after {answer:?}");
        answer.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    answer.replace("Connection: ", "connection: ")
}

#[test]
fn a_wrong_configuration_is_one_error_before_anything_is_made() {
    let folder = Folder::create();
    folder.write("config.toml", "[database]\nmax_conections = 3\n");
    failed_with(
        &folder.run(&[], &[]),
        2,
        "config.toml: database.max_conections: unknown key",
    );
    failed_with(
        &folder.run(&["migrate"], &[]),
        2,
        "database.max_conections: unknown key",
    );
    assert_eq!(folder.names(), ["config.toml"], "nothing was made");

    folder.write("config.toml", "");
    let output = folder.run(&[], &[("SYNAPSE_RUST_LISTENERS", "[]")]);
    failed_with(
        &output,
        2,
        "environment variable SYNAPSE_RUST_LISTENERS: listeners: at least one listener",
    );
    failed_with(
        &folder.run(&["--config", "other.toml"], &[]),
        2,
        "cannot read other.toml",
    );
    assert_eq!(folder.names(), ["config.toml"], "nothing was made");
}

#[test]
fn files_are_generated_once_and_are_good() {
    let folder = Folder::create();
    let arguments = [
        "generate-config",
        "--server-name",
        "example.org",
        "--output",
        "config.toml",
    ];
    succeeded(&folder.run(&arguments, &[]));
    assert!(succeeded(&folder.run(&["check-config"], &[])).contains("example.org on SQLite"));
    failed_with(&folder.run(&arguments, &[]), 1, "cannot write config.toml");

    let arguments = ["generate-signing-key", "--output", "my.key"];
    succeeded(&folder.run(&arguments, &[]));
    let key = fs::read_to_string(folder.0.join("my.key")).expect("the key was written");
    assert!(key.starts_with("ed25519 a_") && key.ends_with('\n'), "{key}");
    failed_with(&folder.run(&arguments, &[]), 1, "my.key");
    assert_eq!(
        fs::read_to_string(folder.0.join("my.key")).expect("the key is still there"),
        key
    );
}

#[test]
fn check_config_looks_at_the_files_that_are_named() {
    let folder = Folder::create();
    folder.write("config.toml", "[federation]\ncustom_ca_paths = [\"ca.pem\"]\n");
    let output = folder.run(&["check-config"], &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("federation.custom_ca_paths.0: cannot read ca.pem"),
        "{text}"
    );
    folder.write("ca.pem", "no certificate");
    let output = folder.run(&["check-config"], &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("ca.pem has no certificate in PEM"));
}

#[test]
fn files_and_keys_that_cannot_be_used_stop_the_start() {
    let folder = Folder::create();
    folder.write("my.key", "ed25519 a_1 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n");
    let begin = "signing_key_path = \"my.key\"\n[[listeners]]\nport = 0\n";
    folder.write(
        "config.toml",
        &format!("{begin}[http_client]\ncustom_ca_paths = [\"ca.pem\"]\n"),
    );
    let output = folder.run(&[], &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("http_client.custom_ca_paths.0: cannot read ca.pem"),
        "{text}"
    );

    let old = "old_signing_keys = [{ key_id = \"ed25519:a_1\", public_key = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\", expired_ts = 1 }]\n";
    folder.write("config.toml", &format!("{old}{begin}"));
    let output = folder.run(&[], &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("old_signing_keys.0.key_id: ed25519:a_1 is the key that"),
        "{text}"
    );
}

both_databases! {
    config |table| {
        let registration = table["registration"].as_table_mut().expect("the section is there");
        registration.remove("shared_secret");
    }
    async fn without_a_shared_secret_the_server_has_to_be_stopped(server) {
        let register = ["register-user", "--user", "root", "--password", PASSWORD, "--admin"];
        failed_with(&server.run_command(&register), 2, "set registration.shared_secret (and restart), or stop it");
        server.stop().await;
        succeeded(&server.run_command(&register));
    }

    async fn a_user_is_registered_on_a_running_and_on_a_stopped_server(server) {
        let password = ["--password", PASSWORD];
        let register = |arguments: &[&str]| {
            let all = [&["register-user"], arguments, &password].concat();
            server.run_command(&all)
        };
        succeeded(&register(&["--user", "running", "--admin"]));
        let running = User::login(&server.client, "running").await;
        running.get("/_synapse/admin/v1/actors").await.ok();
        failed_with(&register(&["--user", "running"]), 1, "M_USER_IN_USE");

        assert!(server.stop().await.success());
        succeeded(&register(&["--user", "@stopped:localhost", "--no-admin"]));
        succeeded(&register(&["--user", "boss", "--admin"]));
        failed_with(&register(&["--user", "stopped"]), 1, "M_USER_IN_USE");
        failed_with(&register(&["--user", "@x:elsewhere"]), 2, "this server is localhost");
        failed_with(&register(&["--user", "no spaces"]), 2, "no spaces");

        server.restart().await;
        let stopped = User::login(&server.client, "stopped").await;
        stopped.get("/_synapse/admin/v1/actors").await.refused(403, "M_FORBIDDEN");
        let boss = User::login(&server.client, "boss").await;
        boss.get("/_synapse/admin/v1/actors").await.ok();
    }

    async fn a_stop_is_clean_and_ends_long_polls(server) {
        let alice = server.register("alice").await;
        let since = alice.get("sync").await.ok()["next_batch"].as_str().expect("a token").to_owned();
        let poll = async {
            let path = format!("sync?timeout=120000&since={since}");
            alice.get(&path).await.ok()["next_batch"].as_str().map(str::to_owned)
        };
        let stop = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let begin = Instant::now();
            assert!(server.stop().await.success());
            begin.elapsed()
        };
        let (answer, took) = tokio::join!(poll, stop);
        assert!(answer.is_some());
        assert!(took < Duration::from_secs(10), "{took:?}");
        server.restart().await;
        alice.get("account/whoami").await.ok();
    }

    async fn a_stopping_server_answers_everyone_who_came(server) {
        let alice = server.register("alice").await;
        let note = |name: &str| {
            let path = format!("user/{}/account_data/{name}", encode(&alice.user_id));
            let (path, token) = (server.client.url(&path).replace(&server.client.base, ""), &alice.token);
            let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 9");
            (format!("{head}\r\n\r\n"), "{\"a\": 12}")
        };
        let connect = || TcpStream::connect(server.client.base.trim_start_matches("http://").to_owned());
        let mut idle = connect().await.expect("the server listens");
        let mut kept = connect().await.expect("the server listens");
        let (head, body) = note("org.example.kept");
        let first = exchange(&mut kept, &format!("{head}{body}")).await;
        assert!(first.starts_with("HTTP/1.1 200") && !first.contains("connection: close"), "{first}");
        let mut halfway = connect().await.expect("the server listens");
        let (head, rest) = note("org.example.halfway");
        halfway.write_all(head.as_bytes()).await.expect("the server reads");
        // Once this has been answered, the server has read what came before it.
        server.client.get("/_matrix/client/versions").await.ok();

        server.signal("TERM");
        let begin = Instant::now();
        while connect().await.is_ok() {
            assert!(begin.elapsed() < Duration::from_secs(10), "new connections are still taken");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (head, body) = note("org.example.late");
        let late = exchange(&mut kept, &format!("{head}{body}")).await;
        assert!(late.starts_with("HTTP/1.1 200") && late.contains("connection: close"), "{late}");
        let done = exchange(&mut halfway, rest).await;
        assert!(done.starts_with("HTTP/1.1 200") && done.contains("connection: close"), "{done}");
        for connection in [&mut kept, &mut halfway, &mut idle] {
            assert_eq!(connection.read(&mut [0; 100]).await.expect("an orderly end"), 0);
        }
        server.logged("stopped").await;
        assert!(server.ended(Duration::from_secs(10)).await);
        server.restart().await;
        for name in ["kept", "late", "halfway"] {
            let path = format!("user/{}/account_data/org.example.{name}", encode(&alice.user_id));
            alice.get(&path).await.ok();
        }
    }

    async fn a_hangup_reloads_what_can_be_reloaded(server) {
        let versions = || server.client.get("/_matrix/client/versions");
        server.edit_config(|config| {
            let limits = toml::toml! {
                enabled = true
                login = { per_second = 0.001, burst = 1 }
            };
            config.insert("rate_limits".into(), limits.into());
            config.insert("logging".into(), toml::toml! { level = "debug" }.into());
            config.insert("default_room_version".into(), "10".into());
        });
        server.signal("HUP");
        server.logged("taken over only by a restart").await;
        server.logged("default_room_version").await;
        server.logged("rate_limits.login.burst").await;
        versions().await.ok();
        let body = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "x" },
                           "password": "y" });
        server.client.post("login", body.clone()).await.refused(403, "M_FORBIDDEN");
        server.client.post("login", body).await.refused(429, "M_LIMIT_EXCEEDED");

        server.edit_config(|config| {
            config.insert("no_such_key".into(), 1.into());
        });
        server.signal("HUP");
        server.logged("no_such_key: unknown key").await;
        versions().await.ok();
    }
}
