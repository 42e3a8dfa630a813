//! The server's ed25519 signing key and its file: one line `ed25519 <key id> <unpadded base64 of the 32-byte seed>`.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use actors::key::ServerKey;
use actors::rng::Rng;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Writes without padding, reads with or without, and with bits beyond the last byte, as other implementations do.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why there is no signing key.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    #[error("signing key {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("signing key {}, line {line}: {detail}", path.display())]
    Format {
        path: PathBuf,
        line: usize,
        detail: &'static str,
    },
    #[error("signing key {}: there is no key in the file", path.display())]
    Empty { path: PathBuf },
}

/// An ed25519 key as the file has it: the version is the part of the key's id after `ed25519:`.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKey {
    version: String,
    seed: [u8; 32],
}

impl fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredKey(ed25519:{})", self.version)
    }
}

impl StoredKey {
    /// A new key with a version like `a_X7kQ`.
    pub fn generate(rng: &Rng) -> Self {
        Self {
            version: format!("a_{}", rng.alphanumeric(4)),
            seed: rng.bytes(),
        }
    }

    /// The part after `ed25519:` of the key's id.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The key to sign with.
    pub fn server_key(&self) -> ServerKey {
        ServerKey::new(&self.seed, self.version.as_str())
    }

    /// The key to sign with where the version is laid down.
    pub fn server_key_as(&self, version: &str) -> ServerKey {
        ServerKey::new(&self.seed, version)
    }

    /// The line for the file, without a line break.
    pub fn to_line(&self) -> String {
        format!("ed25519 {} {}", self.version, BASE64.encode(self.seed))
    }

    fn parse_line(line: &str) -> Result<Self, &'static str> {
        let mut words = line.split_whitespace();
        let (Some(algorithm), Some(id), Some(seed), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            return Err("expected `ed25519 <key id> <base64 of the seed>`");
        };
        if algorithm != "ed25519" {
            return Err("the algorithm is not ed25519");
        }
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err("a key id has only letters, digits and `_`");
        }
        let seed = BASE64.decode(seed).map_err(|_| "the seed is not base64")?;
        let seed = seed.try_into().map_err(|_| "the seed has not 32 bytes")?;
        Ok(Self {
            version: id.to_owned(),
            seed,
        })
    }
}

/// Reads the key at `path`: the first line that is neither empty nor a comment (`#`). Later lines may hold older keys.
pub fn read(path: &Path) -> Result<StoredKey, SigningKeyError> {
    let file_error = |source| SigningKeyError::File {
        path: path.to_owned(),
        source,
    };
    let text = fs::read_to_string(path).map_err(file_error)?;
    let mode = fs::metadata(path).map_err(file_error)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "others can read the signing key");
    }
    let first = text
        .lines()
        .enumerate()
        .find(|(_, line)| !line.trim().is_empty() && !line.trim().starts_with('#'));
    let Some((index, line)) = first else {
        return Err(SigningKeyError::Empty { path: path.to_owned() });
    };
    StoredKey::parse_line(line).map_err(|detail| SigningKeyError::Format {
        path: path.to_owned(),
        line: index + 1,
        detail,
    })
}

/// Writes `key` to a new file readable by its owner only. The file appears complete or not at all, and one that is
/// there already is left alone (`io::ErrorKind::AlreadyExists`).
pub fn create(path: &Path, key: &StoredKey, rng: &Rng) -> Result<(), SigningKeyError> {
    write_new(path, &format!("{}\n", key.to_line()), rng).map_err(|source| SigningKeyError::File {
        path: path.to_owned(),
        source,
    })
}

fn write_new(path: &Path, text: &str, rng: &Rng) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let temporary = folder.join(format!(".{}.{}", name.to_string_lossy(), rng.alphanumeric(12)));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // Unlike a rename, a link never replaces a key that somebody else has just made.
        fs::hard_link(&temporary, path)
    })();
    let removed = fs::remove_file(&temporary);
    written?;
    removed?;
    File::open(folder)?.sync_all()
}

