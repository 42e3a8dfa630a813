//! Ephemeral messages of other servers, applied one by one: what is wrong with one concerns no other.
//!
//! Spec: server-server API, "Typing Notifications", "Presence", "Receipts", "Device Management", "Send-to-device messaging",
//! "Server Access Control Lists". Whatever speaks for a user must come from the user's own server.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ruma::presence::PresenceState;
use ruma::{EventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::clock::Millis;
use crate::error::{DomainError, Outcome};
use crate::flows::{ingest, remote_keys};
use crate::hub::Hub;
use crate::presence::{self, remote::Update};
use crate::room::acl;
use crate::room::commands::{SetReceipt, SetTyping};
use crate::room::snapshot::RoomSnapshot;
use crate::session::to_device::Delivery;

/// How long another server's user types without saying so again. Servers repeat it every 40 s or so.
const TYPING_MS: u64 = 60_000;
/// Receipts taken from one transaction.
const MAX_RECEIPTS: usize = 2_000;
/// Presence updates taken from one transaction.
const MAX_PRESENCE: usize = 2_000;
/// Local users that one to-device message may reach.
const MAX_RECIPIENTS: usize = 1_000;

#[derive(Deserialize)]
struct Edu<'a> {
    edu_type: String,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// What is applied at the end, together, and need not be durable.
#[derive(Default)]
pub struct Gathered {
    receipts: BTreeMap<OwnedRoomId, Vec<SetReceipt>>,
    receipt_count: usize,
    presence: Vec<Update>,
}

/// Applies what a transaction carries; the rest is done by [`Gathered::apply`].
///
/// # Errors
/// `Unavailable` and `Overloaded` when something could not be stored that must not be lost: it has to be sent again.
pub async fn apply(hub: &Arc<Hub>, origin: &ServerName, edus: &[Box<RawValue>]) -> Outcome<Gathered> {
    let mut gathered = Gathered::default();
    for edu in edus {
        let outcome = match serde_json::from_str::<Edu<'_>>(edu.get()) {
            Ok(edu) => one(hub, origin, &edu, &mut gathered).await,
            Err(error) => Err(DomainError::bad_json(error.to_string())),
        };
        match outcome {
            Err(error @ (DomainError::Unavailable { .. } | DomainError::Overloaded { .. })) => return Err(error),
            Err(error) => tracing::debug!(%origin, %error, "an EDU was ignored"),
            Ok(()) => {}
        }
    }
    Ok(gathered)
}

impl Gathered {
    /// Receipts and presence. Receipts wait for the events that are staged for their rooms: they may point at them.
    pub async fn apply(self, hub: &Arc<Hub>) {
        for (room_id, receipts) in self.receipts {
            ingest::receipts_after(hub, &room_id, receipts).await;
        }
        if let Err(error) = presence::remote::take(hub.env(), self.presence).await {
            tracing::debug!(%error, "presence was not taken over");
        }
    }
}

async fn one(hub: &Arc<Hub>, origin: &ServerName, edu: &Edu<'_>, gathered: &mut Gathered) -> Outcome<()> {
    let content = edu.content;
    match edu.edu_type.as_str() {
        "m.typing" => lenient(typing(hub, origin, content).await),
        "m.receipt" => lenient(receipts(hub, origin, content, gathered).await),
        "m.presence" => presence(hub, origin, content, gathered),
        "m.direct_to_device" => direct_to_device(hub, origin, content).await,
        "m.device_list_update" => remote_keys::device_list_update(hub, origin, content).await,
        "m.signing_key_update" => remote_keys::signing_key_update(hub, origin, content).await,
        // Future kinds.
        _ => Ok(()),
    }
}

/// Nobody sends again what is old in a moment.
fn lenient(outcome: Outcome<()>) -> Outcome<()> {
    outcome.map_err(|error| match error {
        DomainError::Unavailable { reason, .. } => DomainError::internal(reason),
        DomainError::Overloaded { .. } => DomainError::internal("too busy"),
        error => error,
    })
}

fn read<'a, T: Deserialize<'a>>(content: &'a RawValue) -> Outcome<T> {
    serde_json::from_str(content.get()).map_err(|error| DomainError::bad_json(error.to_string()))
}

fn must_be_of(user: &UserId, origin: &ServerName) -> Outcome<()> {
    match user.server_name() == origin {
        true => Ok(()),
        false => Err(DomainError::forbidden(format!("{user} is not a user of {origin}"))),
    }
}

/// A room whose access control list lets the server in; `None` if it is not known or does not.
async fn open_room(hub: &Hub, origin: &ServerName, room_id: &RoomId) -> Outcome<Option<Arc<RoomSnapshot>>> {
    let room = hub.rooms().view(room_id).await?;
    Ok(room.filter(|room| acl::allows(room, origin)))
}

