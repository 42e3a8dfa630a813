//! Which names new users may take (Appendices, "User identifiers").

use ruma::{OwnedUserId, ServerName, UserId};

use crate::error::{DomainError, Outcome};
use crate::rng::Rng;

/// Bytes of a whole user id.
const MAX_USER_ID: usize = 255;

/// The id of the user that is to be called `name`. Capitals become small letters.
///
/// # Errors
/// `M_INVALID_USERNAME` when the name breaks the grammar or is reserved: digits alone are guests' names, and names that
/// begin with `_` are application services'.
pub fn user_id(name: &str, server: &ServerName) -> Outcome<OwnedUserId> {
    let local = name.to_ascii_lowercase();
    let invalid = |why: &str| Err(DomainError::invalid_username(why));
    if local.is_empty() {
        return invalid("The user name is empty");
    }
    if !local.bytes().all(is_allowed) {
        return invalid("User names consist of a-z, 0-9 and . _ = - / + only");
    }
    if local.bytes().all(|b| b.is_ascii_digit()) {
        return invalid("User names of digits only are reserved for guests");
    }
    if local.starts_with('_') {
        return invalid("User names that begin with _ are reserved for application services");
    }
    let id = format!("@{local}:{server}");
    if id.len() > MAX_USER_ID {
        return invalid("The user name is too long");
    }
    UserId::parse(id).map_err(|error| DomainError::invalid_username(error.to_string()))
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte)
}

/// An id for a user who named none.
///
/// # Errors
/// `M_INVALID_USERNAME` if the server's name leaves no room for one.
pub fn random(rng: &Rng, server: &ServerName) -> Outcome<OwnedUserId> {
    user_id(&format!("u{}", rng.alphanumeric(11)), server)
}

/// An id for a guest: digits alone.
///
/// # Errors
/// `Internal` if the server's name leaves no room for one.
pub fn guest(rng: &Rng, server: &ServerName) -> Outcome<OwnedUserId> {
    let number = 1_000_000_000 + rng.below(9_000_000_000_000);
    UserId::parse(format!("@{number}:{server}")).map_err(|error| DomainError::internal(error.to_string()))
}

/// Whom somebody means who logs in as `name`: a local part or a whole id. `None` if no user of this server can be meant.
#[must_use]
pub fn meant(name: &str, server: &ServerName) -> Option<OwnedUserId> {
    let local = match name.strip_prefix('@').and_then(|rest| rest.split_once(':')) {
        Some((local, of)) if of == server.as_str() => local,
        Some(_) => return None,
        None => name.strip_prefix('@').unwrap_or(name),
    };
    let id = UserId::parse(format!("@{}:{server}", local.to_ascii_lowercase())).ok()?;
    (id.server_name() == server).then_some(id)
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    fn check(name: &str, expected: Result<&str, ()>) {
        let id = user_id(name, server_name!("hs.example"));
        match expected {
            Ok(local) => assert_eq!(
                id.map(|id| id.localpart().to_owned()).ok().as_deref(),
                Some(local),
                "{name}"
            ),
            Err(()) => assert_eq!(
                id.err().and_then(|e| e.errcode().map(str::to_owned)).as_deref(),
                Some("M_INVALID_USERNAME"),
                "{name}"
            ),
        }
    }

    #[test]
    fn names_follow_the_grammar() {
        check("alice", Ok("alice"));
        check("Alice.B", Ok("alice.b"));
        check("a-b_c=d/e+f.9", Ok("a-b_c=d/e+f.9"));
        check("9lives", Ok("9lives"));
        for bad in [
            "",
            "a b",
            "a!",
            "@alice",
            "alice:hs.example",
            "ä",
            "a\0b",
            "12345",
            "_bridge",
        ] {
            check(bad, Err(()));
        }
        check(&"a".repeat(243), Ok(&"a".repeat(243)));
        check(&"a".repeat(244), Err(()));
    }

    #[test]
    fn logins_name_local_parts_or_whole_ids() {
        let server = server_name!("hs.example");
        for name in ["alice", "@alice:hs.example", "Alice", "@Alice:hs.example"] {
            assert_eq!(
                meant(name, server).as_deref().map(UserId::as_str),
                Some("@alice:hs.example"),
                "{name}"
            );
        }
        assert_eq!(meant("@alice:other.example", server), None);
    }

    #[test]
    fn generated_names_are_valid_and_guests_are_apart() {
        let (rng, server) = (Rng::seeded(1), server_name!("hs.example"));
        assert!(random(&rng, server).is_ok());
        let guest = guest(&rng, server).expect("a guest's name");
        assert!(user_id(guest.localpart(), server).is_err());
    }
}
