//! The tables of `config.toml`, in its order. Defaults live here; `config.toml` repeats them and a test compares.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ruma::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::values::{BaseUrl, DatabaseUrl, IpRange, non_public_ranges};

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    Client,
    Federation,
    Keys,
    Media,
    Admin,
    Metrics,
}

/// One `[[old_signing_keys]]` entry: a former key, for the signatures that were made with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OldSigningKey {
    /// `ed25519:…`
    pub key_id: String,
    /// Base64 of the 32 bytes.
    pub public_key: String,
    /// When it was used last, Unix milliseconds.
    pub expired_ts: u64,
}

/// One `[[listeners]]` entry: every address with this port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listener {
    pub bind_addresses: Vec<IpAddr>,
    /// 0 takes any free port.
    pub port: u16,
    pub tls: bool,
    /// PEM, the server's certificate first, then the chain.
    pub tls_certificate_path: Option<PathBuf>,
    /// PEM.
    pub tls_private_key_path: Option<PathBuf>,
    /// Take the client's address from the last entry of `X-Forwarded-For`: only behind a proxy that sets it.
    pub x_forwarded: bool,
    pub resources: Vec<Resource>,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            bind_addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            port: 8008,
            tls: false,
            tls_certificate_path: None,
            tls_private_key_path: None,
            x_forwarded: false,
            resources: vec![
                Resource::Client,
                Resource::Federation,
                Resource::Keys,
                Resource::Media,
                Resource::Admin,
            ],
        }
    }
}