#[derive(Deserialize)]
struct Typing {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    typing: bool,
}

async fn typing(hub: &Hub, origin: &ServerName, content: &RawValue) -> Outcome<()> {
    let notice: Typing = read(content)?;
    must_be_of(&notice.user_id, origin)?;
    if open_room(hub, origin, &notice.room_id).await?.is_none() {
        return Ok(());
    }
    let typing = SetTyping {
        user: notice.user_id,
        timeout_ms: notice.typing.then_some(TYPING_MS),
    };
    hub.rooms().set_typing(&notice.room_id, typing).await
}

#[derive(Deserialize)]
struct Receipt {
    event_ids: Vec<String>,
    data: ReceiptData,
}

#[derive(Deserialize)]
struct ReceiptData {
    ts: Option<i64>,
    thread_id: Option<String>,
}

/// Users' receipts of one type, still unread.
type ByUser<'a> = HashMap<String, &'a RawValue>;

async fn receipts(hub: &Hub, origin: &ServerName, content: &RawValue, gathered: &mut Gathered) -> Outcome<()> {
    let rooms: HashMap<String, &RawValue> = read(content)?;
    for (room_id, content) in rooms {
        let Ok(room_id) = RoomId::parse(room_id) else { continue };
        let Ok(by_type) = read::<HashMap<String, &RawValue>>(content) else {
            continue;
        };
        // The only public kind there is.
        let Some(by_user) = by_type
            .get("m.read")
            .and_then(|content| read::<ByUser<'_>>(content).ok())
        else {
            continue;
        };
        let Some(room) = open_room(hub, origin, &room_id).await? else {
            continue;
        };
        let joined = |user: &OwnedUserId| user.server_name() == origin && room.is_joined(user);
        let found = by_user.into_iter().filter_map(|(user, receipt)| {
            let user = UserId::parse(user).ok().filter(joined)?;
            receipt_of(user, read(receipt).ok()?, hub.env().clock.now_ms())
        });
        let space = MAX_RECEIPTS.saturating_sub(gathered.receipt_count);
        let found: Vec<SetReceipt> = found.take(space).collect();
        gathered.receipt_count += found.len();
        gathered.receipts.entry(room_id).or_default().extend(found);
    }
    Ok(())
}

fn receipt_of(user: OwnedUserId, receipt: Receipt, now: Millis) -> Option<SetReceipt> {
    Some(SetReceipt {
        user,
        kind: "m.read".to_owned(),
        thread_id: receipt.data.thread_id,
        event_id: EventId::parse(receipt.event_ids.into_iter().next()?).ok()?,
        ts: receipt.data.ts.map(|ts| ts.clamp(0, now)),
    })
}

#[derive(Deserialize)]
struct Presence<'a> {
    #[serde(borrow)]
    push: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Push {
    user_id: OwnedUserId,
    presence: PresenceState,
    status_msg: Option<String>,
    #[serde(default)]
    last_active_ago: i64,
}

fn presence(hub: &Hub, origin: &ServerName, content: &RawValue, gathered: &mut Gathered) -> Outcome<()> {
    let now = hub.env().clock.now_ms();
    let updates: Presence<'_> = read(content)?;
    let space = MAX_PRESENCE.saturating_sub(gathered.presence.len());
    let pushes = updates.push.into_iter().filter_map(|push| read::<Push>(push).ok());
    let own = pushes.filter(|push| push.user_id.server_name() == origin);
    gathered.presence.extend(own.take(space).map(|push| Update {
        user: push.user_id,
        state: push.presence,
        message: push.status_msg,
        last_active: now.saturating_sub(push.last_active_ago.max(0)),
    }));
    Ok(())
}

#[derive(Deserialize)]
struct ToDevice {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: String,
    message_id: String,
    messages: BTreeMap<String, BTreeMap<String, Box<RawValue>>>,
}

async fn direct_to_device(hub: &Hub, origin: &ServerName, content: &RawValue) -> Outcome<()> {
    let message: ToDevice = read(content)?;
    must_be_of(&message.sender, origin)?;
    for (user, by_device) in message.messages.into_iter().take(MAX_RECIPIENTS) {
        let Some(user) = UserId::parse(user).ok().filter(|user| hub.env().is_local(user)) else {
            continue;
        };
        let delivery = Delivery {
            sender: message.sender.clone(),
            event_type: message.event_type.clone(),
            message_id: message.message_id.clone(),
            by_device,
        };
        match hub.sessions().deliver(&user, delivery).await {
            Err(error @ (DomainError::Unavailable { .. } | DomainError::Overloaded { .. })) => return Err(error),
            // Nobody of that name, or nothing that could be stored.
            Err(error) => tracing::debug!(%origin, %user, %error, "a message to a device was dropped"),
            Ok(()) => {}
        }
    }
    Ok(())
}
