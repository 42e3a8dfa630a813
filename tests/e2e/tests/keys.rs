//! Cross-signing, secret storage and the room key backup.

use matrix_sdk::{
    encryption::recovery::RecoveryState,
    room::MessagesOptions,
    ruma::{RoomId, events::AnySyncTimelineEvent},
};
use synapse_rust_e2e::{
    both_databases,
    person::{Person, becomes, eventually, password_stage},
};

use crate::conversation::friends;

/// Publishes cross-signing keys; the first try is asked for the password.
async fn bootstrap(person: &Person) {
    let encryption = person.client.encryption();
    if let Err(error) = encryption.bootstrap_cross_signing(None).await {
        let asked = error
            .as_uiaa_response()
            .unwrap_or_else(|| panic!("cross-signing was refused: {error}"));
        let stage = password_stage(person.user_id(), asked);
        encryption
            .bootstrap_cross_signing(Some(stage))
            .await
            .expect("the password lets the keys in");
    }
    let status = encryption.cross_signing_status().await.expect("this client encrypts");
    assert!(
        status.has_master && status.has_self_signing && status.has_user_signing,
        "{status:?}"
    );
}

/// The readable messages of a room's history, newest first.
async fn history(person: &Person, room: &RoomId) -> Vec<String> {
    let page = person
        .room(room)
        .messages(MessagesOptions::backward())
        .await
        .expect("a member may page back");
    let texts = page.chunk.iter().filter_map(|event| match event.raw().deserialize() {
        Ok(AnySyncTimelineEvent::MessageLike(event)) => event.original_content(),
        _ => None,
    });
    let bodies = texts.filter_map(|content| {
        let json = serde_json::to_value(content).expect("event content is JSON");
        json["body"].as_str().map(str::to_owned)
    });
    bodies.collect()
}

both_databases! {
    async fn a_second_device_reads_the_history_from_the_backup(server) {
        let (alice, bob, room) = friends(server, true).await;
        bootstrap(&alice).await;
        bob.say(&room, "Before the backup").await;
        alice.hears(&room, "Before the backup").await;

        let recovery = alice.client.encryption().recovery();
        let key = recovery.enable().wait_for_backups_to_upload().await.expect("a backup can be made");
        assert!(alice.client.encryption().backups().are_enabled().await);
        assert!(alice.client.encryption().backups().fetch_exists_on_server().await.expect("the version can be read"));

        bob.room(&room).discard_room_key().await.expect("a sender may begin a new session");
        bob.say(&room, "After the backup").await;
        alice.hears(&room, "After the backup").await;
        let backups = alice.client.encryption().backups();
        backups.wait_for_steady_state().await.expect("later keys are backed up as well");

        let second = Person::login(&server.client.base, "alice").await;
        second.sees_members(&room, 2).await;
        assert!(!history(&second, &room).await.contains(&"Before the backup".to_owned()), "it has no keys yet");
        let recovery = second.client.encryption().recovery();
        recovery.recover(&key).await.expect("the recovery key opens the secret storage");
        becomes("the recovery state", RecoveryState::Enabled, async || recovery.state()).await;
        let backups = second.client.encryption().backups();
        backups.download_room_keys_for_room(&room).await.expect("the keys come back");
        eventually("the history", async || {
            let bodies = history(&second, &room).await;
            ["Before the backup", "After the backup"].iter().all(|body| bodies.iter().any(|b| b == body)).then_some(())
        })
        .await;

        eventually("the second device's signature", async || {
            let device = second.client.encryption().get_own_device().await.expect("the store can be read")?;
            device.is_cross_signed_by_owner().then_some(())
        })
        .await;
    }

    async fn others_see_the_identity(server) {
        let (alice, bob, _) = friends(server, true).await;
        bootstrap(&alice).await;
        let identity = eventually("alice's identity", async || {
            let encryption = bob.client.encryption();
            encryption.request_user_identity(alice.user_id()).await.expect("keys can be queried")
        })
        .await;
        assert!(!identity.is_verified());
        let device = eventually("alice's device", async || {
            let get = bob.client.encryption().get_device(alice.user_id(), &alice.device_id()).await;
            get.expect("the store can be read").filter(|device| device.is_cross_signed_by_owner())
        })
        .await;
        assert_eq!(device.user_id(), alice.user_id());
    }
}
