//! What a handler answers.

use actors::error::{DomainError, Outcome};
use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use http::header::{CONTENT_TYPE, InvalidHeaderValue};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use ruma::api::{OutgoingResponse, OutgoingResponseExt as _};
use serde::Serialize;

/// A response.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers, without those every answer gets.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
}

/// The body of a response.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// Piece by piece.
    Stream {
        /// The length, if known.
        size: Option<u64>,
        /// The pieces.
        pieces: BoxStream<'static, std::io::Result<Bytes>>,
    },
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl Reply {
    /// Any status and body.
    #[must_use]
    pub fn raw(status: StatusCode, headers: HeaderMap, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers,
            body: Body::Whole(body.into()),
        }
    }

    /// A typed response.
    ///
    /// # Errors
    /// `Internal` when a header value is impossible or the body does not serialise.
    pub fn ruma(response: impl OutgoingResponse) -> Outcome<Self> {
        let response = response
            .try_into_http_response::<BytesMut>()
            .map_err(|e| DomainError::internal(format!("response: {e}")))?;
        let (parts, body) = response.into_parts();
        Ok(Self::raw(parts.status, parts.headers, body))
    }

    /// 200 with a JSON body.
    ///
    /// # Errors
    /// `Internal` when the value does not serialise.
    pub fn json(value: &(impl Serialize + ?Sized)) -> Outcome<Self> {
        let body = serde_json::to_vec(value).map_err(|e| DomainError::internal(format!("response: {e}")))?;
        Ok(Self::json_bytes(body))
    }

    /// 200 with a body that is JSON already.
    #[must_use]
    pub fn json_bytes(body: impl Into<Bytes>) -> Self {
        Self::raw(StatusCode::OK, HeaderMap::from_iter([(CONTENT_TYPE, JSON)]), body)
    }

    /// 200 with `{}`.
    #[must_use]
    pub fn empty() -> Self {
        Self::json_bytes(Bytes::from_static(b"{}"))
    }

    /// 200 with text of a media type.
    #[must_use]
    pub fn text(media_type: &'static str, body: impl Into<Bytes>) -> Self {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))]);
        Self::raw(StatusCode::OK, headers, body)
    }

    /// 200 with a body piece by piece. The pieces are made on the threads that serve HTTP: no long computation.
    #[must_use]
    pub fn stream(size: Option<u64>, pieces: BoxStream<'static, std::io::Result<Bytes>>) -> Self {
        Self {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Body::Stream { size, pieces },
        }
    }

    /// Another status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Sets a header.
    ///
    /// # Errors
    /// `Internal` when the value has characters that a header may not have.
    pub fn with_header<V>(mut self, name: HeaderName, value: V) -> Outcome<Self>
    where
        V: TryInto<HeaderValue, Error = InvalidHeaderValue>,
    {
        let value = value
            .try_into()
            .map_err(|e| DomainError::internal(format!("header {name}: {e}")))?;
        self.headers.insert(name, value);
        Ok(self)
    }

    /// The body, where it is not streamed.
    #[must_use]
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.body {
            Body::Whole(bytes) => Some(bytes),
            Body::Stream { .. } => None,
        }
    }
}
