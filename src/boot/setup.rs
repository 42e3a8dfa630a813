//! What the process opens before it serves: signing key, database, hub.

use std::path::PathBuf;
use std::sync::Arc;

use actors::clock::Clock;
use actors::env::Parts;
use actors::federation::{KeyRingSettings, OldKey, OutboundSettings, WireSettings, tls};
use actors::hub::Hub;
use actors::key::ServerKey;
use actors::mail::{Encryption, MailSettings};
use actors::policy::KEY_VERSION;
use actors::policy::judge::PolicyRules;
use actors::rng::Rng;
use actors::session::token;
use actors::settings::{DelayedLimits, Settings, UserLimits};
use actors::supervisor::Arbiters;
use entities::store::{Store, StoreOptions};
use ipnet::IpNet;
use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;

use super::BootError;
use crate::config::{self, Config, DatabaseKind, IpRange, OldSigningKey, Resource, Voice};
use crate::signing_key;

/// Of `database.max_connections` on PostgreSQL: those that write beside the journal's.
const WRITE_CONNECTIONS: u32 = 5;
/// The journal's, on PostgreSQL.
const JOURNAL_CONNECTIONS: u32 = 2;
/// On SQLite more readers than this only cost memory.
const SQLITE_READERS: u32 = 16;
/// Brings the tables up to date, under a lock, and opens the pools.
pub async fn open_store(config: &Config) -> Result<Store, BootError> {
    let url = &config.database.url;
    migration::run(url.expose())
        .await
        .map_err(|error| BootError::database(url, error))?;
    Store::connect(store_options(config))
        .await
        .map_err(|error| BootError::database(url, error))
}

/// The actors on their threads. Takes the database over from any former process.
pub(super) async fn open_hub(
    config: &Config,
    settings: Settings,
    key: ServerKey,
    rng: Rng,
    store: Store,
    io: Handle,
    arbiters: Arbiters,
) -> Result<Arc<Hub>, BootError> {
    let parts = Parts {
        settings,
        server_name: config.server_name.clone(),
        key,
        store,
        clock: Clock::system(),
        rng,
        io,
    };
    Hub::open(parts, arbiters)
        .await
        .map_err(|error| BootError::database(&config.database.url, error))
}

/// [`settings`] with what the files hold that the configuration names.
pub(super) fn settings_with_files(config: &Config, key: &ServerKey, rng: &Rng) -> Result<Settings, BootError> {
    let mut settings = settings(config);
    settings.policy = policy(&config.policy_server, rng)?;
    settings.wire.authorities = authorities("federation", &config.federation.custom_ca_paths)?;
    settings.outbound.authorities = authorities("http_client", &config.http_client.custom_ca_paths)?;
    require_retired(&settings.keyring.old_keys, key)?;
    Ok(settings)
}

/// What this server refuses as a policy server; its key is made on the first start.
fn policy(config: &config::PolicyServer, rng: &Rng) -> Result<Option<PolicyRules>, BootError> {
    if !config.enabled {
        return Ok(None);
    }
    let (key, made) = signing_key::read_or_create(&config.signing_key_path, rng)?;
    if made {
        let path = config.signing_key_path.display();
        tracing::info!(%path, "made a policy server's signing key; rooms name it, so keep a copy of it");
    }
    let lower = |texts: &[String]| -> Vec<String> { texts.iter().map(|text| text.to_lowercase()).collect() };
    let mut words = lower(&config.refused_words);
    // It would be in every event.
    words.retain(|word| !word.is_empty());
    Ok(Some(PolicyRules {
        key: key.server_key_as(KEY_VERSION),
        words,
        users: lower(&config.refused_users),
        servers: lower(&config.refused_servers),
    }))
}

/// The certificate authorities of the files that a section names.
fn authorities(section: &str, paths: &[PathBuf]) -> Result<Vec<CertificateDer<'static>>, BootError> {
    let mut found = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let read = tls::read_authorities(path);
        found.extend(read.map_err(|detail| BootError::setting(format!("{section}.custom_ca_paths.{index}"), detail))?);
    }
    Ok(found)
}

