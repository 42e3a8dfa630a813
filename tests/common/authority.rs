//! A certificate authority that exists for one test.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

use super::db::unique;

/// The names under which servers of the tests are reached; the ports stand in no certificate.
const HOSTS: [&str; 2] = ["localhost", "127.0.0.1"];

/// A folder with the authority's certificate, and one for every host of the tests with its key. Removed when dropped.
#[derive(Debug)]
pub struct Authority(PathBuf);

impl Authority {
    pub fn create() -> Self {
        let folder = env::temp_dir().join(unique("synapse-rust-authority"));
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("cannot create {}: {error}", folder.display()));
        let this = Self(folder);
        let issuer = CertifiedIssuer::self_signed(authority(), generate()).expect("the parameters are complete");
        let key = generate();
        let params = CertificateParams::new(HOSTS.map(str::to_owned)).expect("the names are names");
        let certificate = params.signed_by(&key, &issuer).expect("the authority may sign");
        for (path, text) in [
            (this.authority(), issuer.pem()),
            (this.certificate(), certificate.pem()),
            (this.key(), key.serialize_pem()),
        ] {
            fs::write(&path, text).expect("the folder can be written");
        }
        this
    }

    /// The authority's own certificate (PEM).
    pub fn authority(&self) -> PathBuf {
        self.0.join("authority.pem")
    }

    /// A server's certificate (PEM).
    pub fn certificate(&self) -> PathBuf {
        self.0.join("server.pem")
    }

    /// The key of the server's certificate (PEM).
    pub fn key(&self) -> PathBuf {
        self.0.join("server.key")
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "an authority of the tests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn generate() -> KeyPair {
    KeyPair::generate().expect("this machine has randomness")
}

/// A path as the text of a configuration.
pub fn as_text(path: &Path) -> String {
    path.display().to_string()
}
