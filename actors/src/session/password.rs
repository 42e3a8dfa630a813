//! Passwords: argon2id in PHC strings, computed off the async threads. A user that does not exist costs as much time as
//! one with another password.

use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use ruma::UserId;

use super::token::Secret;
use crate::cpu::Class;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::rng::Rng;
use crate::settings::Settings;

/// Longer passwords only cost time.
const MAX_BYTES: usize = 512;

/// Hashes a new password.
///
/// # Errors
/// `M_WEAK_PASSWORD` for an empty one, `M_INVALID_PARAM` for one of more than 512 bytes; `Overloaded` when too many
/// wait.
pub async fn hash(env: &Env, password: &str) -> Outcome<Secret> {
    let argon = hasher(&env.settings)?;
    let (password, salt) = (acceptable(password)?.to_owned(), env.rng.bytes::<16>());
    env.cpu
        .run(Class::Password, move || compute(&argon, &password, &salt))
        .await?
}

/// Hashes a new password on this thread, for commands that run without the server.
///
/// # Errors
/// See [`hash`].
pub fn hash_now(settings: &Settings, rng: &Rng, password: &str) -> Outcome<Secret> {
    compute(&hasher(settings)?, acceptable(password)?, &rng.bytes::<16>())
}

fn acceptable(password: &str) -> Outcome<&str> {
    match password.len() {
        0 => Err(DomainError::matrix(400, "M_WEAK_PASSWORD", "The password is empty")),
        1..=MAX_BYTES => Ok(password),
        _ => Err(DomainError::invalid_param(format!(
            "A password has at most {MAX_BYTES} bytes"
        ))),
    }
}

/// Whether this is the user's password. False for users without one and for users that do not exist, after the same
/// time.
///
/// # Errors
/// `Overloaded` when too many wait; `Unavailable` when the database does not answer.
pub async fn verify(env: &Env, user: Option<&UserId>, password: &str) -> Outcome<bool> {
    if password.len() > MAX_BYTES {
        return Ok(false);
    }
    let row = match user {
        Some(user) => env.store.user(user.as_str()).await?,
        None => None,
    };
    let stored = row.and_then(|row| row.password_hash);
    let argon = hasher(&env.settings)?;
    let password = password.to_owned();
    env.cpu
        .run(Class::Password, move || match stored {
            Some(stored) => Ok(argon.verify_password(password.as_bytes(), stored.as_str()).is_ok()),
            None => compute(&argon, &password, &[0; 16]).map(|_| false),
        })
        .await?
}

fn compute(argon: &Argon2<'_>, password: &str, salt: &[u8]) -> Outcome<Secret> {
    argon
        .hash_password_with_salt(password.as_bytes(), salt)
        .map(|hash| Secret::new(hash.to_string()))
        .map_err(|error| DomainError::internal(format!("argon2: {error}")))
}

fn hasher(settings: &Settings) -> Outcome<Argon2<'static>> {
    let Settings {
        argon2_memory_kib: memory,
        argon2_iterations: passes,
        argon2_parallelism: lanes,
        ..
    } = *settings;
    let params = Params::new(memory, passes, lanes, None);
    let params = params.map_err(|error| DomainError::internal(format!("argon2 parameters: {error}")))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argon(memory: u32) -> Argon2<'static> {
        let settings = Settings {
            argon2_memory_kib: memory,
            argon2_iterations: 1,
            ..Settings::default()
        };
        hasher(&settings).expect("the smallest parameters are valid")
    }

    #[test]
    fn a_hash_is_a_phc_string_and_keeps_its_parameters() {
        let hash = compute(&argon(16), "secret", &[7; 16]).expect("a hash");
        assert!(
            hash.expose().starts_with("$argon2id$v=19$m=16,t=1,p=1$"),
            "{}",
            hash.expose()
        );
        let now = argon(8);
        assert!(now.verify_password(b"secret", hash.expose()).is_ok());
        assert!(now.verify_password(b"other", hash.expose()).is_err());
    }
}