/// A key in use is no old one.
fn require_retired(old: &[OldKey], key: &ServerKey) -> Result<(), BootError> {
    match old.iter().position(|old| old.key_id == key.id()) {
        None => Ok(()),
        Some(index) => Err(BootError::setting(
            format!("old_signing_keys.{index}.key_id"),
            format!("{} is the key that this server signs with", key.id()),
        )),
    }
}

/// The signing key, made on the first start.
pub(super) fn signing_key(config: &Config, rng: &Rng) -> Result<ServerKey, BootError> {
    let (key, made) = signing_key::read_or_create(&config.signing_key_path, rng)?;
    if made {
        let path = config.signing_key_path.display();
        tracing::info!(key = format!("ed25519:{}", key.version()), %path, "made a signing key; keep a copy of it");
    }
    Ok(key.server_key())
}

/// `database.max_connections` shared out among the pools.
pub fn store_options(config: &Config) -> StoreOptions {
    let all = config.database.max_connections;
    let readers = match config.database.url.kind() {
        DatabaseKind::Sqlite => all.saturating_sub(1).min(SQLITE_READERS),
        DatabaseKind::Postgres => all.saturating_sub(WRITE_CONNECTIONS + JOURNAL_CONNECTIONS),
    };
    StoreOptions {
        max_connections: readers.max(1),
        write_connections: WRITE_CONNECTIONS,
        ..StoreOptions::new(config.database.url.expose())
    }
}

fn voice(voice: &Voice) -> actors::media::voice::Settings {
    actors::media::voice::Settings {
        max_size_bytes: voice.max_size_bytes,
        max_duration_ms: voice.max_duration_secs.saturating_mul(1_000),
        default_sample_rate: voice.default_sample_rate,
        default_channels: voice.default_channels,
        loudness_lufs: voice.loudness_lufs,
    }
}

/// What the actors need to know of the configuration.
pub fn settings(config: &Config) -> Settings {
    let Config {
        actors,
        passwords,
        tokens,
        ..
    } = config;
    let (argon2_memory_kib, argon2_iterations, argon2_parallelism) = passwords.parameters();
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    Settings {
        default_room_version: config.default_room_version.clone(),
        arbiters: usize::try_from(actors.arbiter_threads)
            .ok()
            .filter(|&threads| threads > 0)
            .unwrap_or(cores),
        room_idle_secs: actors.room_idle_secs,
        session_idle_secs: actors.session_idle_secs,
        peer_idle_secs: actors.peer_idle_secs,
        room_cache_bytes: actors.room_cache_bytes,
        event_cache_bytes: actors.event_cache_bytes,
        user_cache_bytes: actors.user_cache_bytes,
        cache_idle_secs: actors.cache_idle_secs,
        argon2_memory_kib,
        argon2_iterations,
        argon2_parallelism,
        refreshable_access_token_lifetime_ms: millis(tokens.access_token_lifetime_secs),
        refresh_token_lifetime_ms: Some(millis(tokens.refresh_token_lifetime_secs)).filter(|&life| life > 0),
        uia_session_ms: millis(config.ui_auth.recent_login_secs),
        uia_timeout_ms: millis(config.ui_auth.session_timeout_secs),
        presence_enabled: config.presence.enabled,
        media_path: config.media.store_path.clone(),
        max_upload_bytes: config.media.max_upload_bytes,
        voice: voice(&config.voice),
        unused_upload_lifetime_ms: millis(config.media.unused_upload_lifetime_secs),
        user_limits: UserLimits {
            account_data_entries: config.user_limits.account_data_entries,
            account_data_bytes: config.user_limits.account_data_bytes,
            filters: config.user_limits.filters,
            to_device_messages: config.user_limits.to_device_messages_per_device,
            key_backup_bytes: config.user_limits.key_backup_bytes,
        },
        wire: wire(config),
        keyring: keyring(config),
        outbound: outbound(config),
        // Its key is in a file.
        policy: None,
        preview_blocklist: nets(&config.media.url_preview_ip_range_blocklist),
        mail: mail(config),
        delayed: DelayedLimits {
            max_delay_ms: millis(config.delayed_events.max_delay_secs),
            max_scheduled: config.delayed_events.max_scheduled_per_user,
        },
    }
}

