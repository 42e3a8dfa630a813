//! What people do.

use ruma::{OwnedEventId, OwnedRoomId, RoomOrAliasId, UserId};
use serde_json::{Value, json, value::to_raw_value};

use super::world::World;
use crate::error::Outcome;
use crate::flows::create_room::create_room;
use crate::flows::membership::{Change, change, join, knock};
use crate::room::commands::{Draft, SetReceipt};
use crate::room::membership::Action;
use crate::session::commands::SessionCommand;
use crate::session::data::DataCommand;
use crate::session::to_device::{Messages, ToDeviceCommand};

fn raw(value: &Value) -> Box<serde_json::value::RawValue> {
    to_raw_value(value).expect("serializes")
}

impl World {
    pub async fn create(&self, creator: &UserId, preset: &str, visibility: &str) -> OwnedRoomId {
        let mut request = ruma::api::client::room::create_room::v3::Request::new();
        request.preset = Some(preset.into());
        let room = create_room(&self.hub, creator, &request).await.expect("made");
        let content = json!({ "history_visibility": visibility });
        self.state(creator, &room, "m.room.history_visibility", "", &content)
            .await
            .expect("allowed");
        room
    }

    pub async fn say(&self, sender: &UserId, room: &OwnedRoomId, content: &Value) -> Outcome<OwnedEventId> {
        let draft = Draft::message(sender.to_owned(), "m.room.message", raw(content), None);
        self.hub.rooms().send(room, draft).await
    }

    pub async fn text(&self, sender: &UserId, room: &OwnedRoomId, body: &str) -> Outcome<OwnedEventId> {
        self.say(sender, room, &json!({ "msgtype": "m.text", "body": body }))
            .await
    }

    pub async fn state(
        &self,
        sender: &UserId,
        room: &OwnedRoomId,
        kind: &str,
        key: &str,
        content: &Value,
    ) -> Outcome<OwnedEventId> {
        let draft = Draft::state(sender.to_owned(), kind, key, raw(content));
        self.hub.rooms().send(room, draft).await
    }

    pub async fn redact(&self, sender: &UserId, room: &OwnedRoomId, target: &OwnedEventId) -> Outcome<OwnedEventId> {
        let mut draft = Draft::message(sender.to_owned(), "m.room.redaction", raw(&json!({})), None);
        draft.redacts = Some(target.clone());
        self.hub.rooms().send(room, draft).await
    }

    pub async fn join(&self, user: &UserId, room: &OwnedRoomId) -> Outcome<()> {
        let target = <&RoomOrAliasId>::try_from(room.as_str()).expect("a room id");
        join(&self.hub, user, target, &[], None).await.map(|_| ())
    }

    pub async fn knock(&self, user: &UserId, room: &OwnedRoomId) -> Outcome<()> {
        let target = <&RoomOrAliasId>::try_from(room.as_str()).expect("a room id");
        knock(&self.hub, user, target, &[], None).await.map(|_| ())
    }

    pub async fn change(&self, sender: &UserId, room: &OwnedRoomId, target: &UserId, action: Action) -> Outcome<()> {
        let wanted = Change {
            room_id: room,
            sender,
            target,
            reason: None,
        };
        change(&self.hub, &wanted, action).await
    }

    pub async fn invite(&self, sender: &UserId, room: &OwnedRoomId, target: &UserId) -> Outcome<()> {
        self.change(sender, room, target, Action::Invite { is_direct: false })
            .await
    }

    pub async fn leave(&self, user: &UserId, room: &OwnedRoomId) -> Outcome<()> {
        self.change(user, room, user, Action::Leave).await
    }

    pub async fn read(
        &self,
        user: &UserId,
        room: &OwnedRoomId,
        event_id: &OwnedEventId,
        kind: &str,
        thread_id: Option<&str>,
    ) -> Outcome<()> {
        let receipt = SetReceipt {
            user: user.to_owned(),
            kind: kind.to_owned(),
            thread_id: thread_id.map(str::to_owned),
            event_id: event_id.clone(),
            ts: None,
        };
        self.hub.rooms().set_receipt(room, receipt).await
    }

    pub async fn keep(&self, user: &UserId, room: Option<&OwnedRoomId>, kind: &str, content: &Value) -> Outcome<()> {
        let command = DataCommand::SetAccountData {
            room_id: room.cloned(),
            kind: kind.to_owned(),
            content: raw(content),
        };
        self.hub
            .sessions()
            .ask(user, SessionCommand::Data(command))
            .await
            .map(|_| ())
    }

    /// Sends a message to all devices of a user.
    pub async fn whisper(&self, sender: &UserId, to: &UserId, number: u64) -> Outcome<()> {
        let content = [("*".to_owned(), raw(&json!({ "number": number })))].into();
        let messages = Messages {
            device_id: "A".into(),
            event_type: "m.whisper".to_owned(),
            txn_id: number.to_string(),
            contents: [(to.to_owned(), content)].into(),
        };
        let command = SessionCommand::ToDevice(ToDeviceCommand::Send(Box::new(messages)));
        self.hub.sessions().ask(sender, command).await.map(|_| ())
    }
}
