//! Voice messages as events (MSC3245, MSC1767, MSC3246).

use entities::voice_message;
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId};
use serde_json::json;
use serde_json::value::to_raw_value;

use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::commands::Draft;

/// Whether a voice message can be sent into a room, as far as that can be said beforehand.
///
/// # Errors
/// `M_FORBIDDEN` for rooms that the user is not in, and for encrypted ones.
pub(super) async fn check(hub: &Hub, user: &UserId, room_id: &RoomId, may_send: bool) -> Outcome<()> {
    if !may_send {
        return Err(DomainError::matrix(
            403,
            "M_USER_SUSPENDED",
            "Your account is suspended.",
        ));
    }
    let room = hub.rooms().joined(room_id, user).await?;
    if room.state_event("m.room.encryption", "").is_some() {
        return Err(DomainError::forbidden(
            "The room is encrypted, and this server cannot encrypt: have your client encrypt the voice message and send it \
             as a file, or upload it without `room_id`.",
        ));
    }
    Ok(())
}

/// Sends a stored message and notes the event.
pub(super) async fn send(
    hub: &Hub,
    user: &OwnedUserId,
    room_id: &RoomId,
    message: &voice_message::Model,
    name: Option<&str>,
    waveform: &[u16],
) -> Outcome<OwnedEventId> {
    let server = &hub.env().server_name;
    let uri = format!("mxc://{server}/{}", message.media_id);
    let body = name.unwrap_or("Voice message");
    let content = json!({
        "msgtype": "m.audio",
        "body": body,
        "url": uri,
        "info": {
            "duration": message.duration_ms,
            "mimetype": message.content_type,
            "size": message.size_bytes,
        },
        "org.matrix.msc1767.text": body,
        "org.matrix.msc1767.file": {
            "url": uri,
            "name": body,
            "mimetype": message.content_type,
            "size": message.size_bytes,
        },
        "org.matrix.msc1767.audio": { "duration": message.duration_ms, "waveform": waveform },
        "org.matrix.msc3245.voice": {},
    });
    let content =
        to_raw_value(&content).map_err(|e| DomainError::internal(format!("an event does not serialise: {e}")))?;
    // One event for each stored message, however often this is tried.
    let txn = Some(("voice".to_owned(), message.message_id.clone()));
    let draft = Draft::message(user.clone(), "m.room.message", content, txn);
    let event_id = hub.rooms().send(room_id, draft).await?;
    hub.env()
        .store
        .set_voice_event(&message.message_id, event_id.as_str())
        .await?;
    Ok(event_id)
}

/// Redacts the event that a message was sent as, in the name of who sent it. If they are not in the room any more it stays:
/// its file is gone all the same.
pub(super) async fn redact(hub: &Hub, message: &voice_message::Model) {
    let sent = (message.room_id.as_deref(), message.event_id.as_deref());
    let (Some(Ok(room_id)), Some(Ok(event_id))) = (sent.0.map(RoomId::parse), sent.1.map(EventId::parse)) else {
        return;
    };
    let (Ok(user), Ok(content)) = (UserId::parse(&message.user_id), to_raw_value(&json!({}))) else {
        return;
    };
    let txn = Some(("voice".to_owned(), format!("delete {}", message.message_id)));
    let mut draft = Draft::message(user, "m.room.redaction", content, txn);
    draft.redacts = Some(event_id);
    if let Err(error) = hub.rooms().send(&room_id, draft).await {
        tracing::debug!(%error, message = message.message_id, "the event of a deleted voice message stays");
    }
}
