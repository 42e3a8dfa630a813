//! Upload and download.

use serde_json::Value;

use crate::common::client::text;

both_databases! {
    async fn what_was_uploaded_comes_back(server) {
        let alice = server.register("alice").await;
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let upload = Some(("application/octet-stream", bytes.clone()));
        let path = "/_matrix/media/v3/upload?filename=numbers.bin";
        let (status, _, body) = server.client.raw("POST", path, Some(&alice.token), upload).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let answer: Value = serde_json::from_slice(&body).expect("an upload is answered with JSON");
        let uri = text(&answer, "content_uri");
        let id = uri.strip_prefix("mxc://localhost/").unwrap_or_else(|| panic!("a URI of this server: {uri}"));

        let path = format!("/_matrix/client/v1/media/download/localhost/{id}");
        let (status, content_type, body) = server.client.raw("GET", &path, Some(&alice.token), None).await;
        assert_eq!((status, content_type.as_str()), (200, "application/octet-stream"));
        assert!(body == bytes, "{} bytes came back of {}", body.len(), bytes.len());

        let (status, _, _) = server.client.raw("GET", &path, None, None).await;
        assert_eq!(status, 401);
    }
}
