//! A backend without actors, for the tests of the edge.

use std::sync::Arc;

use actors::error::{DomainError, Outcome};
use actors::federation::SignedRequest;
use actors::session::identity::Identity;
use futures_util::future::BoxFuture;
use ruma::OwnedServerName;
use tokio::runtime::Handle;

use super::state::Backend;

/// Knows the tokens `user`, `guest`, `admin` and `locked`; `slow` is `user`, later.
pub struct Fake {
    pub io: Handle,
}

/// An ordinary user.
pub fn identity(user: &str) -> Identity {
    Identity {
        user_id: user.try_into().expect("tests use valid ids"),
        device_id: "DEVICE".into(),
        is_guest: false,
        is_admin: false,
        is_suspended: false,
        is_locked: false,
        token_hash: [0; 32],
        authed_ts: 0,
        appservice: None,
        unlimited: false,
    }
}

impl Backend for Fake {
    fn io(&self) -> &Handle {
        &self.io
    }

    fn identify(self: Arc<Self>, token: String) -> BoxFuture<'static, Outcome<Arc<Identity>>> {
        Box::pin(async move {
            if token == "slow" {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            let mut identity = identity(&format!("@{token}:x"));
            match token.as_str() {
                "user" | "slow" => {}
                "guest" => identity.is_guest = true,
                "admin" => identity.is_admin = true,
                "locked" => identity.is_locked = true,
                _ => return Err(DomainError::unknown_token("unknown access token")),
            }
            Ok(Arc::new(identity))
        })
    }

    fn origin(self: Arc<Self>, signed: SignedRequest) -> BoxFuture<'static, Outcome<OwnedServerName>> {
        let origin = signed
            .headers
            .get("x-origin")
            .and_then(|value| value.to_str().ok()?.try_into().ok());
        Box::pin(async { origin.ok_or_else(|| DomainError::matrix(401, "M_UNAUTHORIZED", "not signed")) })
    }
}
