//! Between ruma's types and what goes over the wire, and what a refusal means here.

use std::borrow::Cow;
use std::time::Duration;

use federation::Limits;
use federation::client::{Signing, plain, typed};
use ruma::api::path_builder::SinglePath;
use ruma::api::{IncomingResponse, Metadata, OutgoingRequest};
use serde_json::{Map, Value};

use super::transport::{WireError, WireRequest, WireResponse};
use crate::error::{DomainError, Outcome};

/// For a template that the other server has to work out from a whole room.
const TEMPLATE: Limits = Limits {
    timeout: Duration::from_secs(120),
    ..Limits::QUERY
};

/// Members and bytes of a refusal that are handed on beside errcode and text.
const MAX_EXTRA: usize = 16;
const MAX_EXTRA_BYTES: usize = 16 * 1024;
/// Characters of a refusal's text that are handed on.
const MAX_TEXT: usize = 1_000;

/// A request of ruma's as it goes over the wire.
///
/// # Errors
/// `Internal` for what cannot be written as a request.
pub fn outgoing<R>(request: R) -> Outcome<WireRequest>
where
    R: OutgoingRequest + Metadata<PathBuilder = SinglePath, Authentication: Signing>,
{
    let wire = plain(request, Limits::QUERY);
    let mut wire = wire.map_err(|error| DomainError::internal(format!("a request to a server: {error}")))?;
    let limits = limits(&wire.path);
    (wire.timeout, wire.max_bytes) = (limits.timeout, limits.max_bytes);
    Ok(wire)
}

/// How long an answer may take and how large it may be.
fn limits(path: &str) -> Limits {
    let (_, path) = path.split_once("/_matrix/federation/").unwrap_or(("", path));
    match path.split('/').nth(1) {
        Some("send_join" | "state" | "state_ids" | "event_auth") => Limits::STATE,
        Some("make_join") => TEMPLATE,
        _ => Limits::QUERY,
    }
}

/// An answer as ruma's type.
///
/// # Errors
/// 502 `M_UNKNOWN` when it is not what the specification says.
pub fn incoming<T: IncomingResponse>(answer: &WireResponse) -> Outcome<T> {
    typed(answer).map_err(|error| bad_answer(&error))
}

fn bad_answer(error: &dyn std::fmt::Display) -> DomainError {
    DomainError::matrix(
        502,
        "M_UNKNOWN",
        format!("The other server's answer is not valid: {error}"),
    )
}

/// What whoever asked is told. `wait_ms`: when it makes sense to ask again.
#[must_use]
pub fn refusal(error: WireError, wait_ms: u64) -> DomainError {
    match error {
        WireError::Refused {
            status,
            errcode,
            error,
            retry_after_ms,
            body,
        } => refused(status, errcode, &error, retry_after_ms, body),
        WireError::Unreachable(reason) => DomainError::Unavailable {
            retry_after_ms: wait_ms,
            reason,
        },
        WireError::Invalid(reason) => bad_answer(&reason),
        WireError::Disabled => DomainError::forbidden("Federation is disabled on this server"),
        WireError::Blocked(reason) => DomainError::forbidden(format!("That server may not be contacted: {reason}")),
    }
}

fn refused(status: u16, errcode: Option<String>, text: &str, retry_after_ms: Option<u64>, body: Value) -> DomainError {
    let (status, errcode) = match (status, errcode) {
        (429, _) => {
            let retry_after_ms = retry_after_ms.unwrap_or(5_000);
            return DomainError::Overloaded { retry_after_ms };
        }
        // What the other server thinks of this one's signature must not end a client's session.
        (401, _) => (502, Cow::Borrowed("M_UNKNOWN")),
        (_, Some(errcode)) if errcode == "M_UNKNOWN_TOKEN" || errcode == "M_MISSING_TOKEN" => {
            (502, Cow::Borrowed("M_UNKNOWN"))
        }
        // Redirects and the like.
        (..=399, errcode) => (502, errcode.map_or(Cow::Borrowed("M_UNKNOWN"), Cow::Owned)),
        (status, errcode) => (status, errcode.map_or(Cow::Borrowed("M_UNKNOWN"), Cow::Owned)),
    };
    DomainError::Matrix {
        status,
        errcode,
        message: text.chars().take(MAX_TEXT).collect(),
        extra: extra(body),
    }
}

