//! Two stock clients, each on its own server, talk encrypted.

use matrix_sdk::ruma::{
    OwnedRoomId, RoomId, RoomVersionId,
    api::client::room::create_room::{self, v3::RoomPreset},
    events::{InitialStateEvent, room::encryption::RoomEncryptionEventContent},
};
use synapse_rust_e2e::{
    common::{db::unique, homeserver::Town},
    person::{Person, eventually},
};

async fn encrypted_room(town: &Town, alice: &Person, bob: &Person) -> OwnedRoomId {
    let mut request = create_room::v3::Request::new();
    request.preset = Some(RoomPreset::PrivateChat);
    request.room_version = Some(RoomVersionId::try_from(town.version.as_str()).expect("a room version"));
    request.invite = vec![bob.user_id().to_owned()];
    let content = RoomEncryptionEventContent::with_recommended_defaults();
    request.initial_state = vec![InitialStateEvent::with_empty_state_key(content).to_raw_any()];
    let room = alice
        .client
        .create_room(request)
        .await
        .expect("a user may create a room");
    let room = room.room_id().to_owned();
    bob.accept(&room).await;
    for person in [alice, bob] {
        person.sees_members(&room, 2).await;
    }
    // A device that is not known yet gets no key for what is sent meanwhile.
    for (person, other) in [(alice, bob), (bob, alice)] {
        person.knows_device(other).await;
    }
    room
}

async fn talk(room: &RoomId, alice: &Person, bob: &Person) {
    for (from, to, body) in [
        (alice, bob, "Hello Bob"),
        (bob, alice, "Hello Alice"),
        (alice, bob, "Tea?"),
    ] {
        let event_id = from.say(room, body).await;
        let seen = to.hears(room, body).await;
        assert_eq!(seen.event_id, event_id);
        assert_eq!(seen.sender, from.user_id());
        assert!(seen.decrypted, "{seen:?}");
    }
}

pub async fn conversation(town: &Town) {
    let (name_of_alice, name_of_bob) = (unique("alice"), unique("bob"));
    let alice = Person::register(&town.here.client().base, &name_of_alice).await;
    let bob = Person::register(&town.there.client().base, &name_of_bob).await;
    let room = encrypted_room(town, &alice, &bob).await;
    talk(&room, &alice, &bob).await;
    assert!(alice.inbox().undecrypted.is_empty() && bob.inbox().undecrypted.is_empty());

    // A device that comes later gets the keys of what is said from then on.
    let second = Person::login(&town.there.client().base, &name_of_bob).await;
    second.sees_members(&room, 2).await;
    eventually("the new device at alice", async || {
        let devices = alice.client.encryption().get_user_devices(second.user_id()).await;
        let devices = devices.expect("the store can be read");
        devices.get(&second.device_id()).map(|_| ())
    })
    .await;
    alice.say(&room, "Welcome").await;
    assert!(second.hears(&room, "Welcome").await.decrypted);
    assert!(bob.hears(&room, "Welcome").await.decrypted);
}
