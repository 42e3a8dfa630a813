//! From replies to actix-web's responses: with `dispatch`, `work` and `server` the only code that knows it.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody, SizedStream};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, StatusCode};
use bytes::Bytes;

use super::cors;
use super::gate::Pass;
use super::reply::{Body, Reply};

/// The answer to `OPTIONS`, whatever the path.
pub(super) fn preflight() -> HttpResponse {
    let mut builder = HttpResponse::NoContent();
    for header in cors::HEADERS {
        builder.insert_header(header);
    }
    builder.insert_header(("Access-Control-Max-Age", "86400")).finish()
}

/// The answer to a request that no endpoint takes. `allow`: the methods that the path has.
pub(super) fn refused(reply: Reply, allow: Option<&str>) -> HttpResponse {
    let mut response = response(reply);
    if let Some(allow) = allow.and_then(|allow| HeaderValue::from_str(allow).ok()) {
        response.headers_mut().insert(actix_web::http::header::ALLOW, allow);
    }
    response
}

/// The last answer on its connection.
pub(super) fn last(mut response: HttpResponse) -> HttpResponse {
    response.head_mut().set_connection_type(ConnectionType::Close);
    response
}

/// An answer whose request is in progress until the last piece of the body has been taken.
pub(super) fn with_pass(response: HttpResponse, pass: Pass) -> HttpResponse {
    response.map_body(|_, body| BoxBody::new(InProgress { body, _pass: pass }))
}

struct InProgress {
    body: BoxBody,
    _pass: Pass,
}

impl MessageBody for InProgress {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

/// Any answer.
pub(super) fn response(reply: Reply) -> HttpResponse {
    let status = StatusCode::from_u16(reply.status.as_u16()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut builder = HttpResponse::build(status);
    for (name, value) in &reply.headers {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            builder.append_header((name, value));
        }
    }
    for (name, value) in cors::HEADERS {
        builder.insert_header((name, value));
    }
    match reply.body {
        Body::Whole(bytes) => builder.body(bytes),
        Body::Stream {
            size: Some(size),
            pieces,
        } => builder.body(SizedStream::new(size, pieces)),
        Body::Stream { size: None, pieces } => builder.streaming(pieces),
    }
}
