//! What two people do on an ordinary day.

use matrix_sdk::{
    attachment::AttachmentConfig,
    media::{MediaFormat, MediaRequestParameters},
    ruma::{
        OwnedRoomId, RoomId, UserId,
        api::client::receipt::create_receipt::v3::ReceiptType as SentReceiptType,
        events::{
            receipt::{ReceiptThread, ReceiptType},
            room::{MediaSource, message::MessageType},
        },
    },
};
use serde_json::Value;
use synapse_rust_e2e::{
    both_databases,
    common::{
        client::{AnswerExt, Client as Plain, encode},
        server::TestServer,
    },
    person::{PATIENCE, Person, becomes, eventually},
};

/// Two people in one room that both of them see.
pub async fn friends(server: &TestServer, encrypted: bool) -> (Person, Person, OwnedRoomId) {
    let alice = Person::register(&server.client.base, "alice").await;
    let bob = Person::register(&server.client.base, "bob").await;
    let room = meet(&alice, &bob, "Tea", encrypted).await;
    (alice, bob, room)
}

/// Makes one more room for two people.
pub async fn meet(alice: &Person, bob: &Person, name: &str, encrypted: bool) -> OwnedRoomId {
    let room = alice.create_room(name, encrypted, &[bob.user_id()]).await;
    bob.accept(&room).await;
    for person in [alice, bob] {
        person.sees_members(&room, 2).await;
        let state = person
            .room(&room)
            .latest_encryption_state()
            .await
            .expect("a member may read the state");
        assert_eq!(state.is_encrypted(), encrypted);
    }
    if encrypted {
        // A device that is not known yet gets no key for what is sent meanwhile.
        for (person, other) in [(alice, bob), (bob, alice)] {
            person.knows_device(other).await;
        }
    }
    room
}

/// An event as the server holds it.
async fn stored(server: &Plain, person: &Person, room: &RoomId, event_id: &str) -> Value {
    let path = format!("rooms/{}/event/{}", encode(room.as_str()), encode(event_id));
    let token = person.session().tokens.access_token;
    server.request("GET", &path, Some(&token), None).await.ok()
}

async fn display_name(person: &Person, room: &RoomId, user: &UserId) -> Option<String> {
    let member = person.room(room).get_member_no_sync(user).await.ok().flatten()?;
    member.display_name().map(str::to_owned)
}