impl Listener {
    pub fn serves(&self, resource: Resource) -> bool {
        self.resources.contains(&resource)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    pub url: DatabaseUrl,
    /// Connections in all: one for the journal, some for other writes, the rest for reading.
    pub max_connections: u32,
}

impl Default for Database {
    fn default() -> Self {
        let url = "sqlite://data/synapse-rust.db"
            .parse()
            .expect("the default database URL is well-formed");
        Self {
            url,
            max_connections: 24,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logging {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives like `info,synapse_rust::http=debug`.
    pub level: String,
    pub format: LogFormat,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// argon2id parameters (RFC 9106 §3.1). Hashes keep their own, so changes apply to new passwords only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Passwords {
    pub memory_kib: u32,
    pub iterations: u32,
    pub parallelism: u32,
    /// Hash with the weakest parameters argon2 has.
    pub cheap_hash_for_testing: bool,
}

impl Passwords {
    /// `(memory_kib, iterations, parallelism)` to hash new passwords with.
    pub fn parameters(&self) -> (u32, u32, u32) {
        if self.cheap_hash_for_testing {
            (8, 1, 1)
        } else {
            (self.memory_kib, self.iterations, self.parallelism)
        }
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            memory_kib: 19_456,
            iterations: 2,
            parallelism: 1,
            cheap_hash_for_testing: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tokens {
    /// Life of an access token whose client asked for a refresh token; others never expire.
    pub access_token_lifetime_secs: u64,
    /// 0: refresh tokens never expire.
    pub refresh_token_lifetime_secs: u64,
    pub login_token_lifetime_secs: u64,
    pub openid_token_lifetime_secs: u64,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            access_token_lifetime_secs: 86_400,
            refresh_token_lifetime_secs: 0,
            login_token_lifetime_secs: 120,
            openid_token_lifetime_secs: 3_600,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UiAuth {
    /// How long an unfinished user-interactive authentication stays open.
    pub session_timeout_secs: u64,
    /// On `/r0` paths a log-in by password this recent stands for user-interactive authentication.
    pub recent_login_secs: u64,
}

impl Default for UiAuth {
    fn default() -> Self {
        Self {
            session_timeout_secs: 900,
            recent_login_secs: 300,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Federation {
    pub enabled: bool,
    /// PEM files with authorities trusted beside the system's.
    pub custom_ca_paths: Vec<PathBuf>,
    pub ip_range_blocklist: Vec<IpRange>,
    /// Whether other servers may read the public room directory.
    pub allow_public_rooms_over_federation: bool,
    /// Notaries to ask for the keys of servers that do not answer, in this order.
    pub trusted_key_servers: Vec<OwnedServerName>,
}

impl Default for Federation {
    fn default() -> Self {
        Self {
            enabled: true,
            custom_ca_paths: Vec::new(),
            ip_range_blocklist: non_public_ranges(),
            allow_public_rooms_over_federation: false,
            trusted_key_servers: Vec::new(),
        }
    }
}

/// Outgoing requests that are not federation: push gateways, identity servers, previewed pages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpClient {
    pub custom_ca_paths: Vec<PathBuf>,
    pub ip_range_blocklist: Vec<IpRange>,
    /// For tests: accept any certificate, of other homeservers too.
    pub insecure_skip_tls_verify: bool,
}

impl Default for HttpClient {
    fn default() -> Self {
        Self {
            custom_ca_paths: Vec::new(),
            ip_range_blocklist: non_public_ranges(),
            insecure_skip_tls_verify: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoomDirectory {
    pub allow_public_rooms_without_auth: bool,
    /// Whether users who are not administrators may publish rooms.
    pub allow_publication: bool,
    /// Whether an alias may only be made by a member of its room.
    pub require_membership_for_aliases: bool,
}

impl Default for RoomDirectory {
    fn default() -> Self {
        Self {
            allow_public_rooms_without_auth: false,
            allow_publication: true,
            require_membership_for_aliases: true,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserDirectory {
    pub enabled: bool,
    /// Find every local user, not only those in public or shared rooms.
    pub search_all_users: bool,
}

impl Default for UserDirectory {
    fn default() -> Self {
        Self {
            enabled: true,
            search_all_users: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Presence {
    pub enabled: bool,
}

impl Default for Presence {
    fn default() -> Self {
        Self { enabled: true }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Media {
    pub store_path: PathBuf,
    pub max_upload_bytes: u64,
    /// Images with more pixels get no thumbnail.
    pub max_image_pixels: u64,
    /// Life of an address reserved by `POST /_matrix/media/v1/create` that nothing was uploaded to.
    pub unused_upload_lifetime_secs: u64,
    /// Reserved addresses a user may have waiting.
    pub max_pending_uploads: u32,
    /// Serve the old, unauthenticated download paths to everybody.
    pub allow_unauthenticated: bool,
    pub url_preview_enabled: bool,
    pub url_preview_ip_range_blocklist: Vec<IpRange>,
}

impl Default for Media {
    fn default() -> Self {
        Self {
            store_path: PathBuf::from("data/media"),
            max_upload_bytes: 52_428_800,
            max_image_pixels: 33_554_432,
            unused_upload_lifetime_secs: 86_400,
            max_pending_uploads: 5,
            allow_unauthenticated: false,
            url_preview_enabled: false,
            url_preview_ip_range_blocklist: non_public_ranges(),
        }
    }
}

/// `GET /.well-known/matrix/client`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientWellKnown {
    /// Where clients find this server; without it `public_baseurl`.
    pub homeserver_base_url: Option<BaseUrl>,
    pub identity_server_base_url: Option<BaseUrl>,
}

/// `GET /.well-known/matrix/server`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerWellKnown {
    /// `host:port` that other servers talk to instead of `server_name`.
    pub delegate_to: Option<String>,
}

/// `GET /.well-known/matrix/support`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Support {
    pub page: Option<BaseUrl>,
    pub contacts: Vec<Contact>,
}

/// One `[[support.contacts]]` entry; needs a Matrix ID or an e-mail address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// `m.role.admin`, `m.role.security`, `m.role.moderator`, `m.role.dpo` or a name of one's own.
    pub role: String,
    #[serde(default)]
    pub matrix_id: Option<OwnedUserId>,
    #[serde(default)]
    pub email_address: Option<String>,
}

/// What one user may keep on the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserLimits {
    /// Entries of account data, those of rooms included.
    pub account_data_entries: u32,
    pub account_data_bytes: u64,
    /// Stored filters; of more than these the oldest are forgotten.
    pub filters: u32,
    /// Messages that wait for one device; of more than these the oldest are dropped.
    pub to_device_messages_per_device: u32,
    /// All versions of the key backup together.
    pub key_backup_bytes: u64,
}

impl Default for UserLimits {
    fn default() -> Self {
        Self {
            account_data_entries: 50_000,
            account_data_bytes: 67_108_864,
            filters: 500,
            to_device_messages_per_device: 50_000,
            key_backup_bytes: 536_870_912,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Actors {
    /// Threads that actors live on; 0: one per processor.
    pub arbiter_threads: u32,
    /// After this long without work a room leaves memory.
    pub room_idle_secs: u64,
    /// After this long without work a user's session leaves memory.
    pub session_idle_secs: u64,
    /// After this long without work a remote server's actor leaves memory.
    pub peer_idle_secs: u64,
    /// Memory for rooms' current states, which readers use.
    pub room_cache_bytes: u64,
    /// Memory for single events.
    pub event_cache_bytes: u64,
    /// Memory for what is known of users.
    pub user_cache_bytes: u64,
    /// After this long without anybody asking for it, a room, event or user leaves that memory.
    pub cache_idle_secs: u64,
    /// How long a stop waits for work under way.
    pub drain_timeout_secs: u64,
}

impl Default for Actors {
    fn default() -> Self {
        Self {
            arbiter_threads: 0,
            room_idle_secs: 900,
            session_idle_secs: 900,
            peer_idle_secs: 900,
            room_cache_bytes: 268_435_456,
            event_cache_bytes: 67_108_864,
            user_cache_bytes: 67_108_864,
            cache_idle_secs: 1_800,
            drain_timeout_secs: 20,
        }
    }
}

/// How `/_matrix/client/r0` answers where it cannot please everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum R0Profile {
    /// The answers of the API reference this server implements beside the specification.
    Seed,
    /// The answers of the specification.
    Matrix,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compat {
    pub r0_profile: R0Profile,
}

impl Default for Compat {
    fn default() -> Self {
        Self {
            r0_profile: R0Profile::Seed,
        }
    }
}