/// Reads the key at `path`, or makes one there. The flag says whether it was made.
pub fn read_or_create(path: &Path, rng: &Rng) -> Result<(StoredKey, bool), SigningKeyError> {
    match read(path) {
        Err(SigningKeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        outcome => return outcome.map(|key| (key, false)),
    }
    let key = StoredKey::generate(rng);
    match create(path, &key, rng) {
        Ok(()) => Ok((key, true)),
        Err(SigningKeyError::File { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            read(path).map(|key| (key, false))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own under the target directory's temporary one, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("synapse-rust-key-{}", Rng::system().alphanumeric(12)));
            fs::create_dir(&path).expect("the temporary folder can be written");
            Self(path)
        }

        fn file(&self, text: &str) -> PathBuf {
            let path = self.0.join("signing.key");
            fs::write(&path, text).expect("the test's folder can be written");
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_made_key_is_private_and_read_back() {
        let folder = Folder::new();
        let path = folder.0.join("deep/signing.key");
        let rng = Rng::seeded(1);
        let (made, fresh) = read_or_create(&path, &rng).expect("a key can be made");
        assert!(fresh);
        assert_eq!(
            fs::metadata(&path).expect("the key is there").permissions().mode() & 0o777,
            0o600
        );
        let (read, fresh) = read_or_create(&path, &rng).expect("the key can be read");
        assert!(!fresh);
        assert_eq!(read, made);
        assert_eq!(
            fs::read_dir(folder.0.join("deep"))
                .expect("the folder is there")
                .count(),
            1,
            "nothing else is left"
        );

        let text = fs::read_to_string(&path).expect("the key is text");
        let words: Vec<&str> = text.trim_end().split(' ').collect();
        assert_eq!(words[0], "ed25519");
        assert!(words[1].starts_with("a_") && words[1].len() == 6, "{text}");
        assert_eq!(words[2].len(), 43, "unpadded base64 of 32 bytes");
    }

    #[test]
    fn a_key_that_is_there_is_never_replaced() {
        let folder = Folder::new();
        let path = folder.file("ed25519 old AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n");
        let rng = Rng::seeded(2);
        let error = create(&path, &StoredKey::generate(&rng), &rng).expect_err("the file exists");
        assert!(matches!(error, SigningKeyError::File { source, .. } if source.kind() == io::ErrorKind::AlreadyExists));
        assert_eq!(read(&path).expect("the old key is readable").version(), "old");
    }

    #[test]
    fn the_specification_s_key_signs_as_it_says() {
        // Appendices, "Cryptographic test vectors": the seed and the signature of an empty object.
        let folder = Folder::new();
        let path = folder.file("\n# a comment\ned25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\ned25519 0 old\n");
        let key = read(&path).expect("the key is well-formed");
        let mut object = ruma::CanonicalJsonObject::new();
        ruma::signatures::sign_json("domain", &key.server_key(), &mut object).expect("an object can be signed");
        let signed = serde_json::to_value(&object).expect("canonical JSON is JSON");
        assert_eq!(
            signed["signatures"]["domain"]["ed25519:1"],
            "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"
        );
    }

    #[test]
    fn a_broken_file_is_explained() {
        let check = |text: &str, expected: &str| {
            let folder = Folder::new();
            let error = read(&folder.file(text)).expect_err("the file is broken").to_string();
            assert!(error.ends_with(expected), "{error}");
        };
        check("", "there is no key in the file");
        check("\n\nrsa a_1 AAAA", "line 3: the algorithm is not ed25519");
        check(
            "ed25519 a_1",
            "line 1: expected `ed25519 <key id> <base64 of the seed>`",
        );
        check("ed25519 a:1 AAAA", "a key id has only letters, digits and `_`");
        check("ed25519 a_1 A!", "the seed is not base64");
        check("ed25519 a_1 AAAA", "the seed has not 32 bytes");
    }
}
