//! What a value's type cannot say by itself: ranges, and keys that need each other.

use std::collections::HashSet;

use actors::mail;
use ruma::serde::Base64;
use ruma::serde::base64::Standard;
use ruma::{RoomVersionId, ServerName};
use tracing_subscriber::EnvFilter;

use super::{Config, DatabaseKind, Resource};

/// The first key that cannot stay as it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Dotted path; entries of lists by their number from 0.
    pub key: String,
    pub detail: String,
}

type Outcome = Result<(), Problem>;

fn require(holds: bool, key: &str, detail: impl Into<String>) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(Problem {
            key: key.to_owned(),
            detail: detail.into(),
        })
    }
}

fn at_least<T: PartialOrd + std::fmt::Display>(key: &str, value: T, least: T) -> Outcome {
    require(value >= least, key, format!("{value} is too small: at least {least}"))
}

pub(super) fn validate(config: &Config) -> Outcome {
    identity(config)?;
    old_signing_keys(config)?;
    listeners(config)?;
    at_least("database.max_connections", config.database.max_connections, 8)?;
    require(
        config.logging.level.parse::<EnvFilter>().is_ok() && !config.logging.level.trim().is_empty(),
        "logging.level",
        format!(
            "`{}` is not a level (error, warn, info, debug, trace) or list of directives",
            config.logging.level
        ),
    )?;
    registration(config)?;
    email(config)?;
    passwords(config)?;
    lifetimes(config)?;
    rate_limits(config)?;
    user_limits(config)?;
    media(config)?;
    voice(config)?;
    well_known(config)?;
    turn(config)?;
    actors(config)
}

/// The 32 bytes of an ed25519 public key, from base64 with or without padding.
pub fn public_key(text: &str) -> Option<[u8; 32]> {
    let bytes = Base64::<Standard>::parse(text).ok()?;
    bytes.as_bytes().try_into().ok()
}

fn old_signing_keys(config: &Config) -> Outcome {
    let mut ids = HashSet::new();
    for (index, old) in config.old_signing_keys.iter().enumerate() {
        let key = |name: &str| format!("old_signing_keys.{index}.{name}");
        let version = old.key_id.strip_prefix("ed25519:").unwrap_or_default();
        require(
            !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'),
            &key("key_id"),
            format!("`{}` is not `ed25519:` and letters, digits and `_`", old.key_id),
        )?;
        require(
            ids.insert(&old.key_id),
            &key("key_id"),
            format!("`{}` stands above already", old.key_id),
        )?;
        require(
            public_key(&old.public_key).is_some(),
            &key("public_key"),
            "not base64 of the 32 bytes of an ed25519 public key",
        )?;
        // Canonical JSON has no larger numbers.
        require(
            old.expired_ts < 1 << 53,
            &key("expired_ts"),
            "not a time in milliseconds",
        )?;
    }
    Ok(())
}

fn identity(config: &Config) -> Outcome {
    let known = supported_room_versions().contains(&config.default_room_version);
    require(
        known,
        "default_room_version",
        format!(
            "room version `{}` is not supported: 1 to 12 are",
            config.default_room_version
        ),
    )?;
    require(
        !config.signing_key_path.as_os_str().is_empty(),
        "signing_key_path",
        "a file name is needed",
    )
}

/// Room versions that can be created and joined.
pub fn supported_room_versions() -> [RoomVersionId; 12] {
    use RoomVersionId::{V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12};
    [V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12]
}

fn listeners(config: &Config) -> Outcome {
    require(
        !config.listeners.is_empty(),
        "listeners",
        "at least one listener is needed",
    )?;
    let mut taken = HashSet::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let key = |name: &str| format!("listeners.{index}.{name}");
        require(
            !listener.bind_addresses.is_empty(),
            &key("bind_addresses"),
            "at least one address is needed",
        )?;
        require(
            !listener.resources.is_empty(),
            &key("resources"),
            "at least one resource is needed",
        )?;
        let distinct: HashSet<&Resource> = listener.resources.iter().collect();
        require(
            distinct.len() == listener.resources.len(),
            &key("resources"),
            "a resource is named twice",
        )?;
        if listener.tls {
            for (name, path) in [
                ("tls_certificate_path", &listener.tls_certificate_path),
                ("tls_private_key_path", &listener.tls_private_key_path),
            ] {
                require(
                    path.is_some(),
                    &key(name),
                    "missing: `tls = true` needs certificate and private key",
                )?;
            }
        }
        for address in &listener.bind_addresses {
            let fresh = listener.port == 0 || taken.insert((*address, listener.port));
            require(
                fresh,
                &key("port"),
                format!("{address} port {} is already taken above", listener.port),
            )?;
        }
    }
    Ok(())
}

fn registration(config: &Config) -> Outcome {
    let secret = &config.registration.shared_secret;
    require(
        secret.as_ref().is_none_or(|secret| !secret.expose().trim().is_empty()),
        "registration.shared_secret",
        "an empty secret protects nothing; leave the key out to switch it off",
    )
}

