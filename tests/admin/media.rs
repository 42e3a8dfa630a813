//! Media as administrators list, quarantine and delete them.

use serde_json::{Value, json};

use super::{V1, admin, all, path};
use crate::common::client::{AnswerExt, User, text};

/// Uploads; the id.
async fn upload(user: &User, name: &str, bytes: &[u8]) -> String {
    let body = Some(("text/plain", bytes.to_vec()));
    let path = format!("/_matrix/media/v3/upload?filename={name}");
    let (status, _, answer) = user.client.raw("POST", &path, Some(&user.token), body).await;
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    text(&answer, "content_uri")
        .rsplit('/')
        .next()
        .expect("an id")
        .to_owned()
}

async fn status_of(user: &User, id: &str) -> u16 {
    let path = format!("/_matrix/client/v1/media/download/localhost/{id}");
    user.client.raw("GET", &path, Some(&user.token), None).await.0
}

both_databases! {
    async fn media_is_listed_quarantined_protected_and_deleted(server) {
        let root = admin(server).await;
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let (small, large) = (upload(&alice, "small", b"a").await, upload(&alice, "large", b"aaaaaaaaa").await);
        alice.send(&room, "m.room.message", json!({ "msgtype": "m.file", "body": "f", "url": format!("mxc://localhost/{small}") })).await;

        let list = path(V1, "users/{}/media", &[&alice.user_id]);
        let by_size = root.get(&format!("{list}?order_by=media_length&dir=b&limit=1")).await.ok();
        assert_eq!((all(&by_size["media"], "media_id"), &by_size["total"]), (vec![large.as_str()], &json!(2)));
        let of_room = root.get(&path(V1, "room/{}/media", &[&room])).await.ok();
        assert_eq!(of_room, json!({ "local": [format!("mxc://localhost/{small}")], "remote": [] }));
        let info = root.get(&path(V1, "media/localhost/{}", &[&small])).await.ok();
        assert_eq!((&info["media_info"]["upload_name"], &info["media_info"]["media_length"]), (&json!("small"), &json!(1)));

        root.post(&path(V1, "media/protect/{}", &[&large]), json!({})).await.ok();
        let both = path(V1, "user/{}/media/quarantine", &[&alice.user_id]);
        assert_eq!(root.post(&both, json!({})).await.ok(), json!({ "num_quarantined": 1 }), "one is protected");
        assert_eq!((status_of(&alice, &small).await, status_of(&alice, &large).await), (404, 200));
        root.post(&path(V1, "media/unquarantine/localhost/{}", &[&small]), json!({})).await.ok();
        assert_eq!(status_of(&alice, &small).await, 200);
        let in_room = root.post(&path(V1, "room/{}/media/quarantine", &[&room]), json!({})).await.ok();
        assert_eq!(in_room, json!({ "num_quarantined": 1 }));
        let changes = root.get(&format!("{V1}/media/quarantine_changes")).await.ok();
        let told: Vec<_> = changes["changes"].as_array().expect("a list").iter().map(|change| change["quarantined"].clone()).collect();
        assert_eq!(told, [json!(true), json!(false), json!(true)]);

        let gone = root.delete(&path(V1, "media/localhost/{}", &[&small]), None).await.ok();
        assert_eq!(gone, json!({ "deleted_media": [small], "total": 1 }));
        root.get(&path(V1, "media/localhost/{}", &[&small])).await.refused(404, "M_NOT_FOUND");
        root.delete(&path(V1, "media/elsewhere.example/{}", &[&small]), None).await.refused(400, "M_INVALID_PARAM");

        root.post(&format!("{V1}/media/delete"), json!({})).await.refused(400, "M_MISSING_PARAM");
        root.post(&format!("{V1}/media/delete?before_ts=1600000000"), json!({})).await.refused(400, "M_INVALID_PARAM");
        let later = "before_ts=32503680000000";
        alice.put(&format!("profile/{}/avatar_url", alice.user_id), json!({ "avatar_url": format!("mxc://localhost/{large}") })).await.ok();
        let kept = root.post(&format!("{V1}/media/delete?{later}"), json!({})).await.ok();
        assert_eq!(kept["total"], 0, "avatars are kept");
        let deleted = root.post(&format!("{V1}/media/delete?{later}&keep_profiles=false"), json!({})).await.ok();
        assert_eq!(deleted, json!({ "deleted_media": [large], "total": 1 }));
        assert_eq!(status_of(&alice, &large).await, 404);
        let cache = root.post(&format!("{V1}/purge_media_cache?{later}"), json!({})).await.ok();
        assert_eq!(cache, json!({ "deleted": 0 }));
        upload(&alice, "third", b"c").await;
        assert_eq!(root.delete(&list, None).await.ok()["total"], 1);
    }
}
