//! The one service of the HTTP server: finds the endpoint, has the request worked on, measures and answers.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};
use actors::error::DomainError;
use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tracing::Instrument as _;

use super::context::{PathPrefix, RequestInfo};
use super::endpoint::{Endpoint, everywhere};
use super::state::{Backend, Door, HttpState};
use super::trie::Lookup;
use super::work::{Work, discard};
use super::{error, render};
use crate::config::{R0Profile, Resource};

/// Answers a request, unless the server has stopped taking any.
pub async fn dispatch<H: Backend>(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<HttpState<H>>,
) -> HttpResponse {
    let Some(pass) = state.gate.enter() else {
        let refusal = DomainError::unavailable("the server is stopping");
        return render::last(render::response(error::reply(&refusal, false)));
    };
    let response = answer(request, payload, &state).await;
    let response = render::with_pass(response, pass);
    match state.gate.is_closing() {
        true => render::last(response),
        false => response,
    }
}

async fn answer<H: Backend>(request: HttpRequest, mut payload: web::Payload, state: &HttpState<H>) -> HttpResponse {
    let started = Instant::now();
    let method = Method::from_bytes(request.method().as_str().as_bytes()).unwrap_or_default();
    if method == Method::OPTIONS {
        return render::preflight();
    }
    let door = state.doors.get(&request.app_config().local_addr());
    let (template, args, endpoint) = match find(state, door, &method, &request) {
        Ok(found) => found,
        Err((refusal, allow)) => {
            metrics::counter!("http_unrecognized_total").increment(1);
            discard(&mut payload).await;
            let seed = is_seed_path(state, request.path());
            return render::refused(error::reply(&refusal, seed), allow.as_deref());
        }
    };
    let info = read_head(&request, method.clone(), template, door);
    let seed = is_seed_path(state, template);
    let span = tracing::info_span!(
        "request",
        method = method.as_str(),
        template,
        status = tracing::field::Empty,
        millis = tracing::field::Empty,
        user = tracing::field::Empty,
    );
    let work = Work {
        state,
        endpoint,
        info,
        args,
        span: span.clone(),
    };
    let outcome = work.run(&mut payload).instrument(span.clone()).await;
    if outcome.is_err() {
        discard(&mut payload).await;
    }
    let reply = span.in_scope(|| {
        let reply = outcome.unwrap_or_else(|refusal| error::reply(&refusal, seed));
        let took = started.elapsed();
        span.record("status", reply.status.as_u16());
        span.record("millis", (took.as_secs_f64() * 100_000.0).round() / 100.0);
        tracing::debug!("answered");
        measure(&method, template, reply.status.as_u16(), took.as_secs_f64());
        reply
    });
    render::response(reply)
}

/// Whether errors look as in the API reference beside the specification.
fn is_seed_path<H: Backend>(state: &HttpState<H>, path: &str) -> bool {
    // Programs for administrators read both.
    if path.starts_with("/_synapse/admin/") {
        return true;
    }
    let beside = PathPrefix::of(path) == PathPrefix::R0 || is_extension(path) || is_shared(path);
    beside && state.config.compat.r0_profile == R0Profile::Seed
}

/// Whether only the API reference beside the specification has this path.
fn is_extension(template: &str) -> bool {
    let chapter = template.split('/').nth(4);
    matches!(chapter, Some("friends" | "voice" | "voip")) || template.contains("/org.synapse_rust/")
}

/// Whether both have it under one name; one member more in an error does no harm.
fn is_shared(template: &str) -> bool {
    ["/_matrix/media/", "/_matrix/federation/"]
        .iter()
        .any(|prefix| template.starts_with(prefix))
}

fn measure(method: &Method, template: &'static str, status: u16, seconds: f64) {
    // Few values: methods that have endpoints, and templates.
    let method = if *method == Method::HEAD {
        "GET"
    } else {
        method.as_str()
    }
    .to_owned();
    metrics::counter!("http_requests_total", "method" => method.clone(), "path" => template, "status" => status.to_string())
        .increment(1);
    metrics::histogram!("http_request_duration_seconds", "method" => method, "path" => template).record(seconds);
}