fn email(config: &Config) -> Outcome {
    let email = &config.email;
    require(
        email.smtp_host.is_some() || !config.registration.require_email,
        "registration.require_email",
        "needs email.smtp_host",
    )?;
    require(
        email.username.is_some() == email.password.is_some(),
        "email.password",
        "email.username and email.password need each other",
    )?;
    if let Some(from) = &email.from {
        require(
            mail::is_sender(from),
            "email.from",
            format!("`{from}` is not like `Name <name@example.org>`"),
        )?;
    }
    at_least("email.link_lifetime_secs", email.link_lifetime_secs, 60)
}

/// Bounds of RFC 9106 §3.1, and enough memory for each lane.
fn passwords(config: &Config) -> Outcome {
    let passwords = &config.passwords;
    at_least("passwords.iterations", passwords.iterations, 1)?;
    at_least("passwords.parallelism", passwords.parallelism, 1)?;
    require(passwords.parallelism <= 64, "passwords.parallelism", "at most 64")?;
    at_least("passwords.memory_kib", passwords.memory_kib, 8 * passwords.parallelism)?;
    require(
        passwords.memory_kib <= 4_194_304,
        "passwords.memory_kib",
        "at most 4194304 (4 GiB)",
    )
}

fn lifetimes(config: &Config) -> Outcome {
    for (key, secs) in [
        (
            "tokens.access_token_lifetime_secs",
            config.tokens.access_token_lifetime_secs,
        ),
        (
            "tokens.login_token_lifetime_secs",
            config.tokens.login_token_lifetime_secs,
        ),
        (
            "tokens.openid_token_lifetime_secs",
            config.tokens.openid_token_lifetime_secs,
        ),
        ("ui_auth.session_timeout_secs", config.ui_auth.session_timeout_secs),
        ("turn.user_lifetime_secs", config.turn.user_lifetime_secs),
        ("turn.guest_lifetime_secs", config.turn.guest_lifetime_secs),
        ("voice.max_duration_secs", config.voice.max_duration_secs),
        ("voice.job_deadline_secs", config.voice.job_deadline_secs),
        ("delayed_events.max_delay_secs", config.delayed_events.max_delay_secs),
        (
            "media.unused_upload_lifetime_secs",
            config.media.unused_upload_lifetime_secs,
        ),
        ("actors.room_idle_secs", config.actors.room_idle_secs),
        ("actors.session_idle_secs", config.actors.session_idle_secs),
        ("actors.peer_idle_secs", config.actors.peer_idle_secs),
        ("actors.cache_idle_secs", config.actors.cache_idle_secs),
        ("actors.drain_timeout_secs", config.actors.drain_timeout_secs),
    ] {
        at_least(key, secs, 1)?;
        bounded_secs(key, secs)?;
    }
    bounded_secs(
        "tokens.refresh_token_lifetime_secs",
        config.tokens.refresh_token_lifetime_secs,
    )?;
    bounded_secs("ui_auth.recent_login_secs", config.ui_auth.recent_login_secs)
}

/// A century: sums with the present time then stay far from any overflow.
fn bounded_secs(key: &str, secs: u64) -> Outcome {
    require(secs <= 3_155_760_000, key, "at most 3155760000 seconds (100 years)")
}

fn rate_limits(config: &Config) -> Outcome {
    for (class, limit) in config.rate_limits.classes() {
        let rate = limit.per_second;
        require(
            rate.is_finite() && (0.0001..=1_000_000.0).contains(&rate),
            &format!("rate_limits.{class}.per_second"),
            format!("{rate} is impossible: between 0.0001 and 1000000 (rate_limits.enabled = false switches off)"),
        )?;
        at_least(&format!("rate_limits.{class}.burst"), limit.burst, 1)?;
    }
    Ok(())
}

fn user_limits(config: &Config) -> Outcome {
    let limits = &config.user_limits;
    at_least("user_limits.account_data_entries", limits.account_data_entries, 1)?;
    at_least("user_limits.account_data_bytes", limits.account_data_bytes, 1)?;
    at_least("user_limits.filters", limits.filters, 1)?;
    let messages = limits.to_device_messages_per_device;
    at_least("user_limits.to_device_messages_per_device", messages, 1)?;
    at_least("user_limits.key_backup_bytes", limits.key_backup_bytes, 1)
}

fn media(config: &Config) -> Outcome {
    let media = &config.media;
    require(
        !media.store_path.as_os_str().is_empty(),
        "media.store_path",
        "a folder is needed",
    )?;
    at_least("media.max_upload_bytes", media.max_upload_bytes, 1)?;
    // m.upload.size is a JSON number: beyond 2^53 it would not survive.
    require(
        media.max_upload_bytes <= 1 << 40,
        "media.max_upload_bytes",
        "at most 1099511627776 (1 TiB)",
    )?;
    at_least("media.max_image_pixels", media.max_image_pixels, 1)?;
    require(
        !media.url_preview_enabled || !media.url_preview_ip_range_blocklist.is_empty(),
        "media.url_preview_ip_range_blocklist",
        "previews need a blocklist: without one users read the server's own network through it",
    )?;
    at_least("media.max_pending_uploads", media.max_pending_uploads, 1)
}

