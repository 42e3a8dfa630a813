//! What is known of a local user, immutable: what the session actor swaps and every reader shares.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ruma::push::Ruleset;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId};

/// One device, as `/sync` needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceView {
    /// The name its user gave it.
    pub display_name: Option<String>,
    /// Unclaimed one-time keys by algorithm.
    pub one_time_key_counts: BTreeMap<String, u64>,
    /// Algorithms with a fallback key that was not used yet.
    pub unused_fallback_key_types: Vec<String>,
}

/// A local user. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct UserView {
    /// The user.
    pub user_id: OwnedUserId,
    /// Whether it is a guest.
    pub is_guest: bool,
    /// Whether it may use the admin API.
    pub is_admin: bool,
    /// Deactivated users cannot log in and are not found.
    pub deactivated: bool,
    /// Locked users can only log out (MSC3939).
    pub locked: bool,
    /// Suspended users can read and leave (MSC3823).
    pub suspended: bool,
    /// Profile fields by name, as JSON text (`"Alice"` with its quotes).
    pub profile: Arc<BTreeMap<String, String>>,
    /// `m.push_rules`
    pub push_rules: Arc<Ruleset>,
    /// `m.ignored_user_list`
    pub ignored: Arc<HashSet<OwnedUserId>>,
    /// The user's devices.
    pub devices: Arc<BTreeMap<OwnedDeviceId, DeviceView>>,
}

impl UserView {
    /// Whether the device is logged in; it may be locked out of much all the same.
    #[must_use]
    pub fn has_session(&self, device: &DeviceId) -> bool {
        !self.deactivated && self.devices.contains_key(device)
    }

    /// A profile field that is a string.
    #[must_use]
    pub fn profile_text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.profile.get(name)?).ok()
    }

    /// The display name.
    #[must_use]
    pub fn displayname(&self) -> Option<String> {
        self.profile_text("displayname")
    }

    /// The avatar's `mxc://` address.
    #[must_use]
    pub fn avatar_url(&self) -> Option<String> {
        self.profile_text("avatar_url")
    }

    /// What the view costs in memory, in bytes, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        1_024
            + self.push_rules.iter().count() * 300
            + self.ignored.len() * 80
            + self.devices.len() * 400
            + self
                .profile
                .iter()
                .map(|(name, value)| name.len() + value.len() + 64)
                .sum::<usize>()
    }
}
