//! What an administrator sees of other servers.

use serde_json::{Value, json};

use super::{
    VERSION, both_backends,
    scenarios::{converse, eventually, shared_room},
};
use crate::common::{
    authority::Authority,
    client::{AnswerExt, User, encode},
    db::Backend,
    homeserver::{Homeserver as _, Ours, Town},
};

const BASE: &str = "/_synapse/admin/v1/federation";

both_backends! {
    the_way_to_a_server
    a_room_here_and_there
}

async fn look(admin: &User, path: &str) -> Value {
    admin.get(&format!("{BASE}/{path}")).await.ok()
}

/// Two servers that have talked, and an administrator of the first.
async fn talkative(
    backend: Backend,
) -> (
    std::sync::Arc<Ours>,
    std::sync::Arc<Ours>,
    User,
    User,
    String,
    Authority,
) {
    let authority = Authority::create();
    let (here, there) = tokio::join!(
        Ours::start(backend, &authority, "127.0.0.1"),
        Ours::start(backend, &authority, "localhost"),
    );
    let (here, there) = (std::sync::Arc::new(here), std::sync::Arc::new(there));
    let town = Town {
        here: here.clone(),
        there: there.clone(),
        version: VERSION.to_owned(),
    };
    let (alice, bob, room) = shared_room(&town).await;
    converse(&room, &[&alice, &bob]).await;
    let admin = here.administrator().await;
    (here, there, admin, alice, room, authority)
}

async fn the_way_to_a_server(backend: Backend) {
    let (_here, there, admin, alice, room, _authority) = talkative(backend).await;
    let name = encode(there.name());
    let (status, _) = alice.get(&format!("{BASE}/destinations")).await;
    assert_eq!(status, 403, "for administrators only");
    eventually("the server is listed", async || {
        let list = look(&admin, &format!("destinations?destination={name}&limit=5")).await;
        let row = &list["destinations"][0];
        let well = list["total"] == 1 && row["destination"] == there.name() && row["retry_interval"] == 0;
        if well && row["last_successful_stream_ordering"].is_i64() {
            Ok(())
        } else {
            Err(list.to_string())
        }
    })
    .await;
    let (status, _) = admin
        .post(&format!("{BASE}/destinations/{name}/reset_connection"), json!({}))
        .await;
    assert_eq!(status, 400, "there is nothing to reset");
    for _ in 0..2 {
        let (status, _) = admin.get(&format!("{BASE}/destinations/nobody.example")).await;
        assert_eq!(status, 404, "asking makes nobody known");
    }

    let sent = alice.send_text(&room, "heard").await;
    let doctor = |id: &str| format!("events/{}?ask=true", encode(id));
    eventually("the event was sent", async || {
        let event = look(&admin, &doctor(&sent)).await;
        let server = &event["servers"][0];
        let good = server["server"] == there.name() && server["state"] == "sent" && server["sent_ts"].is_i64();
        if good && server["asked"]["has"] == true {
            Ok(())
        } else {
            Err(event.to_string())
        }
    })
    .await;

    there.kill();
    let lost = alice.send_text(&room, "unheard").await;
    eventually("the outage is seen", async || {
        let queue = look(&admin, &format!("destinations/{name}/queue")).await;
        let info = &queue["info"];
        let paused = info["state"] == "paused" && info["last_error"].is_string() && info["next_try_ts"].is_i64();
        let waits = queue["rooms"][0]["room_id"] == room.as_str() && queue["rooms"][0]["owed_from"].is_i64();
        if paused && waits {
            Ok(())
        } else {
            Err(queue.to_string())
        }
    })
    .await;
    let event = look(&admin, &doctor(&lost)).await;
    let server = &event["servers"][0];
    assert_eq!(
        (&server["state"], &event["sent_by_us"]),
        (&json!("owed"), &json!(true)),
        "{event}"
    );
    assert!(server["why"].is_string() && server["next_try_ts"].is_i64(), "{event}");
    assert_eq!(server["asked"]["has"], Value::Null, "{event}");
    let row = look(&admin, &format!("destinations/{name}")).await;
    assert!(
        row["failure_ts"].is_i64() && row["retry_interval"].as_i64() >= Some(50_000),
        "{row}"
    );
    eventually("the room is written down", async || {
        let rooms = look(&admin, &format!("destinations/{name}/rooms")).await;
        if rooms["rooms"][0]["room_id"] == room.as_str() {
            Ok(())
        } else {
            Err(rooms.to_string())
        }
    })
    .await;

    there.restart().await;
    admin
        .post(&format!("{BASE}/destinations/{name}/reset_connection"), json!({}))
        .await
        .ok();
    eventually("it is well again", async || {
        let event = look(&admin, &doctor(&lost)).await;
        let server = &event["servers"][0];
        if server["state"] == "sent" && server["asked"]["has"] == true {
            Ok(())
        } else {
            Err(event.to_string())
        }
    })
    .await;
}

async fn a_room_here_and_there(backend: Backend) {
    let (_here, there, admin, alice, room, _authority) = talkative(backend).await;
    alice
        .set_state(&room, "m.room.topic", "", json!({ "topic": "t" }))
        .await;
    alice.send_text(&room, "newest").await;
    let path = format!("rooms/{}?compare={}", encode(&room), encode(there.name()));
    eventually("both have the same state", async || {
        let seen = look(&admin, &path).await;
        let same = seen["compared"]["same"] == true && seen["compared"]["our_hash"] == seen["compared"]["their_hash"];
        if same { Ok(()) } else { Err(seen.to_string()) }
    })
    .await;
    let seen = look(&admin, &path).await;
    assert_eq!(seen["forward_extremities"].as_array().map(Vec::len), Some(1), "{seen}");
    assert!(
        seen["servers"]
            .as_array()
            .is_some_and(|servers| servers.contains(&json!(there.name()))),
        "{seen}"
    );
    let (status, _) = admin
        .get(&format!("{BASE}/rooms/{}", encode("!nowhere:nobody.example")))
        .await;
    assert_eq!(status, 404);
}
