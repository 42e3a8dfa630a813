//! The command line.

mod files;
mod prompt;
mod register;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::boot;
use crate::config::{self, Config, ConfigError, DatabaseKind};

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or stopped as asked
  1  something failed; the last line on standard error says what
  2  the command line or the configuration is wrong

Configuration comes from built-in defaults, then the file, then environment variables named SYNAPSE_RUST_ and the
key's path in capitals with `__` for each dot, like SYNAPSE_RUST_DATABASE__URL.

Signals: SIGINT and SIGTERM stop the server after the work under way; SIGHUP reads the configuration again.";

/// A Matrix homeserver. Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "synapse-rust", version, about, after_help = EXIT_CODES, subcommand_negates_reqs = true)]
pub struct Cli {
    /// Configuration file [default: ./config.toml if it is there, else built-in defaults]
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a configuration file with every key, its default and what it does
    GenerateConfig(GenerateConfig),
    /// Make a signing key
    GenerateSigningKey(GenerateSigningKey),
    /// Register a user, on the running server or else straight in the database
    ///
    /// What is missing is asked for when standard input is a terminal. On a running server this needs
    /// registration.shared_secret in the configuration.
    RegisterUser(RegisterUser),
    /// Bring the database to this version's tables and exit
    Migrate,
    /// Say whether the configuration is good, and exit
    CheckConfig,
}

#[derive(Debug, Args)]
pub struct GenerateConfig {
    /// The server's name: the part after the colon in user ids
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    pub server_name: ruma::OwnedServerName,
    /// A new file to write to; one that exists is left alone [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct GenerateSigningKey {
    /// A new file to write to, with mode 0600; one that exists is left alone [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RegisterUser {
    /// Name of the user: `alice` or `@alice:server.name`
    #[arg(short, long, value_name = "NAME")]
    pub user: Option<String>,
    /// Password; others on this machine can see it while the command runs
    #[arg(short, long, value_name = "PASSWORD")]
    pub password: Option<String>,
    /// Make the user an administrator
    #[arg(short, long, conflicts_with = "no_admin")]
    pub admin: bool,
    /// Make the user an ordinary one
    #[arg(long)]
    pub no_admin: bool,
    /// Where the running server is [default: the first listener with the resource `admin`]
    #[arg(long, value_name = "URL")]
    pub server_url: Option<config::BaseUrl>,
}

/// Why a command ended without having done its work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
        }
    }
}

/// Shorthand for errors of the system and other crates.
pub(crate) fn failed(context: &str) -> impl Fn(&dyn std::fmt::Display) -> Failure {
    move |error| Failure::Failed(format!("{context}: {error}"))
}

/// Parses the process's arguments, does what they say and answers the exit code.
pub fn main() -> ExitCode {
    // Fails only if there is a provider already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("synapse-rust: {failure}");
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let load = || config::load(cli.config.as_deref());
    match cli.command {
        None => serve(load()?, &load),
        Some(Command::GenerateConfig(args)) => files::generate_config(&args),
        Some(Command::GenerateSigningKey(args)) => files::generate_signing_key(&args),
        Some(Command::RegisterUser(args)) => register::run(&load()?, args),
        Some(Command::Migrate) => migrate(&load()?),
        Some(Command::CheckConfig) => check_config(&load()?),
    }
}

fn serve(config: Config, reread: boot::Reread<'_>) -> Result<(), Failure> {
    boot::run(config, reread).map_err(|error| Failure::Failed(error.to_string()))
}

/// The runtime of commands that end by themselves.
pub(crate) fn small_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed("runtime")(&error))
}

fn migrate(config: &Config) -> Result<(), Failure> {
    let url = &config.database.url;
    let done = small_runtime()?.block_on(migration::run(url.expose()));
    done.map_err(|error| failed(&format!("database {}", url.redacted()))(&error))?;
    println!("{}: up to date", url.redacted());
    Ok(())
}

fn check_config(config: &Config) -> Result<(), Failure> {
    for warning in config::warnings(config) {
        eprintln!("warning: {warning}");
    }
    let problems = files::unreadable(config);
    for problem in &problems {
        eprintln!("error: {problem}");
    }
    if !problems.is_empty() {
        return Err(Failure::Usage(
            "the configuration names files that cannot be used".to_owned(),
        ));
    }
    let database = match config.database.url.kind() {
        DatabaseKind::Sqlite => "SQLite",
        DatabaseKind::Postgres => "PostgreSQL",
    };
    println!(
        "configuration is good: {} on {database}, {} listener(s)",
        config.server_name,
        config.listeners.len()
    );
    Ok(())
}
