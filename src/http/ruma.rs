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

/// How deeply the objects and arrays of a body may be nested. What is stored comes back inside other objects, and parsers
/// (ours among them) give up at 128 levels.
const MAX_NESTING: usize = 100;

/// Every body of Matrix is a JSON object in UTF-8. Serde would take arrays for structs, and raw JSON would take anything,
/// however deeply nested.
///
/// # Errors
/// 400 `M_NOT_JSON` or `M_BAD_JSON`.
pub fn require_object(body: &[u8]) -> Outcome<()> {
    // Parsers do not look at what they skip.
    std::str::from_utf8(body).map_err(|e| DomainError::not_json(format!("not JSON: {e}")))?;
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
        if is_nested_beyond(body, MAX_NESTING) {
            let message = format!("the body may be nested {MAX_NESTING} levels deep at most");
            return Err(DomainError::bad_json(message));
        }
        return Ok(());
    }
    serde_json::from_slice::<IgnoredAny>(body).map_err(|e| DomainError::not_json(format!("not JSON: {e}")))?;
    Err(DomainError::bad_json("the body must be a JSON object"))
}

/// Whether objects and arrays are open at some place that are more than `limit`. Looks at brackets outside of strings only.
fn is_nested_beyond(json: &[u8], limit: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' if depth == limit => return true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_counted_outside_of_strings() {
        let nested = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert!(require_object(nested(MAX_NESTING).as_bytes()).is_ok());
        let refused = require_object(nested(MAX_NESTING + 1).as_bytes());
        assert_eq!(
            refused.err().as_ref().and_then(DomainError::errcode),
            Some("M_BAD_JSON")
        );
        assert!(is_nested_beyond(b"[[]]", 1));
        assert!(!is_nested_beyond(b"[[]]", 2));
        assert!(!is_nested_beyond(b"[{},{},[]]", 2), "siblings do not add up");
        assert!(!is_nested_beyond(br#"["[[[\"[[[", "\\"]"#, 1), "brackets in strings");
    }
}
