use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::body::to_bytes;
use actix_web::dev::ServiceResponse;
use actix_web::test::TestRequest;
use actix_web::{App, test, web};
use actors::error::{DomainError, Outcome};
use futures_util::StreamExt as _;
use http::Method;
use ruma::api::client::{config::get_global_account_data, session::get_login_types, session::logout, state};
use serde_json::{Value, json};

use super::auth::Policy;
use super::context::{self, RawRequest};
use super::dispatch::dispatch;
use super::endpoint::Table;
use super::limits::Class;
use super::reply::Reply;
use super::state::{Door, HttpState};
use super::testing::Fake;
use crate::config::{Config, RateLimit, Resource};

type Ctx = context::Ctx<Fake>;

async fn who(ctx: Ctx, _: logout::v3::Request) -> Outcome<Reply> {
    Reply::json(&json!({ "user": ctx.user()?.user_id }))
}

async fn put_state(_: Ctx, request: state::send_state_event::v3::Request) -> Outcome<Reply> {
    let body: Value =
        serde_json::from_str(request.body.json().get()).map_err(|e| DomainError::internal(e.to_string()))?;
    Reply::json(&json!({
        "room": request.room_id, "type": request.event_type.to_string(), "key": request.state_key, "body": body,
    }))
}

async fn get_data(ctx: Ctx, request: get_global_account_data::v3::Request) -> Outcome<Reply> {
    Reply::json(&json!({ "type": request.event_type.to_string(), "seed": ctx.seed_profile() }))
}

async fn login_types(_: Ctx, _: get_login_types::v3::Request) -> Outcome<Reply> {
    Ok(Reply::empty())
}

async fn maybe(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    Reply::json(&json!({ "user": ctx.identity.map(|i| i.user_id.clone()), "body": request.value()? }))
}

async fn count(_: Ctx, request: RawRequest) -> Outcome<Reply> {
    let mut pieces = request
        .take_stream()
        .ok_or_else(|| DomainError::internal("not streamed"))?;
    let mut total = 0;
    while let Some(piece) = pieces.next().await {
        total += piece.map_err(|e| DomainError::too_large(e.to_string()))?.len();
    }
    Reply::json(&total)
}

async fn panics(_: Ctx, _: RawRequest) -> Outcome<Reply> {
    panic!("this handler is broken")
}

async fn origin(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    Reply::json(ctx.origin()?)
}

fn table() -> Table<Fake> {
    let mut t = Table::default();
    t.user::<logout::v3::Request, _>(who);
    t.guest::<get_global_account_data::v3::Request, _>(get_data);
    t.user::<state::send_state_event::v3::Request, _>(put_state)
        .also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}")
        .fix(|body, info| body["fixed"] = info.ip.to_string().into());
    t.open::<get_login_types::v3::Request, _>(login_types)
        .limit(Class::Login);
    t.raw(Method::POST, "/_matrix/client/v3/maybe", Policy::Optional, maybe);
    t.raw(Method::POST, "/_synapse/admin/v1/maybe", Policy::Admin, maybe);
    t.raw(Method::POST, "/_matrix/media/v3/count", Policy::User, count)
        .streamed(100_000);
    t.raw(Method::GET, "/panics", Policy::Open, panics);
    t.raw(Method::GET, "/_matrix/federation/v1/origin", Policy::Server, origin);
    t
}

fn state() -> web::Data<HttpState<Fake>> {
    let mut config = Config::default();
    config.rate_limits.login = RateLimit {
        per_second: 0.01,
        burst: 2,
    };
    let hub = Arc::new(Fake {
        io: tokio::runtime::Handle::current(),
    });
    web::Data::new(HttpState::new(hub, Arc::new(config), table()))
}

async fn call(request: TestRequest) -> ServiceResponse {
    call_on(state(), request).await
}

async fn call_on(state: web::Data<HttpState<Fake>>, request: TestRequest) -> ServiceResponse {
    let app = App::new().app_data(state).default_service(web::to(dispatch::<Fake>));
    test::call_service(&test::init_service(app).await, request.to_request()).await
}

async fn answer(request: TestRequest) -> (u16, Value) {
    let response = call(request).await;
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body()).await.expect("the body is in memory");
    (
        status,
        serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{status} {body:?}: {e}")),
    )
}

async fn refused(request: TestRequest) -> (u16, String) {
    let (status, body) = answer(request).await;
    (status, body["errcode"].as_str().unwrap_or_default().to_owned())
}

fn get(path: &str) -> TestRequest {
    TestRequest::get().uri(path)
}

fn post(path: &str) -> TestRequest {
    TestRequest::post().uri(path)
}

fn bearer(token: &str) -> (&'static str, String) {
    ("Authorization", format!("Bearer {token}"))
}

