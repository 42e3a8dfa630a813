//! `[registration]`: who may register, and `[email]`: how mail goes out that proves an address.

use serde::{Deserialize, Serialize};

use super::Secret;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registration {
    pub enabled: bool,
    /// Whether `m.login.dummy` is enough to register.
    pub enabled_without_verification: bool,
    /// Whether everybody needs a registration token.
    pub require_token: bool,
    /// Whether everybody needs a mail address that they can prove to be theirs; needs `[email]`.
    pub require_email: bool,
    pub allow_guest_access: bool,
    /// Lets whoever knows it register users, administrators too, through `/_synapse/admin/v1/register`.
    pub shared_secret: Option<Secret>,
}

impl Default for Registration {
    fn default() -> Self {
        Self {
            enabled: true,
            enabled_without_verification: true,
            require_token: false,
            require_email: false,
            allow_guest_access: false,
            shared_secret: None,
        }
    }
}

/// How mail is sent. Without `smtp_host` none is, and nobody can have a mail address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Email {
    pub smtp_host: Option<String>,
    pub smtp_port: u16,
    pub encryption: MailEncryption,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// `Name <address>`; without it `noreply@` and the server's name.
    pub from: Option<String>,
    pub link_lifetime_secs: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailEncryption {
    None,
    StartTls,
    Implicit,
}

impl Default for Email {
    fn default() -> Self {
        Self {
            smtp_host: None,
            smtp_port: 587,
            encryption: MailEncryption::StartTls,
            username: None,
            password: None,
            from: None,
            link_lifetime_secs: 3_600,
        }
    }
}
