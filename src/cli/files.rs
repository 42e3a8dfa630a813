//! Commands that write a file: `generate-config` and `generate-signing-key`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use actors::federation::tls::read_authorities;
use actors::rng::Rng;
use ruma::ServerName;

use super::{Failure, GenerateConfig, GenerateSigningKey};
use crate::config::{self, Config};
use crate::signing_key::{self, StoredKey};

/// The shipped `config.toml` with another server's name in it.
pub(super) fn config_for(server_name: &ServerName) -> String {
    config::TEMPLATE.replacen(
        "server_name = \"localhost\"",
        &format!("server_name = \"{server_name}\""),
        1,
    )
}

pub(super) fn generate_config(args: &GenerateConfig) -> Result<(), Failure> {
    let text = config_for(&args.server_name);
    match &args.output {
        None => print(&text),
        Some(path) => write_new(path, &text),
    }
}

pub(super) fn generate_signing_key(args: &GenerateSigningKey) -> Result<(), Failure> {
    let rng = Rng::system();
    let key = StoredKey::generate(&rng);
    match &args.output {
        None => print(&format!("{}\n", key.to_line())),
        Some(path) => signing_key::create(path, &key, &rng).map_err(|error| Failure::Failed(error.to_string())),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        // The reader (`head`, a pager) has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(|error| Failure::Failed(format!("standard output: {error}"))),
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))
}

/// Files that `config` names and the server needs, with what is wrong with them.
pub(super) fn unreadable(config: &Config) -> Vec<String> {
    let mut wanted = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate().filter(|(_, listener)| listener.tls) {
        let key = |name| format!("listeners.{index}.{name}");
        wanted.extend(
            listener
                .tls_certificate_path
                .iter()
                .map(|path| (key("tls_certificate_path"), path, Pem::Certificate)),
        );
        wanted.extend(
            listener
                .tls_private_key_path
                .iter()
                .map(|path| (key("tls_private_key_path"), path, Pem::Key)),
        );
    }
    for (table, paths) in [
        ("federation", &config.federation.custom_ca_paths),
        ("http_client", &config.http_client.custom_ca_paths),
    ] {
        let key = |(index, path)| (format!("{table}.custom_ca_paths.{index}"), path, Pem::Authorities);
        wanted.extend(paths.iter().enumerate().map(key));
    }
    wanted
        .into_iter()
        .filter_map(|(key, path, kind)| pem_problem(&key, path, kind))
        .collect()
}

#[derive(Clone, Copy)]
enum Pem {
    Authorities,
    Certificate,
    Key,
}

fn pem_problem(key: &str, path: &Path, kind: Pem) -> Option<String> {
    if matches!(kind, Pem::Authorities) {
        return read_authorities(path).err().map(|problem| format!("{key}: {problem}"));
    }
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) => return Some(format!("{key}: cannot read {}: {error}", path.display())),
    };
    let mut reader = text.as_slice();
    let (name, found) = match kind {
        Pem::Certificate | Pem::Authorities => (
            "certificate",
            matches!(rustls_pemfile::certs(&mut reader).next(), Some(Ok(_))),
        ),
        Pem::Key => (
            "private key",
            matches!(rustls_pemfile::private_key(&mut reader), Ok(Some(_))),
        ),
    };
    (!found).then(|| format!("{key}: {} has no {name} in PEM", path.display()))
}
