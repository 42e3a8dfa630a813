//! `Authorization: X-Matrix` (server-server API, "Request Authentication"): signing, and reading what others signed.

use base::key::ServerKey;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request};
use ruma::api::federation::authentication::XMatrix;
use ruma::serde::Base64;
use ruma::signatures::{KeyPair as _, PublicKeyMap, verify_canonical_json_bytes};
use ruma::{OwnedServerName, OwnedServerSigningKeyId, ServerName};
use serde_json::error::Category;

use crate::lenient;

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

    /// Whether one of the signatures is good. The request's URI is path and query as sent; `keys` those of its origin.
    ///
    /// # Errors
    /// Also when the body is not JSON. Numbers beyond canonical JSON count as they are written (see [`lenient`]).
    pub fn check(&self, request: &Request<Bytes>, us: &ServerName, keys: &PublicKeyMap) -> Result<(), Fault> {
        let message = self.message(request, us)?;
        let keys = keys.get(self.origin.as_str());
        let mut reason = format!("the key of {} is not known or not in use", self.origin);
        for header in &self.signatures {
            let Some(key) = keys.and_then(|keys| keys.get(header.key.as_str())) else {
                continue;
            };
            let algorithm = header.key.algorithm();
            match verify_canonical_json_bytes(&algorithm, key.as_bytes(), header.sig.as_bytes(), &message) {
                Ok(()) => return Ok(()),
                Err(error) => reason = format!("signature check failed: {error}"),
            }
        }
        Err(Fault::Signature(reason))
    }

    /// What must have been signed.
    fn message(&self, request: &Request<Bytes>, us: &ServerName) -> Result<Vec<u8>, Fault> {
        let written = |object| serde_json::to_vec(&object).map_err(|error| Fault::of_body(&error));
        let error = match XMatrix::request_object(request, &self.origin, us) {
            Ok(object) => return written(object),
            Err(error) if error.classify() == Category::Data => error,
            Err(error) => return Err(Fault::of_body(&error)),
        };
        let content = lenient::canonical(request.body()).map_err(|_| Fault::of_body(&error))?;
        let mut bare = Request::new(Bytes::new());
        *bare.method_mut() = request.method().clone();
        *bare.uri_mut() = request.uri().clone();
        let rest = XMatrix::request_object(&bare, &self.origin, us).map_err(|error| Fault::of_body(&error))?;
        // "content" comes before all the other names.
        let mut message = format!("{{\"content\":{content},").into_bytes();
        message.extend_from_slice(written(rest)?.get(1..).unwrap_or_default());
        Ok(message)
    }
}

/// Why a request cannot be taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// The body is not JSON.
    NotJson(String),
    /// The body is not canonical JSON.
    BadJson(String),
    /// No good signature.
    Signature(String),
}

impl Fault {
    fn of_body(error: &serde_json::Error) -> Self {
        match error.classify() {
            Category::Syntax | Category::Eof | Category::Io => Self::NotJson(format!("not JSON: {error}")),
            Category::Data => Self::BadJson(format!("not canonical JSON: {error}")),
        }
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

#[cfg(test)]
#[path = "xmatrix_tests.rs"]
mod tests;
