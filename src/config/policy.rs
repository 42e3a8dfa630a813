//! `[policy_server]`: what this server refuses as the policy server of rooms.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyServer {
    pub enabled: bool,
    /// Made on the first start with `enabled`.
    pub signing_key_path: PathBuf,
    /// Texts that no event may contain, in any case.
    pub refused_words: Vec<String>,
    /// Patterns of user ids.
    pub refused_users: Vec<String>,
    /// Patterns of server names without their ports.
    pub refused_servers: Vec<String>,
}

impl Default for PolicyServer {
    fn default() -> Self {
        Self {
            enabled: false,
            signing_key_path: PathBuf::from("data/policy_signing.key"),
            refused_words: Vec::new(),
            refused_users: Vec::new(),
            refused_servers: Vec::new(),
        }
    }
}