fn voice(config: &Config) -> Outcome {
    let voice = &config.voice;
    at_least("voice.max_size_bytes", voice.max_size_bytes, 1)?;
    // Whole files lie in memory while they are worked on.
    require(
        voice.max_size_bytes <= 1 << 30,
        "voice.max_size_bytes",
        "at most 1073741824 (1 GiB)",
    )?;
    require(
        voice.max_duration_secs <= 86_400,
        "voice.max_duration_secs",
        "at most 86400 (a day)",
    )?;
    require(
        (8_000..=48_000).contains(&voice.default_sample_rate),
        "voice.default_sample_rate",
        format!("{} is impossible: between 8000 and 48000", voice.default_sample_rate),
    )?;
    require(
        (1..=2).contains(&voice.default_channels),
        "voice.default_channels",
        "1 or 2",
    )?;
    require(
        (-40.0..=-5.0).contains(&voice.loudness_lufs),
        "voice.loudness_lufs",
        format!("{} is impossible: between -40 and -5", voice.loudness_lufs),
    )
}

fn well_known(config: &Config) -> Outcome {
    if let Some(target) = &config.server_well_known.delegate_to {
        let valid = ServerName::parse(target.as_str()).is_ok();
        require(
            valid,
            "server_well_known.delegate_to",
            format!("`{target}` is not a server name (host or host:port)"),
        )?;
    }
    for (index, contact) in config.support.contacts.iter().enumerate() {
        let reachable = contact.matrix_id.is_some() || contact.email_address.is_some();
        let key = format!("support.contacts.{index}");
        require(reachable, &key, "a contact needs matrix_id or email_address")?;
        require(
            !contact.role.trim().is_empty(),
            &format!("{key}.role"),
            "a role is needed",
        )?;
    }
    Ok(())
}

fn turn(config: &Config) -> Outcome {
    let turn = &config.turn;
    for (index, uri) in turn.uris.iter().enumerate() {
        let known = ["turn:", "turns:", "stun:", "stuns:"]
            .iter()
            .any(|scheme| uri.starts_with(scheme));
        require(
            known,
            &format!("turn.uris.{index}"),
            format!("`{uri}` does not start with turn: or turns:"),
        )?;
    }
    for (index, uri) in turn.stun_uris.iter().enumerate() {
        require(
            uri.starts_with("stun:") || uri.starts_with("stuns:"),
            &format!("turn.stun_uris.{index}"),
            format!("`{uri}` does not start with stun: or stuns:"),
        )?;
    }
    let fixed = turn.username.is_some() && turn.password.is_some();
    require(
        turn.uris.is_empty() || turn.shared_secret.is_some() || fixed,
        "turn.shared_secret",
        "missing: turn.uris need shared_secret, or username and password",
    )
}

fn actors(config: &Config) -> Outcome {
    let actors = &config.actors;
    require(actors.arbiter_threads <= 256, "actors.arbiter_threads", "at most 256")?;
    for (key, bytes) in [
        ("actors.room_cache_bytes", actors.room_cache_bytes),
        ("actors.event_cache_bytes", actors.event_cache_bytes),
        ("actors.user_cache_bytes", actors.user_cache_bytes),
    ] {
        at_least(key, bytes, 1_048_576)?;
    }
    Ok(())
}

/// Things that are possible but that an administrator should know about.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let open = config.registration.enabled
        && config.registration.enabled_without_verification
        && !config.registration.require_token;
    let reachable = config.public_baseurl.is_some()
        || config.server_name.host() != "localhost"
        || config
            .listeners
            .iter()
            .flat_map(|listener| &listener.bind_addresses)
            .any(|address| !address.is_loopback());
    if open && reachable {
        found.push(
            "registration.enabled_without_verification: anybody who reaches this server can register; set \
             registration.enabled = false or registration.require_token = true"
                .to_owned(),
        );
    }
    if config.passwords.cheap_hash_for_testing {
        found.push("passwords.cheap_hash_for_testing: password hashes are weak".to_owned());
    }
    if config.http_client.insecure_skip_tls_verify {
        found.push("http_client.insecure_skip_tls_verify: certificates of others are not checked".to_owned());
    }
    if !config.rate_limits.enabled && reachable {
        found.push("rate_limits.enabled = false: nothing slows down guessing of passwords".to_owned());
    }
    if config.database.url.kind() == DatabaseKind::Sqlite && config.server_name.host() != "localhost" {
        found.push("database.url: SQLite suits small servers; PostgreSQL is meant for larger ones".to_owned());
    }
    found
}
