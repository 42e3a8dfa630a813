//! Requests of other servers: who has signed them (server-server API, "Request Authentication").

use std::time::Duration;

use base::cpu::Class;
use base::error::{DomainError, Outcome};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use ruma::OwnedServerName;

use super::fetch::Lane;
use super::{KeyRing, Wanted};
use crate::xmatrix::{Claim, Fault};

/// How long a request waits for the keys of who has signed it.
const PATIENCE: Duration = Duration::from_secs(16);

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct SignedRequest {
    /// As sent.
    pub method: Method,
    /// Path and query as sent.
    pub uri: String,
    /// With `Authorization: X-Matrix …`.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

fn unauthorized(reason: impl Into<String>) -> DomainError {
    DomainError::matrix(401, "M_UNAUTHORIZED", reason)
}

impl KeyRing {
    /// Which server signed a request, with a key that it uses now.
    ///
    /// # Errors
    /// 401 `M_UNAUTHORIZED`; 400 `M_NOT_JSON` or `M_BAD_JSON` for a body that cannot have been signed; 403 `M_FORBIDDEN` where
    /// there is no federation; `Overloaded` when too many requests wait for keys.
    pub async fn verify_request(&self, request: SignedRequest) -> Outcome<OwnedServerName> {
        let ring = &self.0;
        if !ring.wire.is_enabled() {
            return Err(DomainError::forbidden("this server does not federate"));
        }
        let us = ring.own.server.clone();
        let claim = Claim::read(&request.headers, &us).map_err(unauthorized)?;
        let origin = claim.origin.clone();
        let now = ring.tools.clock.now_ms();
        let wanted: Vec<Wanted> = claim
            .key_ids()
            .map(|id| Wanted {
                server: origin.clone(),
                key_id: id.to_owned(),
                at: Some(now),
            })
            .collect();
        // Anybody can claim to be any server, so those who wait for one that is slow must not take everybody's place.
        let known = ring.lacking(&wanted).await?.is_empty();
        let keys = if known {
            self.look_up(&wanted, Duration::ZERO, Lane::Request).await?
        } else {
            let busy = |_| DomainError::Overloaded { retry_after_ms: 5_000 };
            let _permit = ring.checks.try_acquire().map_err(busy)?;
            self.look_up(&wanted, PATIENCE, Lane::Request).await?
        };
        let keys = keys.of([&*origin], Some(now));
        let mut signed = Request::new(request.body);
        *signed.method_mut() = request.method;
        *signed.uri_mut() = request
            .uri
            .parse()
            .map_err(|_| unauthorized("the address cannot be read"))?;
        let check = move || claim.check(&signed, &us, &keys);
        match ring.tools.cpu.run(Class::Verify, check).await? {
            Ok(()) => Ok(origin),
            Err(Fault::NotJson(reason)) => Err(DomainError::not_json(reason)),
            Err(Fault::BadJson(reason)) => Err(DomainError::bad_json(reason)),
            Err(Fault::Signature(reason)) => Err(unauthorized(reason)),
        }
    }
}
