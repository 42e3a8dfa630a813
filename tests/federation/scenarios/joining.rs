//! Coming into a room of another server, and going.

use serde_json::json;

use super::{
    Feed, act, converse, eventually, has_membership, has_state, join_via, knock_via, meet, sees, shared_room, state,
    texts,
};
use crate::common::{
    client::{AnswerExt, User, encode},
    db::unique,
    homeserver::Town,
};

pub async fn by_alias(town: &Town) {
    let (alice, bob) = town.people().await;
    let name = unique("tea");
    let options = json!({ "preset": "public_chat", "room_alias_name": name, "name": "Tea", "topic": "Leaves" });
    let room = town.room(&alice, options).await;
    let first = alice.send_text(&room, "before anybody came").await;

    let alias = format!("#{name}:{}", town.here.name());
    let answer = bob.post(&format!("join/{}", encode(&alias)), json!({})).await.ok();
    assert_eq!(answer["room_id"], room.as_str());
    meet(&room, &[&alice, &bob]).await;
    has_state(&bob, &room, ("m.room.name", ""), "/name", json!("Tea")).await;
    has_state(&bob, &room, ("m.room.topic", ""), "/topic", json!("Leaves")).await;
    has_state(&bob, &room, ("m.room.canonical_alias", ""), "/alias", json!(alias)).await;
    converse(&room, &[&alice, &bob]).await;
    assert_eq!(texts(&bob, &room).await[0], "before anybody came", "{first}");

    // A second user of that server, which is in the room already.
    let carol = town.remote("carol").await;
    join_via(&carol, &alias, &[]).await.ok();
    meet(&room, &[&alice, &bob, &carol]).await;
    converse(&room, &[&alice, &carol]).await;
}

pub async fn by_id(town: &Town) {
    let (alice, bob) = town.people().await;
    let room = town.room(&alice, json!({ "preset": "public_chat" })).await;
    let mut feed = Feed::open(&bob).await;
    join_via(&bob, &room, &[town.here.name()]).await.ok();
    let joined = feed
        .until("the joined room", |sync| sync["rooms"]["join"].get(&room).cloned())
        .await;
    let events = [&joined["state"]["events"], &joined["timeline"]["events"]];
    let types: Vec<_> = events
        .into_iter()
        .filter_map(|list| list.as_array())
        .flatten()
        .map(|event| &event["type"])
        .collect();
    for expected in ["m.room.create", "m.room.power_levels", "m.room.join_rules"] {
        assert!(
            types.iter().any(|found| **found == expected),
            "no {expected}: {joined:#}"
        );
    }
    meet(&room, &[&alice, &bob]).await;
    let version = state(&bob, &room, "m.room.create", "").await.ok()["room_version"].clone();
    assert!(
        version == town.version.as_str() || (version.is_null() && town.version == "1"),
        "{version}"
    );
    converse(&room, &[&alice, &bob]).await;

    let closed = town.room(&alice, json!({ "preset": "private_chat" })).await;
    join_via(&bob, &closed, &[town.here.name()])
        .await
        .refused(403, "M_FORBIDDEN");
    let nowhere = format!("!{}:{}", unique("nowhere"), town.here.name());
    let (status, answer) = join_via(&bob, &nowhere, &[town.here.name()]).await;
    assert!(status >= 400 && answer["errcode"].is_string(), "{status} {answer}");
}

pub async fn leave_and_return(town: &Town) {
    let (alice, bob, room) = shared_room(town).await;
    converse(&room, &[&alice, &bob]).await;
    bob.leave(&room).await;
    has_membership(&alice, &room, &bob, "leave").await;
    alice.send_text(&room, "while bob is away").await;
    join_via(&bob, &room, &[town.here.name()]).await.ok();
    meet(&room, &[&alice, &bob]).await;
    converse(&room, &[&alice, &bob]).await;
    eventually("the message that bob missed", async || {
        let texts = texts(&bob, &room).await;
        let found = texts.iter().any(|text| text == "while bob is away");
        if found { Ok(()) } else { Err(format!("{texts:?}")) }
    })
    .await;

    // The server that made the room goes, and comes back through the other one.
    alice.leave(&room).await;
    has_membership(&bob, &room, &alice, "leave").await;
    bob.send_text(&room, "while alice is away").await;
    join_via(&alice, &room, &[town.there.name()]).await.ok();
    meet(&room, &[&alice, &bob]).await;
    converse(&room, &[&alice, &bob]).await;
}

pub async fn guests(town: &Town) {
    let alice = town.local("alice").await;
    let answer = town.there.client().post("register?kind=guest", json!({})).await.ok();
    let guest = User::from_login(town.there.client(), &answer);
    let via = [town.here.name()];
    let closed = town.room(&alice, json!({ "preset": "public_chat" })).await;
    join_via(&guest, &closed, &via)
        .await
        .refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    let access = json!({ "type": "m.room.guest_access", "state_key": "", "content": { "guest_access": "can_join" } });
    let open = town
        .room(&alice, json!({ "preset": "public_chat", "initial_state": [access] }))
        .await;
    join_via(&guest, &open, &via).await.ok();
    // Lists of members are not for guests: what they say and hear tells that they are there.
    converse(&open, &[&alice, &guest]).await;
}

/// A room that can be knocked on.
async fn door(town: &Town, alice: &User) -> String {
    let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
    let options = json!({ "preset": "private_chat", "name": "Door", "initial_state": [rule] });
    town.room(alice, options).await
}