fn error(status: u16, errcode: &str) -> (u16, String) {
    (status, errcode.to_owned())
}

const DATA: &str = "/_matrix/client/v3/user/@user:x/account_data/m.a";

#[actix_rt::test]
async fn one_registration_serves_every_generation_of_paths() {
    for (generation, seed) in [("v3", false), ("r0", true)] {
        let path = format!("/_matrix/client/{generation}/user/%40user:x/account_data/m.a%2Fb%25%2B");
        let (status, body) = answer(get(&path).insert_header(bearer("guest"))).await;
        assert_eq!((status, body), (200, json!({"type": "m.a/b%+", "seed": seed})));
    }
}

#[actix_rt::test]
async fn state_keys_may_be_missing_empty_or_encoded() {
    for (rest, key) in [("", ""), ("/", ""), ("/a%2Fb%20%C3%A4", "a/b ä")] {
        let path = format!("/_matrix/client/v3/rooms/%21r%3Ax/state/m.room.name{rest}");
        let request = TestRequest::put().uri(&path).insert_header(bearer("slow"));
        let (status, body) = answer(request.set_payload(r#"{"name":"n"}"#)).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(
            (&body["room"], &body["type"], &body["key"]),
            (&json!("!r:x"), &json!("m.room.name"), &json!(key))
        );
        assert_eq!(body["body"], json!({"name": "n", "fixed": "0.0.0.0"}));
    }
}

#[actix_rt::test]
async fn unknown_paths_and_methods_are_unrecognized() {
    assert_eq!(
        refused(get("/_matrix/client/v3/nothing")).await,
        error(404, "M_UNRECOGNIZED")
    );
    assert_eq!(
        refused(get("/_matrix/client/v3/login/")).await,
        error(404, "M_UNRECOGNIZED")
    );
    assert_eq!(refused(get("/_matrix/%ff")).await, error(400, "M_INVALID_PARAM"));
    let response = call(TestRequest::delete().uri("/_matrix/client/v3/login")).await;
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers().get("Allow").expect("405 names the methods"), "GET");
}

#[actix_rt::test]
async fn tokens_are_checked_before_bodies() {
    let logout = || post("/_matrix/client/v3/logout").set_payload("not json");
    let state = TestRequest::put()
        .uri("/_matrix/client/v3/rooms/!r:x/state/m.a/")
        .set_payload("{ not json");
    assert_eq!(refused(logout()).await, error(401, "M_MISSING_TOKEN"));
    assert_eq!(
        refused(logout().insert_header(bearer("x"))).await,
        error(401, "M_UNKNOWN_TOKEN")
    );
    assert_eq!(
        refused(logout().insert_header(bearer("guest"))).await,
        error(403, "M_GUEST_ACCESS_FORBIDDEN")
    );
    assert_eq!(
        refused(state.insert_header(bearer("user"))).await,
        error(400, "M_NOT_JSON")
    );
    let (status, body) = answer(post("/_matrix/client/r0/logout?access_token=user")).await;
    assert_eq!((status, body), (200, json!({"user": "@user:x"})));
}

#[actix_rt::test]
async fn locked_users_may_log_out_only() {
    let (status, body) = answer(get(DATA).insert_header(bearer("locked"))).await;
    assert_eq!(
        (status, &body["errcode"], &body["soft_logout"]),
        (401, &json!("M_USER_LOCKED"), &json!(true))
    );
    assert_eq!(
        answer(post("/_matrix/client/v3/logout").insert_header(bearer("locked")))
            .await
            .0,
        200
    );
}

