//! What an operation can answer instead of its result. Plain data, so that it can cross any boundary.

use std::borrow::Cow;

use entities::error::StoreError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A refused operation. `src/http/error.rs` turns it into a response.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum DomainError {
    /// Something Matrix has an errcode for.
    #[error("{errcode}: {message}")]
    Matrix {
        /// HTTP status.
        status: u16,
        /// `M_…`
        errcode: Cow<'static, str>,
        /// For people.
        message: String,
        /// Further members of the error object.
        extra: Map<String, Value>,
    },
    /// A queue is full: 429 with `retry_after_ms`.
    #[error("too many requests, retry in {retry_after_ms} ms")]
    Overloaded {
        /// Milliseconds.
        retry_after_ms: u64,
    },
    /// The owner of the data is (re)starting, or the database is away: 503.
    #[error("unavailable, retry in {retry_after_ms} ms: {reason}")]
    Unavailable {
        /// Milliseconds.
        retry_after_ms: u64,
        /// For the log.
        reason: String,
    },
    /// User-interactive authentication is needed: 401 with this body.
    #[error("user-interactive authentication needed")]
    Uiaa(Map<String, Value>),
    /// Our fault: 500. The message goes to the log, not to the client.
    #[error("internal: {0}")]
    Internal(String),
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $status:literal $errcode:literal;)*) => {
        $($(#[$doc])*
        pub fn $name(message: impl Into<String>) -> Self {
            Self::matrix($status, $errcode, message)
        })*
    };
}

impl DomainError {
    kinds! {
        /// 403 `M_FORBIDDEN`
        forbidden = 403 "M_FORBIDDEN";
        /// 404 `M_NOT_FOUND`
        not_found = 404 "M_NOT_FOUND";
        /// 400 `M_BAD_JSON`
        bad_json = 400 "M_BAD_JSON";
        /// 400 `M_NOT_JSON`
        not_json = 400 "M_NOT_JSON";
        /// 400 `M_INVALID_PARAM`
        invalid_param = 400 "M_INVALID_PARAM";
        /// 400 `M_MISSING_PARAM`
        missing_param = 400 "M_MISSING_PARAM";
        /// 401 `M_MISSING_TOKEN`
        missing_token = 401 "M_MISSING_TOKEN";
        /// 401 `M_UNKNOWN_TOKEN`
        unknown_token = 401 "M_UNKNOWN_TOKEN";
        /// 400 `M_USER_IN_USE`
        user_in_use = 400 "M_USER_IN_USE";
        /// 400 `M_INVALID_USERNAME`
        invalid_username = 400 "M_INVALID_USERNAME";
        /// 403 `M_USER_DEACTIVATED`
        user_deactivated = 403 "M_USER_DEACTIVATED";
        /// 400 `M_ROOM_IN_USE`
        room_in_use = 400 "M_ROOM_IN_USE";
        /// 400 `M_UNSUPPORTED_ROOM_VERSION`
        unsupported_room_version = 400 "M_UNSUPPORTED_ROOM_VERSION";
        /// 400 `M_UNKNOWN`
        unknown = 400 "M_UNKNOWN";
        /// 404 `M_UNRECOGNIZED`
        unrecognized = 404 "M_UNRECOGNIZED";
        /// 413 `M_TOO_LARGE`
        too_large = 413 "M_TOO_LARGE";
        /// 403 `M_GUEST_ACCESS_FORBIDDEN`
        guest_forbidden = 403 "M_GUEST_ACCESS_FORBIDDEN";
        /// 409 `M_CONFLICT`
        conflict = 409 "M_CONFLICT";
    }

    /// Any errcode.
    pub fn matrix(status: u16, errcode: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::Matrix {
            status,
            errcode: errcode.into(),
            message: message.into(),
            extra: Map::new(),
        }
    }

    /// Adds a member to the error object of a Matrix error; no effect on other kinds.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        if let Self::Matrix { extra, .. } = &mut self {
            extra.insert(key.to_owned(), value.into());
        }
        self
    }

    /// An invariant that did not hold.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Internal(message.into())
    }

    /// A retry may succeed.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable {
            retry_after_ms: 1_000,
            reason: reason.into(),
        }
    }

    /// The errcode, if this is a Matrix error.
    #[must_use]
    pub fn errcode(&self) -> Option<&str> {
        match self {
            Self::Matrix { errcode, .. } => Some(errcode),
            _ => None,
        }
    }
}

impl From<StoreError> for DomainError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Nul => Self::invalid_param("U+0000 is not accepted"),
            error => Self::unavailable(format!("store: {error}")),
        }
    }
}

/// The result of an operation on an actor.
pub type Outcome<T> = Result<T, DomainError>;
