//! From requests to ruma's types, and what is said when that fails.

use actors::error::{DomainError, Outcome};
use ruma::api::error::{DeserializationError, FromHttpRequestError};
use ruma::api::{IncomingRequest, IncomingRequestExt as _};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;

use super::context::RequestInfo;

/// Parses a request.
///
/// # Errors
/// 400 `M_NOT_JSON`, `M_BAD_JSON`, `M_MISSING_PARAM` or `M_INVALID_PARAM`.
pub fn parse<R: IncomingRequest>(info: &RequestInfo, args: &[String]) -> Outcome<R> {
    let request = rebuild(info)?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    R::try_from_http_request(request, &args).map_err(refusal)
}

fn rebuild(info: &RequestInfo) -> Outcome<http::Request<&[u8]>> {
    let mut request = http::Request::new(&info.body[..]);
    *request.method_mut() = info.method.clone();
    *request.uri_mut() = info
        .uri
        .parse()
        .map_err(|e| DomainError::invalid_param(format!("invalid address: {e}")))?;
    *request.headers_mut() = info.headers.clone();
    Ok(request)
}

/// Parses a JSON object; an empty body counts as `{}`.
///
/// # Errors
/// 400 `M_NOT_JSON`, `M_BAD_JSON` or `M_MISSING_PARAM`.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Outcome<T> {
    let body = if body.is_empty() { b"{}" } else { body };
    require_object(body)?;
    serde_json::from_slice(body).map_err(|e| json_refusal(&e))
}

/// Every body of Matrix is a JSON object. Serde would take arrays for structs, and raw JSON would take anything.
///
/// # Errors
/// 400 `M_NOT_JSON` or `M_BAD_JSON`.
pub fn require_object(body: &[u8]) -> Outcome<()> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
        return Ok(());
    }
    serde_json::from_slice::<IgnoredAny>(body).map_err(|e| DomainError::not_json(format!("not JSON: {e}")))?;
    Err(DomainError::bad_json("the body must be a JSON object"))
}

fn refusal(error: FromHttpRequestError) -> DomainError {
    match error {
        FromHttpRequestError::Deserialization(DeserializationError::Json(e)) => json_refusal(&e),
        FromHttpRequestError::Deserialization(e) => {
            let text = e.to_string();
            if text.starts_with("missing field") {
                DomainError::missing_param(text)
            } else {
                DomainError::invalid_param(text)
            }
        }
        e => DomainError::unknown(e.to_string()),
    }
}

fn json_refusal(error: &serde_json::Error) -> DomainError {
    let text = error.to_string();
    match error.classify() {
        Category::Data if text.starts_with("missing field") => DomainError::missing_param(text),
        Category::Data => DomainError::bad_json(text),
        Category::Syntax | Category::Eof | Category::Io => DomainError::not_json(format!("not JSON: {text}")),
    }
}
