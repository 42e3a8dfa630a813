//! What a changed configuration means for a running server.

use crate::config::Config;

/// Dotted paths of keys that differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Taken over at once.
    pub applied: Vec<String>,
    /// Waiting for a restart.
    pub pending: Vec<String>,
}

/// Whether a running server can take the key over.
fn reloadable(key: &str) -> bool {
    key == "logging.level" || key.starts_with("rate_limits.")
}

/// Compares the running configuration with the one just read.
pub fn changes(running: &Config, read: &Config) -> Changes {
    let mut keys: Vec<String> = running
        .flattened()
        .into_iter()
        .zip(read.flattened())
        .filter(|((_, old), (_, new))| old != new)
        .map(|((key, _), _)| key)
        .collect();
    // Placeholders of secrets all look alike.
    for (key, differs) in [
        ("database.url", running.database.url != read.database.url),
        (
            "registration.shared_secret",
            running.registration.shared_secret != read.registration.shared_secret,
        ),
        (
            "turn.shared_secret",
            running.turn.shared_secret != read.turn.shared_secret,
        ),
        ("turn.password", running.turn.password != read.turn.password),
    ] {
        if differs && !keys.iter().any(|known| known == key) {
            keys.push(key.to_owned());
        }
    }
    let (applied, pending) = keys.into_iter().partition(|key| reloadable(key));
    Changes { applied, pending }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn changed_keys_are_named_by_what_becomes_of_them() {
        let read = |text: &str| config::parse("test", text, []).unwrap_or_else(|error| panic!("{error}"));
        let check = |old: &str, new: &str, applied: &[&str], pending: &[&str]| {
            let found = changes(&read(old), &read(new));
            assert_eq!(found.applied, applied);
            assert_eq!(found.pending, pending);
        };
        check("", "", &[], &[]);
        check(
            "",
            "[logging]\nlevel = \"debug\"\nformat = \"json\"\n[rate_limits.login]\nburst = 3",
            &["logging.level", "rate_limits.login.burst"],
            &["logging.format"],
        );
        check("", "[[listeners]]\nport = 1", &[], &["listeners"]);
        check("", "public_baseurl = \"https://a\"", &[], &["public_baseurl"]);
        check(
            "[registration]\nshared_secret = \"a\"\n[database]\nurl = \"postgres://u:a@h/d\"",
            "[registration]\nshared_secret = \"b\"\n[database]\nurl = \"postgres://u:b@h/d\"",
            &[],
            &["database.url", "registration.shared_secret"],
        );
    }
}
