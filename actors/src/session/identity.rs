//! Who a request comes from.

use ruma::{OwnedDeviceId, OwnedUserId};

/// The owner of an access token, as found when the request was authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user; for an application service the one it acts as.
    pub user_id: OwnedUserId,
    /// The token's device.
    pub device_id: OwnedDeviceId,
    /// Registered as a guest.
    pub is_guest: bool,
    /// May use the administration interface.
    pub is_admin: bool,
    /// May read but not send (client-server API, account suspension).
    pub is_suspended: bool,
    /// May only log out (client-server API, account locking).
    pub is_locked: bool,
    /// SHA-256 of the access token.
    pub token_hash: [u8; 32],
    /// When the user last proved their password for this token; Unix milliseconds, 0 for never.
    pub authed_ts: i64,
    /// The id of the application service whose token it is.
    pub appservice: Option<String>,
    /// Rate limits do not apply.
    pub unlimited: bool,
}