/// Why a request has no endpoint, and the methods its path has.
type Refused = (DomainError, Option<String>);
type Found<'s, H> = (&'static str, Vec<String>, &'s Endpoint<H>);

/// The endpoint, unless there is none, or none behind this door.
fn find<'s, H: Backend>(
    state: &'s HttpState<H>,
    door: Option<&Door>,
    method: &Method,
    request: &HttpRequest,
) -> Result<Found<'s, H>, Refused> {
    let unknown = || DomainError::unrecognized("unrecognized request");
    match state.table.lookup(method, request.uri().path()) {
        Lookup::Found(route, args) => {
            let (index, resource) = route.value;
            if door.is_some_and(|door| !serves(door, route.template, resource)) {
                return Err((unknown(), None));
            }
            Ok((route.template, args, state.table.endpoint(index)))
        }
        Lookup::WrongMethod(methods) => {
            let allow: Vec<&str> = methods.into_iter().map(Method::as_str).collect();
            let refusal = DomainError::matrix(
                405,
                "M_UNRECOGNIZED",
                "unrecognized request: the path has other methods",
            );
            Err((refusal, Some(allow.join(", "))))
        }
        Lookup::Unknown => Err((unknown(), None)),
        Lookup::BadEncoding => Err((DomainError::invalid_param("the path is not UTF-8"), None)),
    }
}

fn serves(door: &Door, template: &str, resource: Resource) -> bool {
    // Media below /_matrix/client come with either.
    let also_client = template.starts_with("/_matrix/client/") && door.resources.contains(&Resource::Client);
    everywhere(template) || also_client || door.resources.contains(&resource)
}

/// Copies what is needed out of the older `http` crate's types.
fn read_head(request: &HttpRequest, method: Method, template: &'static str, door: Option<&Door>) -> RequestInfo {
    let mut headers = HeaderMap::with_capacity(request.headers().len());
    for (name, value) in request.headers() {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    }
    let uri = request.uri();
    RequestInfo {
        method,
        template,
        path_prefix: PathPrefix::of(template),
        uri: uri
            .path_and_query()
            .map_or_else(|| uri.path().to_owned(), |path| path.as_str().to_owned()),
        query: uri.query().unwrap_or_default().to_owned(),
        ip: client_address(request, &headers, door.is_some_and(|door| door.x_forwarded)),
        user_agent: headers
            .get(USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .map(ToOwned::to_owned),
        headers,
        body: Bytes::new(),
    }
}

fn client_address(request: &HttpRequest, headers: &HeaderMap, x_forwarded: bool) -> IpAddr {
    let peer = || {
        request
            .peer_addr()
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip())
    };
    let forwarded = x_forwarded.then(|| forwarded_for(headers)).flatten();
    forwarded.unwrap_or_else(peer).to_canonical()
}

/// The last entry of `X-Forwarded-For` is the one our proxy added; those before it are the client's word.
fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    let line = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    let entry = line.rsplit(',').next()?.trim();
    let address = entry
        .strip_prefix('[')
        .and_then(|rest| rest.split(']').next())
        .unwrap_or(entry);
    let without_port = || address.rsplit_once(':').and_then(|(host, _)| host.parse().ok());
    address.parse().ok().or_else(without_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxys_entry_counts() {
        let seen = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", HeaderValue::from_static(line));
            }
            forwarded_for(&headers).map(|ip| ip.to_string())
        };
        assert_eq!(seen(&["6.6.6.6, 1.2.3.4"]).as_deref(), Some("1.2.3.4"));
        assert_eq!(seen(&["6.6.6.6", "1.2.3.4:567"]).as_deref(), Some("1.2.3.4"));
        assert_eq!(seen(&["2001:db8::1"]).as_deref(), Some("2001:db8::1"));
        assert_eq!(seen(&["[2001:db8::1]:567"]).as_deref(), Some("2001:db8::1"));
        assert_eq!(seen(&["unknown"]), None);
        assert_eq!(seen(&[]), None);
    }
}