#[actix_rt::test]
async fn optional_tokens_must_be_good() {
    let path = "/_matrix/client/v3/maybe";
    assert_eq!(answer(post(path)).await, (200, json!({"user": null, "body": {}})));
    let with = post(path).insert_header(bearer("user")).set_payload(r#"{"a":1}"#);
    assert_eq!(answer(with).await, (200, json!({"user": "@user:x", "body": {"a": 1}})));
    assert_eq!(
        refused(post(path).insert_header(bearer("x"))).await,
        error(401, "M_UNKNOWN_TOKEN")
    );
    let admin = "/_synapse/admin/v1/maybe";
    assert_eq!(
        refused(post(admin).insert_header(bearer("user"))).await,
        error(403, "M_FORBIDDEN")
    );
    assert_eq!(answer(post(admin).insert_header(bearer("admin"))).await.0, 200);
}

#[actix_rt::test]
async fn bodies_must_be_small_json_objects() {
    let send = |body: String| {
        let path = "/_matrix/client/v3/rooms/!r:x/state/m.room.name/";
        refused(
            TestRequest::put()
                .uri(path)
                .insert_header(bearer("user"))
                .set_payload(body),
        )
    };
    assert_eq!(send("[]".to_owned()).await, error(400, "M_BAD_JSON"));
    assert_eq!(send("{\"a\":}".to_owned()).await, error(400, "M_NOT_JSON"));
    assert_eq!(send("nothing".to_owned()).await, error(400, "M_NOT_JSON"));
    assert_eq!(
        send(format!("{{\"a\":\"{}\"}}", "x".repeat(2_000_000))).await,
        error(413, "M_TOO_LARGE")
    );
    let bad_room = TestRequest::put()
        .uri("/_matrix/client/v3/rooms/r/state/m.room.name/")
        .insert_header(bearer("user"));
    assert_eq!(refused(bad_room).await, error(400, "M_INVALID_PARAM"));
}

#[actix_rt::test]
async fn streamed_bodies_are_bounded() {
    let send = |size: usize| {
        post("/_matrix/media/v3/count")
            .insert_header(bearer("user"))
            .set_payload(vec![b'x'; size])
    };
    assert_eq!(answer(send(70_000)).await, (200, json!(70_000)));
    assert_eq!(answer(send(0)).await, (200, json!(0)));
    assert_eq!(refused(send(200_000)).await, error(413, "M_TOO_LARGE"));
}

#[actix_rt::test]
async fn every_answer_has_cors_headers() {
    let preflight = call(
        TestRequest::default()
            .method(actix_web::http::Method::OPTIONS)
            .uri("/any/where"),
    )
    .await;
    assert_eq!(preflight.status(), 204);
    for response in [
        preflight,
        call(get("/_matrix/nothing")).await,
        call(get(DATA).insert_header(bearer("user"))).await,
    ] {
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
        };
        assert_eq!(header("Access-Control-Allow-Origin"), "*");
        assert_eq!(
            header("Access-Control-Allow-Methods"),
            "GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS"
        );
        assert!(header("Access-Control-Allow-Headers").contains("Authorization"));
    }
}

#[actix_rt::test]
async fn too_many_requests_are_told_when_to_come_back() {
    let state = state();
    for _ in 0..2 {
        assert_eq!(
            call_on(state.clone(), get("/_matrix/client/v3/login")).await.status(),
            200
        );
    }
    let response = call_on(state, get("/_matrix/client/r0/login")).await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers().get("Retry-After").expect("429 says when"), "100");
    let body = to_bytes(response.into_body()).await.expect("the body is in memory");
    let body: Value = serde_json::from_slice(&body).expect("errors are JSON");
    assert_eq!(
        (&body["errcode"], &body["status"]),
        (&json!("M_LIMIT_EXCEEDED"), &json!("error"))
    );
    assert!(body["retry_after_ms"].as_u64().is_some_and(|ms| ms > 90_000), "{body}");
}

#[actix_rt::test]
async fn a_broken_handler_breaks_only_its_request() {
    assert_eq!(refused(get("/panics")).await, error(500, "M_UNKNOWN"));
}

#[actix_rt::test]
async fn servers_are_known_by_their_signature() {
    let path = "/_matrix/federation/v1/origin";
    assert_eq!(refused(get(path)).await, error(401, "M_UNAUTHORIZED"));
    assert_eq!(
        answer(get(path).insert_header(("x-origin", "other.org"))).await,
        (200, json!("other.org"))
    );
}

#[actix_rt::test]
async fn paths_are_registered_once() {
    assert_eq!(table().conflicts(), [""; 0]);
    let process = super::process::Process::new(Arc::new(Config::default()), String::new);
    let all = super::table(&process);
    assert_eq!(all.conflicts(), [""; 0]);
    for (method, path) in all.paths() {
        assert!(path.starts_with('/') && !path.contains("//"), "{method} {path}");
    }
}

/// Serves on a free port and speaks HTTP/1.1 by hand, one request after the other on one connection, of which the last
/// one closes it. The answers, as text.
async fn exchange(requests: &[&str]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let state = state();
    let app = move || {
        App::new()
            .app_data(state.clone())
            .default_service(web::to(dispatch::<Fake>))
    };
    let server = actix_web::HttpServer::new(app).workers(1).disable_signals();
    let server = server.bind(("127.0.0.1", 0)).expect("a port is free");
    let address = server.addrs()[0];
    let server = server.run();
    let handle = server.handle();
    actix_rt::spawn(server);
    let mut connection = tokio::net::TcpStream::connect(address)
        .await
        .expect("the server listens");
    let mut answers = Vec::new();
    let whole = async {
        for request in requests {
            connection
                .write_all(request.as_bytes())
                .await
                .expect("the server reads");
            connection.read_buf(&mut answers).await.expect("the server answers");
        }
        connection.read_to_end(&mut answers).await
    };
    let whole = tokio::time::timeout(std::time::Duration::from_secs(20), whole).await;
    whole
        .expect("the server ends the connection")
        .expect("the server answers");
    handle.stop(false).await;
    String::from_utf8(answers).expect("answers are text")
}

