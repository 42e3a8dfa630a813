//! The certificates of listeners with TLS, which can be read again while the server runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::Listener;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{}: {detail}", path.display())]
    Content { path: PathBuf, detail: String },
}

/// A certificate with its key from two PEM files. Connections made after [`Certificate::reload`] get the new one.
#[derive(Debug)]
pub struct Certificate {
    certificate_path: PathBuf,
    key_path: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads the files of a listener; `None` if it has no TLS.
    pub fn of(listener: &Listener) -> Result<Option<Arc<Self>>, TlsError> {
        match (
            listener.tls,
            &listener.tls_certificate_path,
            &listener.tls_private_key_path,
        ) {
            (true, Some(certificate), Some(key)) => Self::read(certificate, key).map(|it| Some(Arc::new(it))),
            _ => Ok(None),
        }
    }

    fn read(certificate_path: &Path, key_path: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            certificate_path: certificate_path.to_owned(),
            key_path: key_path.to_owned(),
            current: RwLock::new(Arc::new(load(certificate_path, key_path)?)),
        })
    }

    /// Reads the files again. True if they hold another certificate than before; on an error the old one stays.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let fresh = Arc::new(load(&self.certificate_path, &self.key_path)?);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let changed = current.cert != fresh.cert;
        *current = fresh;
        Ok(changed)
    }

    /// For `bind_rustls`; follows later reloads. The caller sets ALPN.
    pub fn server_config(self: &Arc<Self>) -> ServerConfig {
        ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(self.clone())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Only a whole value is ever put in, so a panic elsewhere cannot have left half of one.
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn load(certificate_path: &Path, key_path: &Path) -> Result<CertifiedKey, TlsError> {
    let bad = |path: &Path, detail: String| TlsError::Content {
        path: path.to_owned(),
        detail,
    };
    let read = |path: &Path| {
        fs::read(path).map_err(|source| TlsError::File {
            path: path.to_owned(),
            source,
        })
    };

    let text = read(certificate_path)?;
    let chain = rustls_pemfile::certs(&mut text.as_slice())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(certificate_path, error.to_string()))?;
    if chain.is_empty() {
        return Err(bad(certificate_path, "there is no certificate in PEM".to_owned()));
    }
    let text = read(key_path)?;
    let key = rustls_pemfile::private_key(&mut text.as_slice())
        .map_err(|error| bad(key_path, error.to_string()))?
        .ok_or_else(|| bad(key_path, "there is no private key in PEM".to_owned()))?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| bad(key_path, format!("the key does not go with the certificate: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actors::rng::Rng;

    /// Self-signed certificates with their keys, made for these tests.
    const FIRST: &str = include_str!("tls/test-1.pem");
    const SECOND: &str = include_str!("tls/test-2.pem");

    fn listener(path: &Path) -> Listener {
        Listener {
            tls: true,
            tls_certificate_path: Some(path.to_owned()),
            tls_private_key_path: Some(path.to_owned()),
            ..Listener::default()
        }
    }

    #[test]
    fn a_certificate_is_read_again_and_a_broken_one_changes_nothing() {
        let path = std::env::temp_dir().join(format!("synapse-rust-tls-{}.pem", Rng::system().alphanumeric(12)));
        let write = |text: &str| fs::write(&path, text).expect("the temporary folder can be written");
        write(FIRST);
        let certificate = Certificate::of(&listener(&path))
            .expect("the files are good")
            .expect("the listener has TLS");
        let served = || certificate.current.read().expect("nobody panicked").cert.clone();
        let first = served();
        assert!(
            !certificate.reload().expect("the files are good"),
            "nothing has changed"
        );

        write(SECOND);
        assert!(certificate.reload().expect("the files are good"));
        let second = served();
        assert_ne!(first, second);

        let key_at = SECOND.find("-----BEGIN PRIVATE KEY").expect("the file has a key");
        for (text, expected) in [
            ("", "there is no certificate in PEM"),
            (&SECOND[..key_at], "there is no private key in PEM"),
            (
                &format!("{}{}", &FIRST[..key_at], &SECOND[key_at..]),
                "the key does not go with the certificate",
            ),
        ] {
            write(text);
            let error = certificate.reload().expect_err("the files do not fit").to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(served(), second);
        }
        fs::remove_file(&path).expect("the file was written above");
        assert!(matches!(certificate.reload(), Err(TlsError::File { .. })));
    }

    #[test]
    fn without_tls_there_is_no_certificate() {
        assert!(
            Certificate::of(&Listener::default())
                .expect("no file is read")
                .is_none()
        );
    }
}
