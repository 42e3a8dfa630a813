//! The typed configuration: `config.toml` and environment variables over built-in defaults, validated once, before
//! anything is opened. Units are in the keys' names.

mod calls;
mod load;
mod policy;
mod rate_limits;
mod registration;
mod rtc;
mod sections;
mod validate;
mod values;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use ruma::{OwnedServerName, RoomVersionId};
use serde::{Deserialize, Serialize};

pub use self::calls::{Turn, Voice};
pub use self::load::{ConfigError, DEFAULT_PATH, ENV_PREFIX, load, load_with, parse};
pub use self::policy::PolicyServer;
pub use self::rate_limits::{RateLimit, RateLimits};
pub use self::registration::{Email, MailEncryption, Registration};
pub use self::rtc::{DelayedEvents, Rtc};
pub use self::sections::{
    Actors, ClientWellKnown, Compat, Contact, Database, Federation, HttpClient, Listener, LogFormat, Logging, Media,
    OldSigningKey, Passwords, Presence, R0Profile, Resource, RoomDirectory, ServerWellKnown, Support, Tokens, UiAuth,
    UserDirectory, UserLimits,
};
pub use self::validate::{public_key, supported_room_versions, warnings};
pub use self::values::{BaseUrl, DatabaseKind, DatabaseUrl, IpRange, Secret};

/// `config.toml` as shipped: every key with its default, its unit and what it does.
pub const TEMPLATE: &str = include_str!("../config.toml");

/// The whole configuration. `Debug` and `Serialize` show no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The part after the colon in user ids; never to be changed once there are users.
    pub server_name: OwnedServerName,
    /// Where clients reach this server from outside.
    pub public_baseurl: Option<BaseUrl>,
    pub signing_key_path: PathBuf,
    /// Keys that events of this server were once signed with.
    pub old_signing_keys: Vec<OldSigningKey>,
    pub default_room_version: RoomVersionId,
    pub listeners: Vec<Listener>,
    pub database: Database,
    pub logging: Logging,
    pub registration: Registration,
    pub email: Email,
    pub passwords: Passwords,
    pub tokens: Tokens,
    pub ui_auth: UiAuth,
    pub rate_limits: RateLimits,
    pub federation: Federation,
    pub policy_server: PolicyServer,
    pub http_client: HttpClient,
    pub room_directory: RoomDirectory,
    pub user_directory: UserDirectory,
    pub user_limits: UserLimits,
    pub presence: Presence,
    pub media: Media,
    pub voice: Voice,
    pub turn: Turn,
    pub rtc: Rtc,
    pub delayed_events: DelayedEvents,
    pub client_well_known: ClientWellKnown,
    pub server_well_known: ServerWellKnown,
    pub support: Support,
    pub actors: Actors,
    pub compat: Compat,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server_name: ruma::owned_server_name!("localhost"),
            public_baseurl: None,
            signing_key_path: PathBuf::from("data/signing.key"),
            old_signing_keys: Vec::new(),
            default_room_version: RoomVersionId::V12,
            listeners: vec![Listener::default()],
            database: Database::default(),
            logging: Logging::default(),
            registration: Registration::default(),
            email: Email::default(),
            passwords: Passwords::default(),
            tokens: Tokens::default(),
            ui_auth: UiAuth::default(),
            rate_limits: RateLimits::default(),
            federation: Federation::default(),
            policy_server: PolicyServer::default(),
            http_client: HttpClient::default(),
            room_directory: RoomDirectory::default(),
            user_directory: UserDirectory::default(),
            user_limits: UserLimits::default(),
            presence: Presence::default(),
            media: Media::default(),
            voice: Voice::default(),
            turn: Turn::default(),
            rtc: Rtc::default(),
            delayed_events: DelayedEvents::default(),
            client_well_known: ClientWellKnown::default(),
            server_well_known: ServerWellKnown::default(),
            support: Support::default(),
            actors: Actors::default(),
            compat: Compat::default(),
        }
    }
}

impl Config {
    /// What `/.well-known/matrix/client` names as the homeserver, if the administrator said.
    pub fn client_base_url(&self) -> Option<&BaseUrl> {
        self.client_well_known
            .homeserver_base_url
            .as_ref()
            .or(self.public_baseurl.as_ref())
    }

    /// Every setting with its dotted path, as JSON; secrets are placeholders.
    pub fn flattened(&self) -> Vec<(String, serde_json::Value)> {
        let mut found = Vec::new();
        let tree = serde_json::to_value(self).unwrap_or_default();
        flatten(String::new(), tree, &mut found);
        found
    }
}

/// Tables are walked into; lists are one value.
fn flatten(path: String, value: serde_json::Value, found: &mut Vec<(String, serde_json::Value)>) {
    match value {
        serde_json::Value::Object(table) => {
            for (name, value) in table {
                let path = if path.is_empty() {
                    name
                } else {
                    format!("{path}.{name}")
                };
                flatten(path, value, found);
            }
        }
        leaf => found.push((path, leaf)),
    }
}
