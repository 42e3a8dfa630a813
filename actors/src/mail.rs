//! Mail that this server sends (RFC 5321, RFC 5322).

use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};

use crate::error::{DomainError, Outcome};
use crate::session::token::Secret;

/// How long a mail server has for all of a letter.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest address (RFC 5321 §4.5.3.1.3, without the angle brackets).
const MAX_ADDRESS: usize = 254;

/// How the connection to the mail server is kept secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all: for a mail server on this machine.
    None,
    /// Begun in the clear (RFC 3207); a server that cannot is refused.
    StartTls,
    /// From the first byte (RFC 8314).
    Implicit,
}

/// How to send mail.
#[derive(Clone, Debug)]
pub struct MailSettings {
    /// Name or address of the mail server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// See [`Encryption`].
    pub encryption: Encryption,
    /// Name and password, if it asks for them.
    pub credentials: Option<(String, Secret)>,
    /// The sender, as [`is_sender`] wants it.
    pub from: String,
    /// What links in mails begin with; does not end in `/`.
    pub base_url: String,
    /// How long a link serves, milliseconds.
    pub link_lifetime_ms: i64,
}

/// Sends letters, one connection each.
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    settings: MailSettings,
}

/// Whether a text can stand in a letter's From, like `Name <name@example.org>`.
#[must_use]
pub fn is_sender(text: &str) -> bool {
    text.parse::<Mailbox>().is_ok()
}

impl Mailer {
    /// Opens nothing yet.
    ///
    /// # Errors
    /// A text for the operator where the host is no name TLS could be for, or the sender no address.
    pub fn new(settings: MailSettings) -> Result<Self, String> {
        let transport = match settings.encryption {
            Encryption::None => Ok(AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&settings.host)),
            Encryption::StartTls => AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(&settings.host),
            Encryption::Implicit => AsyncSmtpTransport::<Tokio1Executor>::relay(&settings.host),
        };
        let mut builder = transport
            .map_err(|error| error.to_string())?
            .port(settings.port)
            .timeout(Some(PATIENCE));
        if let Some((name, password)) = &settings.credentials {
            builder = builder.credentials(Credentials::new(name.clone(), password.expose().to_owned()));
        }
        Ok(Self {
            transport: builder.build(),
            from: settings.from.parse::<Mailbox>().map_err(|error| error.to_string())?,
            settings,
        })
    }

    /// See [`MailSettings`].
    #[must_use]
    pub fn settings(&self) -> &MailSettings {
        &self.settings
    }

    /// Hands a letter of plain text to the mail server.
    ///
    /// # Errors
    /// `Unavailable` when it does not take it.
    pub async fn send(&self, to: &str, subject: &str, text: String) -> Outcome<()> {
        let to = to.parse::<Address>().map_err(|_| no_address())?;
        let letter = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(subject)
            .header(ContentType::TEXT_PLAIN)
            .body(text)
            .map_err(|error| DomainError::internal(format!("a letter could not be written: {error}")))?;
        let sent = tokio::time::timeout(PATIENCE, self.transport.send(letter)).await;
        let reason = match sent {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        // Not the address: logs are read by more people than mails.
        tracing::warn!(reason, host = self.settings.host, "a mail could not be sent");
        Err(DomainError::unavailable("The mail could not be sent"))
    }
}

/// An address as it is compared: in lower case (client-server API, "Adding Account Administrative Contact Information").
///
/// # Errors
/// `M_INVALID_PARAM` for what is no address.
pub fn canonical(address: &str) -> Outcome<String> {
    let address = address.trim().to_lowercase();
    match address.parse::<Address>() {
        Ok(_) if address.len() <= MAX_ADDRESS && !address.contains('\0') => Ok(address),
        _ => Err(no_address()),
    }
}

fn no_address() -> DomainError {
    DomainError::invalid_param("This is no mail address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_compared_in_lower_case() {
        assert_eq!(
            canonical(" Alice@Example.ORG ").ok().as_deref(),
            Some("alice@example.org")
        );
        for bad in [
            "",
            "alice",
            "@example.org",
            "a b@example.org",
            "a@b\r\nBcc: c@d",
            "a@b\0.org",
        ] {
            assert!(canonical(bad).is_err(), "{bad:?}");
        }
        assert!(canonical(&format!("{}@example.org", "a".repeat(300))).is_err());
    }
}