pub async fn knock(town: &Town) {
    let (alice, bob) = town.people().await;
    let via = [town.here.name()];
    let room = door(town, &alice).await;
    join_via(&bob, &room, &via).await.refused(403, "M_FORBIDDEN");
    let mut feed = Feed::open(&bob).await;
    let answer = knock_via(&bob, &room, &via).await.ok();
    assert_eq!(answer["room_id"], room.as_str());
    let stripped = feed
        .until("the knock", |sync| sync["rooms"]["knock"].get(&room).cloned())
        .await;
    let events = stripped["knock_state"]["events"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert!(
        events
            .iter()
            .any(|event| event["type"] == "m.room.name" && event["content"]["name"] == "Door"),
        "{stripped}"
    );
    has_membership(&alice, &room, &bob, "knock").await;
    act(&alice, &room, "invite", &bob).await.ok();
    feed.until("the invitation", |sync| sync["rooms"]["invite"].get(&room).cloned())
        .await;
    join_via(&bob, &room, &via).await.ok();
    meet(&room, &[&alice, &bob]).await;
    converse(&room, &[&alice, &bob]).await;

    let closed = town.room(&alice, json!({ "preset": "private_chat" })).await;
    knock_via(&bob, &closed, &via).await.refused(403, "M_FORBIDDEN");
}

pub async fn knock_withdrawn(town: &Town) {
    let (alice, bob) = town.people().await;
    let via = [town.here.name()];
    let room = door(town, &alice).await;
    knock_via(&bob, &room, &via).await.ok();
    has_membership(&alice, &room, &bob, "knock").await;
    let mut feed = Feed::open(&bob).await;
    bob.leave(&room).await;
    has_membership(&alice, &room, &bob, "leave").await;
    feed.until("the end of the knock", |sync| {
        sync["rooms"]["leave"].get(&room).cloned()
    })
    .await;
    knock_via(&bob, &room, &via).await.ok();
    has_membership(&alice, &room, &bob, "knock").await;
}

pub async fn knock_denied(town: &Town) {
    let (alice, bob) = town.people().await;
    let via = [town.here.name()];
    let room = door(town, &alice).await;
    let mut feed = Feed::open(&bob).await;
    knock_via(&bob, &room, &via).await.ok();
    feed.until("the knock", |sync| sync["rooms"]["knock"].get(&room).cloned())
        .await;
    has_membership(&alice, &room, &bob, "knock").await;
    act(&alice, &room, "kick", &bob).await.ok();
    feed.until("the refusal", |sync| sync["rooms"]["leave"].get(&room).cloned())
        .await;
    knock_via(&bob, &room, &via).await.ok();
    has_membership(&alice, &room, &bob, "knock").await;
}

/// A room of `owner` that members of another room may join.
async fn annex(town: &Town, owner: &User, club: &str) -> String {
    let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
    let rule = json!({ "join_rule": "restricted", "allow": allow });
    let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": rule });
    town.room(owner, json!({ "preset": "private_chat", "initial_state": [rule] }))
        .await
}

/// The club is on the server of those who come.
pub async fn restricted(town: &Town) {
    let (alice, bob) = town.people().await;
    let (carol, dave) = (town.remote("carol").await, town.remote("dave").await);
    let club = town.room(&bob, json!({ "preset": "public_chat" })).await;
    join_via(&alice, &club, &[town.there.name()]).await.ok();
    meet(&club, &[&alice, &bob]).await;
    let room = annex(town, &alice, &club).await;
    let via = [town.here.name()];
    join_via(&carol, &room, &via).await.refused(403, "M_FORBIDDEN");

    join_via(&bob, &room, &via).await.ok();
    meet(&room, &[&alice, &bob]).await;
    let key = ("m.room.member", bob.user_id.as_str());
    has_state(
        &alice,
        &room,
        key,
        "/join_authorised_via_users_server",
        json!(alice.user_id),
    )
    .await;
    converse(&room, &[&alice, &bob]).await;

    // Now that server is in the room, but has nobody there who may invite.
    join_via(&carol, &room, &via).await.refused(403, "M_FORBIDDEN");
    join_via(&dave, &club, &[]).await.ok();
    meet(&club, &[&alice, &bob, &dave]).await;
    join_via(&dave, &room, &via).await.ok();
    meet(&room, &[&alice, &bob, &dave]).await;
    converse(&room, &[&alice, &dave]).await;
}

/// The club is here, and the one who comes learns of the room by an event of it.
pub async fn restricted_through_the_other(town: &Town) {
    let (alice, bob) = town.people().await;
    let club = town.room(&alice, json!({ "preset": "public_chat" })).await;
    let room = annex(town, &alice, &club).await;
    join_via(&bob, &room, &[town.here.name()])
        .await
        .refused(403, "M_FORBIDDEN");
    join_via(&bob, &club, &[town.here.name()]).await.ok();
    let link = alice.send_text(&club, &room).await;
    let link = sees(&bob, &club, &link).await;
    let target = link["content"]["body"].as_str().unwrap_or_default();
    join_via(&bob, target, &[town.here.name()]).await.ok();
    meet(&room, &[&alice, &bob]).await;
    // With the right to invite, the server there lets its own users in.
    let levels = state(&alice, &room, "m.room.power_levels", "").await.ok();
    let mut changed = levels.clone();
    changed["users"][&bob.user_id] = json!(50);
    alice.set_state(&room, "m.room.power_levels", "", changed).await;
    let pointer = format!("/users/{}", bob.user_id.replace('~', "~0").replace('/', "~1"));
    has_state(&bob, &room, ("m.room.power_levels", ""), &pointer, json!(50)).await;
    let carol = town.remote("carol").await;
    join_via(&carol, &club, &[]).await.ok();
    join_via(&carol, &room, &[]).await.ok();
    meet(&room, &[&alice, &bob, &carol]).await;
    converse(&room, &[&alice, &carol]).await;
}