both_databases! {
    async fn messages_go_both_ways_encrypted_and_plain(server) {
        let (alice, bob, secret) = friends(server, true).await;
        let open = meet(&alice, &bob, "Market", false).await;
        for (room, encrypted) in [(&secret, true), (&open, false)] {
            for (from, to, body) in [(&alice, &bob, "Hello Bob"), (&bob, &alice, "Hello Alice"), (&alice, &bob, "Tea?")] {
                let event_id = from.say(room, body).await;
                let seen = to.hears(room, body).await;
                assert_eq!(seen.event_id, event_id);
                assert_eq!(seen.sender, from.user_id());
                assert_eq!(seen.decrypted, encrypted, "{seen:?}");

                let event = stored(&server.client, to, room, event_id.as_str()).await;
                let expected = if encrypted { "m.room.encrypted" } else { "m.room.message" };
                assert_eq!(event["type"], expected);
                assert_eq!(event.to_string().contains(body), !encrypted, "{event}");
            }
        }
        assert!(alice.inbox().undecrypted.is_empty() && bob.inbox().undecrypted.is_empty());
    }

    async fn attachments_come_back_whole(server) {
        let (alice, bob, secret) = friends(server, true).await;
        let open = meet(&alice, &bob, "Market", false).await;
        let data: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        for (room, encrypted) in [(&secret, true), (&open, false)] {
            let kind = &mime::APPLICATION_OCTET_STREAM;
            let at_alice = alice.room(room);
            let sent = at_alice.send_attachment("numbers.bin", kind, data.clone(), AttachmentConfig::new());
            sent.await.expect("a member may send a file");
            let seen = bob.hears(room, "numbers.bin").await;
            let MessageType::File(file) = seen.message else { panic!("not a file: {seen:?}") };
            let uri = match &file.source {
                MediaSource::Plain(uri) => uri.clone(),
                MediaSource::Encrypted(file) => file.url.clone(),
            };
            assert_eq!(matches!(file.source, MediaSource::Encrypted(_)), encrypted);
            let request = MediaRequestParameters { source: file.source, format: MediaFormat::File };
            let received = bob.client.media().get_media_content(&request, false).await.expect("the file is there");
            assert!(received == data, "{} bytes came back of {}", received.len(), data.len());

            let (host, id) = uri.parts().expect("a content URI has two parts");
            let path = format!("/_matrix/client/v1/media/download/{host}/{id}");
            let token = bob.session().tokens.access_token;
            let (status, _, raw) = server.client.raw("GET", &path, Some(&token), None).await;
            assert_eq!(status, 200);
            assert_eq!(raw != data, encrypted, "the server holds what the sender encrypted");
        }
    }

    async fn receipts_typing_and_profiles_reach_the_other(server) {
        let (alice, bob, room) = friends(server, true).await;
        let event_id = alice.say(&room, "Read me").await;
        bob.hears(&room, "Read me").await;
        let read = SentReceiptType::Read;
        let at_bob = bob.room(&room);
        let sent = at_bob.send_single_receipt(read, ReceiptThread::Unthreaded, event_id.clone()).await;
        sent.expect("a member may mark an event as read");
        eventually("the receipt", async || {
            let room = alice.room(&room);
            let load = room.load_event_receipts(ReceiptType::Read, ReceiptThread::Unthreaded, &event_id);
            let receipts = load.await.expect("receipts can be read from the store");
            receipts.iter().any(|(user, _)| user == bob.user_id()).then_some(())
        })
        .await;

        let (_guard, mut typing) = alice.room(&room).subscribe_to_typing_notifications();
        bob.room(&room).typing_notice(true).await.expect("a member may type");
        let users = tokio::time::timeout(PATIENCE, typing.recv()).await;
        assert_eq!(users.expect("the notice comes").expect("the client runs"), [bob.user_id()]);

        bob.client.account().set_display_name(Some("Robert")).await.expect("a user may choose a name");
        let name = bob.client.account().get_display_name().await.expect("a profile can be read");
        assert_eq!(name.as_deref(), Some("Robert"));
        let expected = Some("Robert".to_owned());
        becomes("bob's name", expected, async || display_name(&alice, &room, bob.user_id()).await).await;
    }

    async fn room_state_and_tags_reach_the_other(server) {
        let (alice, bob, room) = friends(server, false).await;
        let (at_alice, at_bob) = (alice.room(&room), bob.room(&room));
        becomes("the first name", Some("Tea".to_owned()), async || at_bob.name()).await;
        at_alice.set_name("Coffee".to_owned()).await.expect("the creator may name the room");
        at_alice.set_room_topic("Beans").await.expect("the creator may set the topic");
        becomes("the new name", Some("Coffee".to_owned()), async || at_bob.name()).await;
        becomes("the topic", Some("Beans".to_owned()), async || at_bob.topic()).await;
        at_bob.set_name("Bob's".to_owned()).await.expect_err("an ordinary member may not");

        let event_id = alice.say(&room, "Oops").await;
        bob.hears(&room, "Oops").await;
        at_alice.redact(&event_id, Some("a slip"), None).await.expect("a sender may redact");
        let event = stored(&server.client, &bob, &room, event_id.as_str()).await;
        assert_eq!(event["content"], serde_json::json!({}), "{event}");

        at_bob.set_is_favourite(true, None).await.expect("a user may tag a room");
        becomes("the tag", true, async || at_bob.is_favourite()).await;
        assert!(!at_alice.is_favourite(), "tags are one's own");

        at_bob.leave().await.expect("a member may leave");
        alice.sees_members(&room, 1).await;
    }

    async fn a_logged_out_client_is_out(server) {
        let (alice, bob, room) = friends(server, true).await;
        let (token, gone) = (bob.session().tokens.access_token, bob.device_id());
        bob.client.matrix_auth().logout().await.expect("a client may log out");
        let whoami = server.client.request("GET", "account/whoami", Some(&token), None).await;
        whoami.refused(401, "M_UNKNOWN_TOKEN");
        alice.say(&room, "Are you there?").await;

        let again = Person::login(&server.client.base, "bob").await;
        again.sees_members(&room, 2).await;
        assert_ne!(again.device_id(), gone);
        // What is sent before alice knows the new device is not meant for it.
        eventually("the new device at alice", async || {
            let devices = alice.client.encryption().get_user_devices(again.user_id()).await;
            let devices = devices.expect("the store can be read");
            (devices.get(&again.device_id()).is_some() && devices.get(&gone).is_none()).then_some(())
        })
        .await;
        alice.say(&room, "Welcome back").await;
        assert!(again.hears(&room, "Welcome back").await.decrypted);
    }
}