/// Links lead to where clients find this server, or else to where it is found without being told.
fn mail(config: &Config) -> Option<MailSettings> {
    let email = &config.email;
    let host = email.smtp_host.clone()?;
    let base_url = match config.client_base_url() {
        Some(base) => base.as_str().to_owned(),
        None if config.server_name.host() == "localhost" => format!("http://localhost:{}", first_port(config)),
        None => format!("https://{}", config.server_name),
    };
    let sender = || format!("{name} <noreply@{name}>", name = config.server_name.host());
    let credentials = email.username.clone().zip(email.password.as_ref());
    Some(MailSettings {
        host,
        port: email.smtp_port,
        encryption: match email.encryption {
            config::MailEncryption::None => Encryption::None,
            config::MailEncryption::StartTls => Encryption::StartTls,
            config::MailEncryption::Implicit => Encryption::Implicit,
        },
        credentials: credentials.map(|(name, password)| (name, token::Secret::new(password.expose().to_owned()))),
        from: email.from.clone().unwrap_or_else(sender),
        base_url: base_url.trim_end_matches('/').to_owned(),
        link_lifetime_ms: millis(email.link_lifetime_secs),
    })
}

/// The port of the first listener for clients.
fn first_port(config: &Config) -> u16 {
    let listener = config
        .listeners
        .iter()
        .find(|listener| listener.serves(Resource::Client));
    listener.map_or(8008, |listener| listener.port)
}

/// Without the certificate authorities, which are in files.
fn wire(config: &Config) -> WireSettings {
    WireSettings {
        enabled: config.federation.enabled,
        authorities: Vec::new(),
        ip_range_blocklist: nets(&config.federation.ip_range_blocklist),
        insecure_skip_tls_verify: config.http_client.insecure_skip_tls_verify,
    }
}

/// Without the certificate authorities, which are in files.
fn outbound(config: &Config) -> OutboundSettings {
    OutboundSettings {
        authorities: Vec::new(),
        ip_range_blocklist: nets(&config.http_client.ip_range_blocklist),
        insecure_skip_tls_verify: config.http_client.insecure_skip_tls_verify,
    }
}

fn keyring(config: &Config) -> KeyRingSettings {
    let old = |old: &OldSigningKey| {
        Some(OldKey {
            key_id: old.key_id.clone(),
            // Checked with the configuration.
            public_key: config::public_key(&old.public_key)?,
            expired_ts: i64::try_from(old.expired_ts).unwrap_or(i64::MAX),
        })
    };
    KeyRingSettings {
        old_keys: config.old_signing_keys.iter().filter_map(old).collect(),
        trusted_key_servers: config.federation.trusted_key_servers.clone(),
    }
}

fn nets(ranges: &[IpRange]) -> Vec<IpNet> {
    ranges.iter().map(|range| *range.net()).collect()
}

fn millis(secs: u64) -> i64 {
    i64::try_from(secs).unwrap_or(i64::MAX).saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn read(text: &str) -> Config {
        config::parse("test", text, []).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn connections_are_shared_out() {
        let postgres = store_options(&read("[database]\nurl = \"postgres://h/d\"\nmax_connections = 20"));
        assert_eq!((postgres.max_connections, postgres.write_connections), (13, 5));
        assert_eq!(
            store_options(&read("[database]\nmax_connections = 8")).max_connections,
            7
        );
        assert_eq!(
            store_options(&read("[database]\nmax_connections = 99")).max_connections,
            16
        );
    }

    #[test]
    fn the_actors_get_what_is_configured() {
        let settings = settings(&read(
            "[actors]\narbiter_threads = 3\nroom_idle_secs = 7\n[passwords]\niterations = 5\n[tokens]\n\
             access_token_lifetime_secs = 60\nrefresh_token_lifetime_secs = 90\n",
        ));
        assert_eq!(
            (settings.arbiters, settings.room_idle_secs, settings.argon2_iterations),
            (3, 7, 5)
        );
        assert_eq!(settings.refreshable_access_token_lifetime_ms, 60_000);
        assert_eq!(settings.refresh_token_lifetime_ms, Some(90_000));

        let settings = super::settings(&read("[passwords]\niterations = 5\ncheap_hash_for_testing = true"));
        assert!(settings.arbiters > 0, "one for each processor");
        assert_eq!((settings.argon2_memory_kib, settings.argon2_iterations), (8, 1));
        assert_eq!(settings.refresh_token_lifetime_ms, None, "for ever");
    }
}
