//! Whose an access token is.

use std::sync::Arc;
use std::time::Duration;

use super::identity::Identity;
use super::load;
use super::token::{self, TokenHash};
use super::view::UserView;
use crate::cache::ViewCache;
use crate::env::Env;
use crate::error::{DomainError, Outcome};

/// Tokens kept in memory, in bytes.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// How long one is believed: a deletion whose outcome was lost with its connection is noticed at last.
const LIFETIME: Duration = Duration::from_secs(600);
/// What one costs, roughly.
const WEIGHT: usize = 512;

/// A known access token.
pub struct Known {
    identity: Arc<Identity>,
    /// Unix milliseconds; `None` never expires.
    expires_ts: Option<i64>,
}

/// Known access tokens by their hash. Whoever deletes a token invalidates it here before answering.
pub type TokenCache = ViewCache<TokenHash, Known>;

/// An empty cache.
#[must_use]
pub fn new_cache() -> TokenCache {
    ViewCache::with_lifetime(CACHE_BYTES, LIFETIME, |_| WEIGHT)
}

/// Forgets deleted tokens.
pub fn invalidate(tokens: &TokenCache, gone: &[Vec<u8>]) {
    for hash in gone {
        if let Ok(hash) = TokenHash::try_from(hash.as_slice()) {
            tokens.invalidate(&hash);
        }
    }
}

/// The owner of an access token. Locked and suspended users are answered too: what they may do is the caller's part.
///
/// # Errors
/// `M_UNKNOWN_TOKEN`, with `soft_logout: true` where the device is still there and the token has only expired;
/// `Unavailable` when the database does not answer.
pub async fn identify(env: &Env, token: &str) -> Outcome<Arc<Identity>> {
    let unknown = || DomainError::unknown_token("Unknown access token").with("soft_logout", false);
    let hash = token::hash(token);
    let known = env.tokens.get_or_load(&hash, || load_token(env, hash)).await?;
    let known = known.ok_or_else(unknown)?;
    let identity = &known.identity;
    let view = load::view(env, &identity.user_id).await?;
    let view = view.filter(|view| view.has_session(&identity.device_id));
    let view = view.ok_or_else(unknown)?;
    if known.expires_ts.is_some_and(|ts| ts <= env.clock.now_ms()) {
        return Err(DomainError::unknown_token("The access token has expired").with("soft_logout", true));
    }
    Ok(current(identity, &view))
}

/// The identity with the user's rights of now.
fn current(identity: &Arc<Identity>, view: &UserView) -> Arc<Identity> {
    let same = identity.is_guest == view.is_guest
        && identity.is_admin == view.is_admin
        && identity.is_suspended == view.suspended
        && identity.is_locked == view.locked;
    if same {
        return identity.clone();
    }
    Arc::new(Identity {
        is_guest: view.is_guest,
        is_admin: view.is_admin,
        is_suspended: view.suspended,
        is_locked: view.locked,
        ..Identity::clone(identity)
    })
}

async fn load_token(env: &Env, hash: TokenHash) -> Outcome<Option<Known>> {
    let Some(row) = env.store.access_token(&hash).await? else {
        return Ok(None);
    };
    // The first use of a token after a refresh ends what it replaces.
    if let Some(refresh) = &row.refresh_hash {
        let (user, device) = (row.user_id.as_str(), row.device_id.as_str());
        if env.store.has_refresh_predecessor(user, device, refresh).await? {
            let gone = env.store.confirm_refresh(user, device, refresh).await?;
            invalidate(&env.tokens, &gone);
        }
    }
    let user_id = row.user_id.parse();
    let user_id = user_id.map_err(|_| DomainError::internal(format!("access_token.user_id: {}", row.user_id)))?;
    let identity = Identity {
        user_id,
        device_id: row.device_id.into(),
        is_guest: false,
        is_admin: false,
        is_suspended: false,
        is_locked: false,
        token_hash: hash,
        authed_ts: row.authed_ts,
        appservice: None,
        unlimited: false,
    };
    Ok(Some(Known {
        identity: Arc::new(identity),
        expires_ts: row.expires_ts,
    }))
}
