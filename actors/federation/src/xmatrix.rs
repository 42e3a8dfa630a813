//! `Authorization: X-Matrix` (server-server API, "Request Authentication"): signing, and reading what others signed.

use base::key::ServerKey;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request};
use ruma::api::federation::authentication::XMatrix;
use ruma::serde::Base64;
use ruma::signatures::{KeyPair as _, PublicKeyMap};
use ruma::{OwnedServerName, OwnedServerSigningKeyId, ServerName};

/// Signatures of one request that are looked at.
const MAX_SIGNATURES: usize = 4;

/// The header for a request whose URI is path and query, as they will be sent.
///
/// # Errors
/// In words, when the body is not canonical JSON.
pub fn sign(
    request: &Request<Bytes>,
    key: &ServerKey,
    origin: &ServerName,
    destination: &ServerName,
) -> Result<HeaderValue, String> {
    let object = XMatrix::request_object(request, origin, destination).map_err(|error| error.to_string())?;
    // A sorted map without spaces: canonical.
    let message = serde_json::to_vec(&object).map_err(|error| error.to_string())?;
    let (id, signature) = key.sign(&message).into_parts();
    let id: OwnedServerSigningKeyId = id.as_str().try_into().map_err(|error| format!("key id: {error}"))?;
    let header = XMatrix::new(origin.to_owned(), destination.to_owned(), id, Base64::new(signature));
    Ok(HeaderValue::from(&header))
}

/// What a request's headers claim: one server, and the keys it signed with.
#[derive(Debug)]
pub struct Claim {
    /// The server that says it has sent the request.
    pub origin: OwnedServerName,
    signatures: Vec<XMatrix>,
}

impl Claim {
    /// Reads the headers. `us` is this server.
    ///
    /// # Errors
    /// In words, when there is no signature, or they are malformed, of several servers, of this one, or for another one.
    pub fn read(headers: &HeaderMap, us: &ServerName) -> Result<Self, String> {
        let mut signatures: Vec<XMatrix> = Vec::new();
        for value in headers.get_all(AUTHORIZATION) {
            let scheme = value.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
            if !scheme.eq_ignore_ascii_case(XMatrix::AUTH_SCHEME.as_bytes()) {
                continue;
            }
            let header =
                XMatrix::try_from(&quoted(value)).map_err(|error| format!("malformed X-Matrix header: {error}"))?;
            if header
                .destination
                .as_deref()
                .is_some_and(|destination| destination != us)
            {
                return Err("the request is signed for another server".to_owned());
            }
            signatures.push(header);
            if signatures.len() > MAX_SIGNATURES {
                return Err(format!("more than {MAX_SIGNATURES} signatures"));
            }
        }
        let first = signatures.first().ok_or("the request is not signed")?;
        let origin = first.origin.clone();
        if signatures.iter().any(|header| header.origin != origin) {
            return Err("the request is signed by several servers".to_owned());
        }
        if origin == us {
            return Err("the request is signed by this very server".to_owned());
        }
        Ok(Self { origin, signatures })
    }

    /// The ids of the keys signed with.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.signatures.iter().map(|header| header.key.as_str())
    }

    /// Whether one of the signatures is good. The request's URI is path and query as sent.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self, request: &Request<Bytes>, us: &ServerName, keys: &PublicKeyMap) -> Result<(), String> {
        let mut reason = String::new();
        for header in &self.signatures {
            match header.verify_http_request(request, us, keys) {
                Ok(()) => return Ok(()),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(reason)
    }
}

/// With quotes around parameters that lack them: older servers write `key=ed25519:1`, which the specification asks to accept and
/// parsers of HTTP do not.
fn quoted(value: &HeaderValue) -> HeaderValue {
    let Some((scheme, parameters)) = value.to_str().ok().and_then(|text| text.trim().split_once(' ')) else {
        return value.clone();
    };
    // With a backslash or a comma inside quotes it was no such server.
    if parameters.contains('\\') {
        return value.clone();
    }
    let mend = |parameter: &str| match parameter.trim().split_once('=') {
        Some((name, text)) if !text.starts_with('"') && !text.contains('"') => format!("{name}=\"{text}\""),
        _ => parameter.trim().to_owned(),
    };
    let parameters: Vec<String> = parameters.split(',').map(mend).collect();
    HeaderValue::from_str(&format!("{scheme} {}", parameters.join(","))).unwrap_or_else(|_| value.clone())
}
