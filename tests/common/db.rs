//! A database for one test: a fresh SQLite file, or a PostgreSQL database cloned from a migrated template.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::server;

/// Where `scripts/postgres-test` runs its cluster unless told otherwise.
const DEFAULT_MAINTENANCE_URL: &str = "postgres://postgres@127.0.0.1:54329/postgres";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Sqlite,
    Postgres,
}

/// A test's own database; dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    /// What goes into `[database] url`.
    pub url: String,
    /// The PostgreSQL database's name; `None` with SQLite, whose file lies in the server's folder.
    name: Option<String>,
}

impl TestDatabase {
    /// `folder` is the test server's own; a SQLite file goes there.
    pub fn create(backend: Backend, folder: &Path) -> Self {
        match backend {
            Backend::Sqlite => Self {
                url: format!("sqlite://{}", folder.join("homeserver.db").display()),
                name: None,
            },
            Backend::Postgres => {
                let template = migrated_template();
                let name = unique("srt");
                psql(&format!("CREATE DATABASE {name} TEMPLATE {template}"));
                Self {
                    url: with_database(&name),
                    name: Some(name),
                }
            }
        }
    }
}

impl TestDatabase {
    /// Has PostgreSQL end everybody's connections; tells how many there were.
    pub fn cut_connections(&self) -> usize {
        let name = self.name.as_deref().expect("a PostgreSQL database");
        let statement = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
        );
        psql(&statement).lines().filter(|line| *line == "t").count()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // A panic here, while a failed test unwinds, would hide the failure.
            let dropped = try_psql(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
            if let Err(error) = dropped {
                eprintln!("cannot drop the database {name}: {error}");
            }
        }
    }
}

/// A name that no other test of this machine has: process id and a counter.
pub fn unique(prefix: &str) -> String {
    static COUNTER: AtomicUsize = AtomicUsize::new(0);
    format!("{prefix}_{}_{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// The name of a database that `synapse-rust migrate` has brought up to date; makes it if these migrations have
/// none yet. Tests are processes of their own under nextest, hence the lock file.
fn migrated_template() -> String {
    let name = format!("srt_template_{:016x}", migrations_hash());
    // A template takes connections only until it is complete.
    let complete = format!("SELECT 1 FROM pg_database WHERE datname = '{name}' AND NOT datallowconn");
    if !psql(&complete).is_empty() {
        return name;
    }
    let path = env::temp_dir().join("synapse-rust-test-template.lock");
    let file = File::create(&path).unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
    file.lock().expect("a file lock is granted in the end");
    if psql(&complete).is_empty() {
        psql(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
        psql(&format!("CREATE DATABASE {name}"));
        server::migrate(&with_database(&name));
        let tables = try_psql_on(
            &with_database(&name),
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'",
        );
        assert!(
            tables.as_deref().is_ok_and(|count| count != "0"),
            "`migrate` has made no tables: {tables:?}"
        );
        psql(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
    }
    name
}

/// Names and contents of everything the migrations are made of.
fn migrations_hash() -> u64 {
    let mut sources = BTreeMap::new();
    read_tree(&workspace().join("migration/src"), &mut sources);
    let mut hasher = DefaultHasher::new();
    sources.hash(&mut hasher);
    hasher.finish()
}

fn read_tree(folder: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    for path in entries.map(|entry| entry.expect("a folder of the sources can be read").path()) {
        if path.is_dir() {
            read_tree(&path, into);
        } else {
            let contents = fs::read(&path).expect("a source file can be read");
            into.insert(path, contents);
        }
    }
}

/// The server's workspace: the first folder above this package that has the migrations.
pub fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.ancestors().find(|folder| folder.join("migration/src").is_dir());
    root.expect("this package lies in the server's workspace").to_owned()
}

fn maintenance_url() -> String {
    env::var("SYNAPSE_RUST_TEST_POSTGRES").unwrap_or_else(|_| DEFAULT_MAINTENANCE_URL.to_owned())
}

fn with_database(name: &str) -> String {
    let url = maintenance_url();
    let (server, _) = url
        .rsplit_once('/')
        .expect("a PostgreSQL URL names its database after the last slash");
    format!("{server}/{name}")
}

/// Runs one statement on the maintenance database; returns its rows, unadorned.
fn psql(statement: &str) -> String {
    try_psql(statement).unwrap_or_else(|error| panic!("{error}"))
}

fn try_psql(statement: &str) -> Result<String, String> {
    try_psql_on(&maintenance_url(), statement)
}

fn try_psql_on(url: &str, statement: &str) -> Result<String, String> {
    let output = Command::new("psql")
        .args([
            "--no-psqlrc",
            "--quiet",
            "--tuples-only",
            "--no-align",
            "--set=ON_ERROR_STOP=1",
        ])
        .args(["--dbname", url, "--command", statement])
        .output()
        .map_err(|error| format!("cannot run psql ({error}): is PostgreSQL installed?"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{statement}: {error}(the tests' cluster at {url} is started by scripts/postgres-test)"
    ))
}
