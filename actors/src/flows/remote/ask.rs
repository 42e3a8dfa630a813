//! Requests of a handshake, with the older form of those endpoints that have one.

use std::time::Duration;

use federation::client::Signing;
use ruma::ServerName;
use ruma::api::path_builder::SinglePath;
use ruma::api::{Metadata, OutgoingRequest};
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::peer::handle::Pace;
use crate::peer::transport::{WireRequest, WireResponse};
use crate::peer::typed;

/// Sends a request for which somebody waits, `patience` at most.
///
/// # Errors
/// As `Peers::call`.
pub async fn call<R>(hub: &Hub, server: &ServerName, request: R, patience: Duration) -> Outcome<R::IncomingResponse>
where
    R: OutgoingRequest + Metadata<PathBuilder = SinglePath, Authentication: Signing>,
{
    let mut request = typed::outgoing(request)?;
    request.timeout = request.timeout.min(patience);
    let answer = hub.peers().send(server, request, Pace::Now).await?;
    typed::incoming(&answer)
}

/// An answer of an endpoint of which there are two versions.
#[derive(Debug)]
pub enum Answer {
    /// `[200, …]`
    V1(WireResponse),
    /// As it is.
    V2(WireResponse),
}

impl Answer {
    /// What it tells.
    ///
    /// # Errors
    /// 502 `M_UNKNOWN` for answers of another shape.
    pub fn read<T: DeserializeOwned>(&self) -> Outcome<T> {
        let read = match self {
            Self::V1(answer) => serde_json::from_slice(&answer.body).map(|(_, told): (IgnoredAny, T)| told),
            Self::V2(answer) => serde_json::from_slice(&answer.body),
        };
        read.map_err(|error| bad_answer(&error))
    }
}

/// Sends a request to the second version of an endpoint, and to the first where the server does not know that one: the two
/// differ in the answer only.
///
/// # Errors
/// As `Peers::send`.
pub async fn v2_or_v1<R>(hub: &Hub, server: &ServerName, request: R, patience: Duration) -> Outcome<Answer>
where
    R: OutgoingRequest + Metadata<PathBuilder = SinglePath, Authentication: Signing>,
{
    let mut request = typed::outgoing(request)?;
    request.timeout = request.timeout.min(patience);
    let older = WireRequest {
        path: request.path.replacen("/federation/v2/", "/federation/v1/", 1),
        ..request.clone()
    };
    match hub.peers().send(server, request, Pace::Now).await {
        Err(error) if is_unknown_endpoint(&error) => hub.peers().send(server, older, Pace::Now).await.map(Answer::V1),
        answer => answer.map(Answer::V2),
    }
}

/// Whether the server does not serve the endpoint ("Unsupported endpoints"; older servers give no errcode).
#[must_use]
pub fn is_unknown_endpoint(error: &DomainError) -> bool {
    match error {
        DomainError::Matrix { status, errcode, .. } => match errcode.as_ref() {
            "M_UNRECOGNIZED" => true,
            "M_UNKNOWN" => matches!(status, 404 | 405),
            _ => false,
        },
        _ => false,
    }
}

/// The other server did not answer as the specification has it.
#[must_use]
pub fn bad_answer(why: &dyn std::fmt::Display) -> DomainError {
    DomainError::matrix(
        502,
        "M_UNKNOWN",
        format!("The other server's answer is not valid: {why}"),
    )
}