#[actix_rt::test]
async fn a_refused_body_does_not_become_the_next_request() {
    let inner = "GET /panics HTTP/1.1\r\n\r\n";
    let head = "POST /_matrix/client/v3/logout HTTP/1.1\r\nHost: x\r\nContent-Length: 24\r\n\r\n";
    let next = "GET /_matrix/client/v3/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(inner.len(), 24);
    let answers = exchange(&[&format!("{head}{inner}"), next]).await;
    let lines: Vec<&str> = answers.lines().filter(|line| line.contains("HTTP/1.1")).collect();
    assert!(lines[0].ends_with("HTTP/1.1 401 Unauthorized"), "{answers}");
    assert!(
        lines.get(1).is_some_and(|l| l.ends_with("HTTP/1.1 200 OK")),
        "{answers}"
    );
    assert_eq!(lines.len(), 2, "{answers}");
}

#[actix_rt::test]
async fn raw_paths_and_heads_survive_a_real_connection() {
    let path = "/_matrix/client/v3/user/%40user%3Ax/account_data/a%2Fb%2Bc";
    let head =
        |method: &str, more: &str| format!("{method} {path}?access_token=user HTTP/1.1\r\nHost: x\r\n{more}\r\n");
    let answers = exchange(&[&head("HEAD", ""), &head("GET", "Connection: close\r\n")]).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert_eq!(
        answers.matches(r#"{"seed":false,"type":"a/b+c"}"#).count(),
        1,
        "{answers}"
    );
}

/// What a client sees that hangs up does not matter to a write: its handler goes on.
#[actix_rt::test]
async fn only_long_polls_end_when_the_client_hangs_up() {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    static FINISHED: AtomicU32 = AtomicU32::new(0);
    async fn slow(_: Ctx, request: RawRequest) -> Outcome<Reply> {
        tokio::time::sleep(Duration::from_millis(200)).await;
        FINISHED.fetch_add(request.parse(0)?, Ordering::SeqCst);
        Ok(Reply::empty())
    }
    let mut t = Table::default();
    t.raw(Method::GET, "/write/{n}", Policy::Open, slow);
    t.raw(Method::GET, "/wait/{n}", Policy::Open, slow).long_poll();
    let hub = Arc::new(Fake {
        io: tokio::runtime::Handle::current(),
    });
    let state = web::Data::new(HttpState::new(hub, Arc::new(Config::default()), t));
    for path in ["/write/1", "/wait/100"] {
        let hung_up = tokio::time::timeout(Duration::from_millis(50), call_on(state.clone(), get(path))).await;
        assert!(hung_up.is_err(), "the handler takes longer");
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(FINISHED.load(Ordering::SeqCst), 1);
}

#[actix_rt::test]
async fn a_late_handler_is_answered_for() {
    async fn never(_: Ctx, _: RawRequest) -> Outcome<Reply> {
        std::future::pending().await
    }
    let mut t = Table::default();
    t.raw(Method::GET, "/never", Policy::Open, never)
        .deadline(std::time::Duration::from_millis(20));
    let hub = Arc::new(Fake {
        io: tokio::runtime::Handle::current(),
    });
    let state = web::Data::new(HttpState::new(hub, Arc::new(Config::default()), t));
    let response = call_on(state, get("/never")).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("Retry-After"));
}

#[actix_rt::test]
async fn a_listener_serves_its_resources_only() {
    let hub = Arc::new(Fake {
        io: tokio::runtime::Handle::current(),
    });
    let mut state = HttpState::new(hub, Arc::new(Config::default()), table());
    // The address that test requests arrive at.
    let local: SocketAddr = actix_web::dev::AppConfig::default().local_addr();
    state.doors.insert(
        local,
        Door {
            resources: vec![Resource::Federation, Resource::Keys],
            x_forwarded: true,
        },
    );
    let state = web::Data::new(state);
    for (path, status) in [
        ("/_matrix/federation/v1/origin", 200),
        ("/_matrix/client/v3/login", 404),
        ("/_matrix/media/v3/count", 405),
        ("/_synapse/admin/v1/maybe", 405),
    ] {
        let response = call_on(state.clone(), get(path).insert_header(("x-origin", "a.b"))).await;
        assert_eq!(response.status(), status, "{path}");
    }
    let response = call_on(state, post("/_synapse/admin/v1/maybe").insert_header(bearer("admin"))).await;
    assert_eq!(response.status(), 404);
}
