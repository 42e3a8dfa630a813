//! Who may use an endpoint.

use actors::error::{DomainError, Outcome};
use actors::session::account;
use actors::session::identity::Identity;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::context::query_param;

/// What an endpoint asks of its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing; a token is not looked at.
    Open,
    /// A token must be good if there is one.
    Optional,
    /// A token of a user or guest.
    Guest,
    /// A token of a user who is no guest.
    User,
    /// A token of an administrator.
    Admin,
    /// A server's signature (`X-Matrix`).
    Server,
}

impl Policy {
    /// Whether there has to be a token.
    #[must_use]
    pub fn needs_token(self) -> bool {
        matches!(self, Self::Guest | Self::User | Self::Admin)
    }

    /// Whether a token is looked at.
    #[must_use]
    pub fn takes_token(self) -> bool {
        self == Self::Optional || self.needs_token()
    }

    /// Whether the token's owner may come in. `log_out`: the endpoint is one that locked users may use.
    ///
    /// # Errors
    /// 401 `M_USER_LOCKED`, 403 `M_GUEST_ACCESS_FORBIDDEN` or `M_FORBIDDEN`.
    pub fn admit(self, identity: &Identity, log_out: bool) -> Outcome<()> {
        if identity.is_locked && !log_out {
            return Err(account::locked());
        }
        match self {
            Self::Admin if !identity.is_admin => Err(DomainError::forbidden("you are not a server administrator")),
            Self::User | Self::Admin if identity.is_guest => {
                Err(DomainError::guest_forbidden("guests may not use this endpoint"))
            }
            _ => Ok(()),
        }
    }
}

/// The access token of a request: the header's, or else the query's.
#[must_use]
pub fn token(headers: &HeaderMap, query: &str) -> Option<String> {
    let bearer = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        });
    bearer
        .or_else(|| query_param(query, "access_token"))
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::http::testing::identity;

    #[test]
    fn tokens_come_from_header_or_query() {
        let mut headers = HeaderMap::new();
        assert_eq!(token(&headers, "a=b"), None);
        assert_eq!(token(&headers, "a=b&access_token=x%2By"), Some("x+y".to_owned()));
        assert_eq!(token(&headers, "access_token="), None);
        headers.insert(AUTHORIZATION, HeaderValue::from_static("bearer t"));
        assert_eq!(token(&headers, "access_token=x"), Some("t".to_owned()));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("X-Matrix origin=a"));
        assert_eq!(token(&headers, ""), None);
    }

    #[test]
    fn guests_locked_users_and_strangers_stay_out() {
        let refused = |policy: Policy, identity: &Identity, log_out| {
            policy
                .admit(identity, log_out)
                .err()
                .and_then(|e| e.errcode().map(ToOwned::to_owned))
        };
        let user = identity("@a:x");
        assert_eq!(refused(Policy::User, &user, false), None);
        assert_eq!(refused(Policy::Admin, &user, false).as_deref(), Some("M_FORBIDDEN"));
        let guest = Identity {
            is_guest: true,
            ..user.clone()
        };
        assert_eq!(
            refused(Policy::User, &guest, false).as_deref(),
            Some("M_GUEST_ACCESS_FORBIDDEN")
        );
        assert_eq!(refused(Policy::Guest, &guest, false), None);
        let locked = Identity {
            is_locked: true,
            is_admin: true,
            ..user
        };
        assert_eq!(refused(Policy::Admin, &locked, false).as_deref(), Some("M_USER_LOCKED"));
        assert_eq!(refused(Policy::User, &locked, true), None);
    }
}
