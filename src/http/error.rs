//! The only mapping from domain errors to responses.

use actors::error::DomainError;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value};

use super::reply::Reply;

/// Renders an error. `seed`: the object has a member `status` as well (`compat.r0_profile`).
#[must_use]
pub fn reply(error: &DomainError, seed: bool) -> Reply {
    let mut answer = Answer::new();
    let status = match error {
        DomainError::Matrix {
            status,
            errcode,
            message,
            extra,
        } => {
            answer.0.clone_from(extra);
            answer.set("errcode", errcode.as_ref());
            answer.set("error", message.as_str());
            StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
        DomainError::Overloaded { retry_after_ms } => {
            answer.fill("M_LIMIT_EXCEEDED", "too many requests", Some(*retry_after_ms));
            StatusCode::TOO_MANY_REQUESTS
        }
        DomainError::Unavailable { retry_after_ms, reason } => {
            tracing::warn!(reason, "unavailable");
            answer.fill(
                "M_UNKNOWN",
                "the server cannot answer at the moment",
                Some(*retry_after_ms),
            );
            StatusCode::SERVICE_UNAVAILABLE
        }
        DomainError::Uiaa(body) => {
            answer.0.clone_from(body);
            StatusCode::UNAUTHORIZED
        }
        DomainError::Internal(reason) => {
            tracing::error!(reason, "internal error");
            answer.fill("M_UNKNOWN", "internal server error", None);
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    if seed && !matches!(error, DomainError::Uiaa(_)) {
        answer.0.entry("status").or_insert_with(|| "error".into());
    }
    answer.render(status)
}

struct Answer(Map<String, Value>);

impl Answer {
    fn new() -> Self {
        Self(Map::new())
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    fn fill(&mut self, errcode: &str, message: &str, retry_after_ms: Option<u64>) {
        self.set("errcode", errcode);
        self.set("error", message);
        if let Some(ms) = retry_after_ms {
            self.set("retry_after_ms", ms);
        }
    }

    fn render(self, status: StatusCode) -> Reply {
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        if let Some(ms) = self.0.get("retry_after_ms").and_then(Value::as_u64) {
            headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1)));
        }
        Reply::raw(status, headers, Value::Object(self.0).to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(error: &DomainError, seed: bool) -> (u16, Value, Option<String>) {
        let reply = reply(error, seed);
        let body = reply
            .bytes()
            .and_then(|bytes| serde_json::from_slice(bytes).ok())
            .unwrap_or_default();
        let retry = reply
            .headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .map(ToOwned::to_owned);
        (reply.status.as_u16(), body, retry)
    }

    #[test]
    fn matrix_errors_keep_their_members() {
        let error = DomainError::unknown_token("gone").with("soft_logout", true);
        let body = json!({"errcode": "M_UNKNOWN_TOKEN", "error": "gone", "soft_logout": true});
        assert_eq!(seen(&error, false), (401, body, None));
        assert_eq!(seen(&error, true).1["status"], "error");
    }

    #[test]
    fn waiting_is_told_twice() {
        let (status, body, retry) = seen(&DomainError::Overloaded { retry_after_ms: 1_500 }, false);
        assert_eq!((status, retry.as_deref()), (429, Some("2")));
        assert_eq!(
            (&body["errcode"], &body["retry_after_ms"]),
            (&json!("M_LIMIT_EXCEEDED"), &json!(1_500))
        );
        let (status, body, retry) = seen(&DomainError::unavailable("the database is away"), false);
        assert_eq!((status, retry.as_deref()), (503, Some("1")));
        assert!(!body.to_string().contains("database"));
    }

    #[test]
    fn internal_reasons_stay_inside() {
        let (status, body, _) = seen(&DomainError::internal("secret detail"), true);
        assert_eq!((status, &body["errcode"]), (500, &json!("M_UNKNOWN")));
        assert!(!body.to_string().contains("secret"));
    }

    #[test]
    fn interactive_authentication_is_answered_as_given() {
        let body = Map::from_iter([("flows".to_owned(), json!([])), ("session".to_owned(), json!("s"))]);
        assert_eq!(
            seen(&DomainError::Uiaa(body), true),
            (401, json!({"flows": [], "session": "s"}), None)
        );
    }
}