/// What else the error object says (`room_version`, for one).
fn extra(body: Value) -> Map<String, Value> {
    let Value::Object(mut body) = body else {
        return Map::new();
    };
    body.retain(|key, _| !matches!(key.as_str(), "errcode" | "error" | "retry_after_ms" | "soft_logout"));
    let small = body.len() <= MAX_EXTRA && serde_json::to_string(&body).is_ok_and(|json| json.len() <= MAX_EXTRA_BYTES);
    if small { body } else { Map::new() }
}

#[cfg(test)]
mod tests {
    use ruma::api::federation::{discovery::get_server_version, event::get_room_state};
    use ruma::{event_id, room_id};
    use serde_json::json;

    use super::*;

    fn answer(body: &str) -> WireResponse {
        WireResponse {
            status: http::StatusCode::OK,
            headers: http::HeaderMap::new(),
            body: body.to_owned().into(),
        }
    }

    fn refused(status: u16, errcode: Option<&str>, body: Value) -> DomainError {
        let error = WireError::Refused {
            status,
            errcode: errcode.map(str::to_owned),
            error: "no".to_owned(),
            retry_after_ms: None,
            body,
        };
        refusal(error, 1)
    }

    #[test]
    fn requests_keep_path_query_and_limits() {
        let request = get_room_state::v1::Request::new(event_id!("$a/b").to_owned(), room_id!("!r:x").to_owned());
        let wire = outgoing(request).expect("it can be written");
        assert_eq!(wire.method, http::Method::GET);
        assert!(
            wire.path.starts_with("/_matrix/federation/v1/state/!r:x?event_id="),
            "{}",
            wire.path
        );
        assert!(wire.body.is_none() && wire.signed);
        assert_eq!(
            (wire.timeout, wire.max_bytes),
            (Limits::STATE.timeout, Limits::STATE.max_bytes)
        );
        let wire = outgoing(get_server_version::v1::Request::new()).expect("it can be written");
        assert_eq!((wire.timeout, wire.signed), (Limits::QUERY.timeout, false));
    }

    #[test]
    fn answers_that_break_the_format_are_the_other_servers_fault() {
        type Version = get_server_version::v1::Response;
        let good = incoming::<Version>(&answer(r#"{"server":{"name":"n","version":"1"}}"#)).expect("it is valid");
        assert_eq!(good.server.and_then(|server| server.name).as_deref(), Some("n"));
        let bad = incoming::<Version>(&answer("[")).map(|_| ());
        assert!(matches!(bad, Err(DomainError::Matrix { status: 502, .. })), "{bad:?}");
    }

    #[test]
    fn refusals_are_handed_on_with_what_they_carry() {
        let body = json!({ "errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "no", "room_version": "12" });
        let DomainError::Matrix {
            status, errcode, extra, ..
        } = refused(400, Some("M_INCOMPATIBLE_ROOM_VERSION"), body)
        else {
            panic!("a Matrix error");
        };
        assert_eq!((status, &*errcode), (400, "M_INCOMPATIBLE_ROOM_VERSION"));
        assert_eq!(
            extra,
            json!({ "room_version": "12" }).as_object().cloned().expect("an object")
        );
    }

    #[test]
    fn nothing_of_a_refusal_logs_a_client_out() {
        for (status, errcode) in [
            (401, "M_UNAUTHORIZED"),
            (401, "M_UNKNOWN_TOKEN"),
            (403, "M_UNKNOWN_TOKEN"),
        ] {
            let error = refused(status, Some(errcode), json!({ "soft_logout": true }));
            let DomainError::Matrix {
                status, errcode, extra, ..
            } = error
            else {
                panic!("a Matrix error");
            };
            assert_eq!((status, &*errcode, extra.len()), (502, "M_UNKNOWN", 0));
        }
        let limited = refused(429, Some("M_LIMIT_EXCEEDED"), Value::Null);
        assert!(matches!(limited, DomainError::Overloaded { retry_after_ms: 5_000 }));
        let redirect = refused(302, None, Value::Null);
        assert!(matches!(redirect, DomainError::Matrix { status: 502, .. }));
    }
}
