//! Calls of several people (MSC4143), and the meeting of devices that sign each other in (MSC4108, MSC4388).

use serde_json::{Value, json};

use crate::common::{
    client::{AnswerExt, text},
    server::TestServer,
};

const TRANSPORTS: &str = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports";
const NEW: &str = "/_matrix/client/unstable/io.element.msc4388/rendezvous";
const OLD: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";

/// Status, headers as text, and body.
async fn texted(
    server: &TestServer,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, Vec<(String, String)>, String) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a plain client");
    let method = method.parse::<reqwest::Method>().expect("a method");
    let mut request = client.request(method, server.client.url(path)).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    let headers = answer.headers().iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()));
    let headers = headers.collect();
    (status, headers, answer.text().await.expect("a text"))
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> &'a str {
    let found = headers.iter().find(|(key, _)| key == name);
    found.map_or("", |(_, value)| value)
}

both_databases! {
    async fn without_a_service_there_are_no_transports(server) {
        let alice = server.register("alice").await;
        assert_eq!(alice.get(TRANSPORTS).await.ok(), json!({ "rtc_transports": [] }));
        server.client.get(TRANSPORTS).await.refused(401, "M_MISSING_TOKEN");
    }

    config |table| {
        table.insert("public_baseurl".into(), "https://hs.example.org".into());
        table.insert("rtc".into(), toml::toml! { livekit_service_urls = ["https://rtc.example.org/jwt"] }.into());
    }
    async fn clients_are_told_of_livekit(server) {
        let alice = server.register("alice").await;
        let foci = json!([{ "type": "livekit", "livekit_service_url": "https://rtc.example.org/jwt" }]);
        assert_eq!(alice.get(TRANSPORTS).await.ok()["rtc_transports"], foci);
        let told = server.client.get("/.well-known/matrix/client").await.ok();
        assert_eq!(told["org.matrix.msc4143.rtc_foci"], foci);
        // How the service finds out who somebody is.
        let path = format!("user/{}/openid/request_token", alice.user_id);
        let token = text(&alice.post(&path, json!({})).await.ok(), "access_token");
        let info = server.client.get(&format!("/_matrix/federation/v1/openid/userinfo?access_token={token}")).await.ok();
        assert_eq!(info["sub"], json!(alice.user_id));
    }

    async fn messages_are_kept(server) {
        let alice = server.register("alice").await;
        let path = "/_matrix/client/unstable/org.matrix.msc1763/retention/configuration";
        assert_eq!(alice.get(path).await.ok(), json!({ "policies": {}, "limits": {} }));
    }

    async fn devices_meet(server) {
        let client = &server.client;
        assert_eq!(client.get(NEW).await.ok(), json!({ "create_available": true }));
        let made = client.post(NEW, json!({ "data": "a" })).await.ok();
        let (path, first) = (format!("{NEW}/{}", text(&made, "id")), text(&made, "sequence_token"));
        assert!(made["expires_in_ms"].as_i64().is_some_and(|ms| ms > 60_000), "{made}");
        let put = |token: &str, data: &str| {
            let body = json!({ "sequence_token": token, "data": data });
            let path = path.clone();
            async move { client.request("PUT", &path, None, Some(&body)).await }
        };
        let second = text(&put(&first, "b").await.ok(), "sequence_token");
        let read = client.get(&path).await.ok();
        assert_eq!((&read["data"], &read["sequence_token"]), (&json!("b"), &json!(second)));
        assert_eq!(put(&first, "b").await.ok()["sequence_token"], json!(second), "repeated");
        put(&first, "c").await.refused(409, "IO_ELEMENT_MSC4388_CONCURRENT_WRITE");
        put(&second, &"x".repeat(4_097)).await.refused(413, "M_TOO_LARGE");
        let (status, _, _) = texted(server, "GET", &path, &[("Sec-Fetch-Mode", "navigate")], "").await;
        assert_eq!(status, 403);
        client.request("DELETE", &path, None, None).await.ok();
        client.request("DELETE", &path, None, None).await.refused(404, "M_NOT_FOUND");
        client.get(&path).await.refused(404, "M_NOT_FOUND");
    }

    async fn devices_met_in_the_older_way(server) {
        let plain = ("Content-Type", "text/plain");
        let (status, headers, body) = texted(server, "POST", OLD, &[plain], "a").await;
        assert_eq!(status, 201, "{body}");
        let url = text(&serde_json::from_str::<Value>(&body).expect("JSON"), "url");
        assert_eq!(header(&headers, "location"), url);
        assert_eq!(header(&headers, "x-max-bytes"), "4096");
        let exposed = header(&headers, "access-control-expose-headers");
        assert!(["ETag", "Location", "X-Max-Bytes"].iter().all(|name| exposed.contains(name)), "{exposed}");
        let path = format!("{OLD}/{}", url.rsplit('/').next().expect("an id"));
        let etag = header(&headers, "etag").to_owned();
        let (status, _, body) = texted(server, "GET", &path, &[], "").await;
        assert_eq!((status, body.as_str()), (200, "a"));
        let (status, _, _) = texted(server, "GET", &path, &[("If-None-Match", &etag)], "").await;
        assert_eq!(status, 304);
        let (status, _, _) = texted(server, "PUT", &path, &[plain], "b").await;
        assert_eq!(status, 400, "it does not say what it has seen");
        let (status, headers, _) = texted(server, "PUT", &path, &[plain, ("If-Match", &etag)], "b").await;
        assert_eq!(status, 202);
        assert_ne!(header(&headers, "etag"), etag);
        let (status, _, body) = texted(server, "PUT", &path, &[plain, ("If-Match", &etag)], "c").await;
        assert_eq!(status, 412, "{body}");
        assert!(body.contains("M_CONCURRENT_WRITE"), "{body}");
        let (status, _, body) = texted(server, "POST", OLD, &[plain], &"x".repeat(4_097)).await;
        assert_eq!(status, 413, "{body}");
        let (status, _, _) = texted(server, "POST", OLD, &[("Content-Type", "application/json")], "{}").await;
        assert_eq!(status, 400);
        let (status, _, _) = texted(server, "DELETE", &path, &[], "").await;
        assert_eq!(status, 204);
        let (status, _, _) = texted(server, "GET", &path, &[], "").await;
        assert_eq!(status, 404);
    }
}
