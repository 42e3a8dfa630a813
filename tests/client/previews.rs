//! Previews of web pages, from a web server inside the test.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::common::client::{AnswerExt, encode, text};

const PICTURE: &[u8] = include_bytes!("../federation/scenarios/picture.png");

/// Serves a page, its picture, and a redirect to itself; the answer is its address.
async fn site() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
    let base = format!("http://{}", listener.local_addr().expect("it listens"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4_096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let page = b"<title>Plain</title><meta property='og:title' content='A page'>\
                         <meta property='og:image' content='/picture.png'>";
            let (status, kind, body) = match head.split(' ').nth(1) {
                Some("/page") => ("200 OK", "text/html", &page[..]),
                Some("/picture.png") => ("200 OK", "image/png", PICTURE),
                Some("/moved") => ("302 Found\r\nLocation: /page", "text/plain", &b""[..]),
                Some("/text") => ("200 OK", "text/plain", &b"og:title"[..]),
                _ => ("404 Not Found", "text/plain", &b""[..]),
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            // A client that has gone away is no concern of the site.
            drop(stream.write_all(head.as_bytes()).await);
            drop(stream.write_all(body).await);
        }
    });
    base
}

fn set(table: &mut toml::Table, section: &str, key: &str, value: toml::Value) {
    let section = table
        .entry(section)
        .or_insert_with(|| toml::Value::Table(toml::Table::new()));
    let section = section.as_table_mut().expect("a section is a table");
    section.insert(key.to_owned(), value);
}

fn path(url: &str) -> String {
    format!("/_matrix/client/v1/media/preview_url?url={}", encode(url))
}

both_databases! {
    config |table| {
        set(table, "media", "url_preview_enabled", toml::Value::Boolean(true));
        let blocked = toml::Value::Array(vec!["192.0.2.0/24".into()]);
        set(table, "media", "url_preview_ip_range_blocklist", blocked);
        set(table, "http_client", "ip_range_blocklist", toml::Value::Array(Vec::new()));
    }
    async fn a_page_is_told_with_its_picture(server) {
        let (site, alice) = (site().await, server.register("alice").await);
        for page in ["page", "moved"] {
            let preview = alice.get(&path(&format!("{site}/{page}"))).await.ok();
            assert_eq!(preview["og:title"], "A page", "{preview}");
            assert_eq!(preview["og:image:type"], "image/png");
            assert_eq!(preview["matrix:image:size"], PICTURE.len());
            assert!(preview["og:image:width"].as_u64() > Some(0), "{preview}");
            let picture = text(&preview, "og:image").replace("mxc://", "/_matrix/client/v1/media/download/");
            let (status, kind, body) = alice.client.raw("GET", &picture, Some(&alice.token), None).await;
            assert_eq!((status, kind.as_str(), body.as_slice()), (200, "image/png", PICTURE));
        }
        let picture = alice.get(&path(&format!("{site}/picture.png"))).await.ok();
        assert_eq!(picture["matrix:image:size"], PICTURE.len());
        assert_eq!(alice.get(&path(&format!("{site}/text"))).await.ok(), json!({}));
        alice.get(&path(&format!("{site}/none"))).await.refused(502, "M_UNKNOWN");
        alice.get(&path("http://192.0.2.1/")).await.refused(403, "M_FORBIDDEN");
        alice.get(&path("file:///etc/passwd")).await.refused(400, "M_INVALID_PARAM");
        alice.get("/_matrix/client/v1/media/preview_url").await.refused(400, "M_MISSING_PARAM");
        server.client.get(&path(&site)).await.refused(401, "M_MISSING_TOKEN");
    }

    async fn they_are_off_by_default(server) {
        let alice = server.register("alice").await;
        alice.get(&path("http://example.org/")).await.refused(403, "M_FORBIDDEN");
    }
}
