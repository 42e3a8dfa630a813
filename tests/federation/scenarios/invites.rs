//! Invitations to users of another server.

use serde_json::{Value, json};

use super::{Feed, act, converse, has_membership, join_via, meet};
use crate::common::{
    client::{AnswerExt, User, encode},
    homeserver::Town,
};

/// What a /sync answer says about an invitation.
fn invitation(sync: &Value, room: &str) -> Option<Vec<Value>> {
    sync["rooms"]["invite"].get(room)?["invite_state"]["events"]
        .as_array()
        .cloned()
}

/// A closed room with a name.
async fn closed_room(town: &Town, alice: &User) -> String {
    town.room(alice, json!({ "preset": "private_chat", "name": "Tea" }))
        .await
}

pub async fn accepted(town: &Town) {
    let (alice, bob) = town.people().await;
    let room = closed_room(town, &alice).await;
    join_via(&bob, &room, &[town.here.name()])
        .await
        .refused(403, "M_FORBIDDEN");
    let mut feed = Feed::open(&bob).await;
    alice.invite(&room, &bob.user_id).await;
    let events = feed.until("the invitation", |sync| invitation(sync, &room)).await;
    let has = |event_type: &str, pointer: &str, value: &str| {
        let mut all = events.iter().filter(|event| event["type"] == event_type);
        all.any(|event| event.pointer(pointer).is_some_and(|found| found == value))
    };
    assert!(has("m.room.name", "/content/name", "Tea"), "{events:?}");
    assert!(has("m.room.join_rules", "/content/join_rule", "invite"), "{events:?}");
    assert!(has("m.room.member", "/sender", &alice.user_id), "{events:?}");
    has_membership(&alice, &room, &bob, "invite").await;

    // Without being told of a server: the invitation names one.
    join_via(&bob, &room, &[]).await.ok();
    meet(&room, &[&alice, &bob]).await;
    converse(&room, &[&alice, &bob]).await;

    // From there to here, into a room that is here.
    let carol = town.local("carol").await;
    let mut feed = Feed::open(&carol).await;
    bob.invite(&room, &carol.user_id).await;
    feed.until("the invitation from there", |sync| invitation(sync, &room))
        .await;
    join_via(&carol, &room, &[]).await.ok();
    meet(&room, &[&alice, &bob, &carol]).await;
}

pub async fn rejected(town: &Town) {
    let (alice, bob) = town.people().await;
    let room = closed_room(town, &alice).await;
    let mut feed = Feed::open(&bob).await;
    for _ in 0..2 {
        alice.invite(&room, &bob.user_id).await;
        feed.until("the invitation", |sync| invitation(sync, &room)).await;
        bob.leave(&room).await;
        has_membership(&alice, &room, &bob, "leave").await;
        join_via(&bob, &room, &[town.here.name()])
            .await
            .refused(403, "M_FORBIDDEN");
        let sync = bob.sync(None, 0, None).await;
        assert_eq!(invitation(&sync, &room), None, "{sync}");
    }
    // The inviter is not put off.
    alice.invite(&room, &bob.user_id).await;
    feed.until("the last invitation", |sync| invitation(sync, &room)).await;
    join_via(&bob, &room, &[]).await.ok();
    meet(&room, &[&alice, &bob]).await;
}

pub async fn retracted(town: &Town) {
    let (alice, bob) = town.people().await;
    let room = closed_room(town, &alice).await;
    let mut feed = Feed::open(&bob).await;
    alice.invite(&room, &bob.user_id).await;
    feed.until("the invitation", |sync| invitation(sync, &room)).await;
    act(&alice, &room, "kick", &bob).await.ok();
    feed.until("the end of the invitation", |sync| {
        sync["rooms"]["leave"].get(&room).cloned()
    })
    .await;
    let sync = bob.sync(None, 0, None).await;
    assert_eq!(invitation(&sync, &room), None, "{sync}");
    join_via(&bob, &room, &[town.here.name()])
        .await
        .refused(403, "M_FORBIDDEN");
}

/// `createRoom` itself invites, and says that the room is for two.
pub async fn direct_message(town: &Town) {
    let (alice, bob) = town.people().await;
    let mut feed = Feed::open(&bob).await;
    let options = json!({ "preset": "trusted_private_chat", "is_direct": true, "invite": [bob.user_id] });
    let room = town.room(&alice, options).await;
    let events = feed.until("the invitation", |sync| invitation(sync, &room)).await;
    let own = events.iter().find(|event| event["state_key"] == bob.user_id.as_str());
    assert!(
        own.is_some_and(|event| event["content"]["is_direct"] == true),
        "{events:?}"
    );
    join_via(&bob, &room, &[]).await.ok();
    meet(&room, &[&alice, &bob]).await;
    // A trusted private chat gives both the same rights.
    bob.set_state(&room, "m.room.name", "", json!({ "name": "Ours" })).await;
    let path = format!("rooms/{}/forget", encode(&room));
    bob.leave(&room).await;
    has_membership(&alice, &room, &bob, "leave").await;
    bob.post(&path, json!({})).await.ok();
}
