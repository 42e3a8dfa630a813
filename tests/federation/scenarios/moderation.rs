//! Kicks, bans, power levels, server ACLs and upgrades, across servers.

use serde_json::{Value, json};

use super::{Feed, act, converse, has_membership, has_state, join_via, meet, sees, shared_room, state, texts};
use crate::common::{
    client::{Answer, AnswerExt, User, encode, text},
    homeserver::Town,
};

pub async fn kick(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    let mut feed = Feed::open(&bob).await;
    act(&bob, &room, "kick", &alice).await.refused(403, "M_FORBIDDEN");
    act(&alice, &room, "kick", &bob).await.ok();
    feed.until("the kick", |sync| sync["rooms"]["leave"].get(&room).cloned())
        .await;
    let path = format!("rooms/{}/send/m.room.message/{}", encode(&room), bob.next_txn_id());
    let answer = bob.put(&path, json!({ "msgtype": "m.text", "body": "but" })).await;
    answer.refused(403, "M_FORBIDDEN");
    join_via(&bob, &room, &[town.here.name()]).await.ok();
    meet(&room, &[&alice, &bob]).await;
    converse(&room, &[&alice, &bob]).await;
}

/// Who is banned is refused; not all servers have the same word for it.
#[track_caller]
fn barred((status, answer): Answer) {
    let codes = ["M_FORBIDDEN", "M_BAD_STATE"].map(Value::from);
    assert!(status == 403 && codes.contains(&answer["errcode"]), "{status} {answer}");
}

pub async fn ban_and_unban(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    let mut feed = Feed::open(&bob).await;
    act(&alice, &room, "ban", &bob).await.ok();
    feed.until("the ban", |sync| sync["rooms"]["leave"].get(&room).cloned())
        .await;
    let via = [town.here.name()];
    barred(join_via(&bob, &room, &via).await);
    barred(act(&alice, &room, "invite", &bob).await);
    act(&alice, &room, "unban", &bob).await.ok();
    has_membership(&alice, &room, &bob, "leave").await;
    join_via(&bob, &room, &via).await.ok();
    meet(&room, &[&alice, &bob]).await;
    converse(&room, &[&alice, &bob]).await;
}

/// Gives a user a power level, and waits until the user's server knows.
async fn promote(alice: &User, room: &str, user: &User, level: i64) {
    let mut levels = state(alice, room, "m.room.power_levels", "").await.ok();
    levels["users"][&user.user_id] = json!(level);
    let event_id = alice.set_state(room, "m.room.power_levels", "", levels).await;
    sees(user, room, &event_id).await;
}

pub async fn power_levels(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    let topic = format!("rooms/{}/state/m.room.topic", encode(&room));
    let refused = bob.put(&topic, json!({ "topic": "not yet" })).await;
    refused.refused(403, "M_FORBIDDEN");
    promote(&alice, &room, &bob, 50).await;
    bob.set_state(&room, "m.room.topic", "", json!({ "topic": "Beans" }))
        .await;
    has_state(&alice, &room, ("m.room.topic", ""), "/topic", json!("Beans")).await;
    alice
        .set_state(&room, "m.room.topic", "", json!({ "topic": "Leaves" }))
        .await;
    has_state(&bob, &room, ("m.room.topic", ""), "/topic", json!("Leaves")).await;
    alice
        .set_state(&room, "org.example.thing", "a key", json!({ "n": 1 }))
        .await;
    has_state(&bob, &room, ("org.example.thing", "a key"), "/n", json!(1)).await;

    // From there a moderator may put somebody of here out.
    let carol = town.local("carol").await;
    carol.join(&room).await;
    meet(&room, &[&alice, &bob, &carol]).await;
    act(&bob, &room, "kick", &carol).await.ok();
    has_membership(&alice, &room, &carol, "leave").await;
    act(&bob, &room, "ban", &carol).await.ok();
    has_membership(&alice, &room, &carol, "ban").await;
    barred(join_via(&carol, &room, &[]).await);

    promote(&alice, &room, &bob, 0).await;
    let refused = bob.put(&topic, json!({ "topic": "no more" })).await;
    refused.refused(403, "M_FORBIDDEN");
}

/// A server that the room does not want is not heard.
pub async fn acl(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    let other = town.room(&alice, json!({ "preset": "public_chat" })).await;
    join_via(&bob, &other, &[town.here.name()]).await.ok();
    meet(&other, &[&alice, &bob]).await;
    let host = |name: &str| {
        name.rsplit_once(':')
            .map_or(name.to_owned(), |(host, _)| host.to_owned())
    };
    let denied = host(town.there.name());
    let content = json!({ "allow": ["*"], "deny": [denied], "allow_ip_literals": true });
    let event_id = alice.set_state(&room, "m.room.server_acl", "", content).await;
    sees(&bob, &room, &event_id).await;

    // What follows in another room shows that the servers still talk and that the denied message had its chance.
    let path = format!("rooms/{}/send/m.room.message/{}", encode(&room), bob.next_txn_id());
    bob.put(&path, json!({ "msgtype": "m.text", "body": "unheard" })).await;
    let path = format!("rooms/{}/typing/{}", encode(&room), encode(&bob.user_id));
    bob.put(&path, json!({ "typing": true, "timeout": 30_000 })).await;
    converse(&other, &[&bob, &alice]).await;
    assert_eq!(texts(&alice, &room).await, Vec::<String>::new());
    let sync = alice.sync(None, 0, None).await;
    let ephemeral = &sync["rooms"]["join"][&room]["ephemeral"]["events"];
    assert!(!ephemeral.to_string().contains(&bob.user_id), "{ephemeral}");
    let carol = town.remote("carol").await;
    let (status, answer) = join_via(&carol, &room, &[town.here.name()]).await;
    // The server there may let its user in without asking; nobody here believes it.
    if status == 200 {
        converse(&other, &[&bob, &alice]).await;
        let (status, content) = state(&alice, &room, "m.room.member", &carol.user_id).await;
        assert_eq!(status, 404, "{content}");
    } else {
        assert_eq!(status, 403, "{answer}");
    }
}

pub async fn upgrade(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    promote(&alice, &room, &bob, 50).await;
    let body = json!({ "new_version": town.version });
    let answer = alice.post(&format!("rooms/{}/upgrade", encode(&room)), body).await.ok();
    let replacement = text(&answer, "replacement_room");
    let key = ("m.room.tombstone", "");
    has_state(&bob, &room, key, "/replacement_room", json!(replacement)).await;
    join_via(&bob, &replacement, &[town.here.name()]).await.ok();
    meet(&replacement, &[&alice, &bob]).await;
    let create = state(&bob, &replacement, "m.room.create", "").await.ok();
    assert_eq!(create["predecessor"]["room_id"], room.as_str(), "{create}");
    let levels: Value = state(&bob, &replacement, "m.room.power_levels", "").await.ok();
    assert_eq!(levels["users"][&bob.user_id], 50, "{levels}");
    converse(&replacement, &[&alice, &bob]).await;
}
