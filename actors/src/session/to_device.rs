//! Send-to-device messages (client-server API, "Send-to-Device messaging"). Delivery is `/sync`'s.

mod deliver;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use entities::ids::StreamPos;
use entities::store::rows::Rows;
use entities::{to_device, to_device_txn};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

pub use self::deliver::Delivery;
use super::view::UserView;
use super::{inbox, load, outbound};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

/// Messages that one request may become.
const MAX_MESSAGES: usize = 10_000;
/// Bytes that one request may become.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of an event type or transaction id.
const MAX_NAME: usize = 255;

/// What can be asked about messages.
#[derive(Clone, Debug)]
pub enum ToDeviceCommand {
    /// Sends from one of this user's devices.
    Send(Box<Messages>),
    /// Takes what another server's user sends to this one.
    Deliver(Box<Delivery>),
    /// A device of this user has everything up to and including `upto`.
    Ack {
        /// Which.
        device_id: OwnedDeviceId,
        /// Up to where.
        upto: StreamPos,
    },
}

/// Contents by user and device; `*` stands for all devices.
pub type Contents = BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>;

/// A request of a device.
#[derive(Clone, Debug)]
pub struct Messages {
    /// The device that sends.
    pub device_id: OwnedDeviceId,
    /// The type of all of them.
    pub event_type: String,
    /// Repeated by the client when it did not get the answer.
    pub txn_id: String,
    /// What to whom.
    pub contents: Contents,
}

/// The answers.
#[derive(Clone, Debug)]
pub enum ToDeviceReply {
    /// It is done, now or before.
    Done,
}

/// Does one command.
///
/// # Errors
/// `M_BAD_JSON` for a content that is no object, `M_TOO_LARGE`; `Unavailable` when nothing could be written.
pub async fn run(env: &Env, view: &UserView, command: ToDeviceCommand) -> Outcome<(ToDeviceReply, Option<UserView>)> {
    match command {
        ToDeviceCommand::Send(messages) => send(env, view, *messages).await?,
        ToDeviceCommand::Deliver(delivery) => deliver::deliver(env, view, *delivery).await?,
        ToDeviceCommand::Ack { device_id, upto } => {
            let user = view.user_id.as_str();
            env.store.to_device_ack(user, device_id.as_str(), upto.0).await?;
        }
    }
    Ok((ToDeviceReply::Done, None))
}

#[derive(Serialize)]
struct Event<'a> {
    sender: &'a UserId,
    r#type: &'a str,
    content: &'a RawValue,
}

async fn send(env: &Env, view: &UserView, messages: Messages) -> Outcome<()> {
    let Messages {
        device_id,
        event_type,
        txn_id,
        contents,
    } = messages;
    if event_type.len() > MAX_NAME || txn_id.len() > MAX_NAME {
        return Err(DomainError::invalid_param(format!(
            "An event type or transaction id has at most {MAX_NAME} bytes"
        )));
    }
    let inboxes = address(env, &view.user_id, &event_type, &contents).await?;
    let mut rows = Rows::default();
    let mut facts: Vec<Fact> = Vec::new();
    for row in inboxes {
        // Rows come user by user.
        let pos = StreamPos(row.pos);
        match facts.last_mut() {
            Some(Fact {
                pos: last,
                kind: FactKind::ToDevice { user, device },
                ..
            }) if user.as_str() == row.user_id => {
                (*last, *device) = (pos, None);
            }
            _ => facts.extend(fact(&row)),
        }
        rows.to_device.push(row);
    }
    rows.to_device_txns.push(to_device_txn::Model {
        user_id: view.user_id.to_string(),
        device_id: device_id.to_string(),
        event_type,
        txn_id,
        ts: env.clock.now_ms(),
    });
    let devices = receivers(&rows.to_device);
    let first = i64::try_from(rows.to_device.len()).unwrap_or(i64::MAX);
    let kind = rows.to_device_txns[0].event_type.clone();
    let told = outbound::messages(env, &view.user_id, &kind, &contents, first, &mut rows)?;
    facts.extend(told.fact);
    let submission = Submission::telling(rows, first.saturating_add(told.positions), facts);
    put(env, submission, &devices).await
}

/// Commits messages to these inboxes, unless they were committed before.
async fn put(env: &Env, submission: Submission, devices: &[(OwnedUserId, OwnedDeviceId)]) -> Outcome<()> {
    match env.journal.submit(submission).await {
        Ok(_) => {
            inbox::grown(env, devices);
            Ok(())
        }
        Err(error) if error.errcode() == Some("M_CONFLICT") => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whose inboxes the messages go to, once for each message.
#[must_use]
pub fn receivers(messages: &[to_device::Model]) -> Vec<(OwnedUserId, OwnedDeviceId)> {
    let receiver = |message: &to_device::Model| {
        let user = OwnedUserId::try_from(message.user_id.as_str()).ok()?;
        Some((user, message.device_id.as_str().into()))
    };
    messages.iter().filter_map(receiver).collect()
}

fn fact(row: &to_device::Model) -> Option<Fact> {
    let user = OwnedUserId::try_from(row.user_id.as_str()).ok()?;
    Some(Fact {
        pos: StreamPos(row.pos),
        users: Arc::from([user.clone()]),
        kind: FactKind::ToDevice {
            user,
            device: Some(row.device_id.as_str().into()),
        },
    })
}

/// One row for each device that exists, user by user; `pos` counts from 0.
async fn address(env: &Env, sender: &UserId, event_type: &str, contents: &Contents) -> Outcome<Vec<to_device::Model>> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for (user, by_device) in contents {
        // Other servers address their users themselves.
        if !env.is_local(user) {
            continue;
        }
        let Some(target) = load::view(env, user).await? else {
            continue;
        };
        for (device, content) in by_device {
            if !content.get().starts_with('{') {
                return Err(DomainError::bad_json("The content of a message is a JSON object"));
            }
            let event = Event {
                sender,
                r#type: event_type,
                content,
            };
            let json = serde_json::to_string(&event)
                .map_err(|error| DomainError::internal(format!("to-device message: {error}")))?;
            for device in devices(&target, by_device, device) {
                bytes += json.len();
                if rows.len() >= MAX_MESSAGES || bytes > MAX_BYTES {
                    return Err(DomainError::too_large("Too many messages in one request"));
                }
                rows.push(to_device::Model {
                    pos: i64::try_from(rows.len()).unwrap_or(i64::MAX),
                    user_id: user.to_string(),
                    device_id: device.to_string(),
                    json: json.clone(),
                });
            }
        }
    }
    Ok(rows)
}

/// The user's devices that `name` stands for. A device that is named besides `*` gets its own message only.
fn devices<'a>(
    target: &'a UserView,
    by_device: &BTreeMap<String, Box<RawValue>>,
    name: &str,
) -> BTreeSet<&'a OwnedDeviceId> {
    let all = target.devices.keys();
    match name {
        "*" => all.filter(|id| !by_device.contains_key(id.as_str())).collect(),
        name => all.filter(|id| id.as_str() == name).collect(),
    }
}
