//! Messages of other servers' users to devices of one local user.

use std::collections::BTreeMap;
use std::sync::Arc;

use entities::ids::StreamPos;
use entities::store::rows::Rows;
use entities::{to_device, to_device_txn};
use ruma::{OwnedUserId, UserId};
use serde_json::value::RawValue;

use super::{Event, MAX_BYTES, MAX_NAME, devices, put, receivers};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::session::view::UserView;
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

/// What another server's user sends to one local user.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Who sends. That the message came from the sender's server has been checked.
    pub sender: OwnedUserId,
    /// The type.
    pub event_type: String,
    /// Names the message among those of its sender: a second copy is dropped.
    pub message_id: String,
    /// Contents by device; `*` stands for all devices.
    pub by_device: BTreeMap<String, Box<RawValue>>,
}

/// Puts the messages into the inboxes; durable when this returns.
///
/// # Errors
/// `M_BAD_JSON`, `M_INVALID_PARAM`, `M_TOO_LARGE` for what cannot be delivered; `Unavailable` when nothing could be written.
pub(super) async fn deliver(env: &Env, view: &UserView, delivery: Delivery) -> Outcome<()> {
    let rows = address(view, &delivery)?;
    let Some(kind) = kind_of(&view.user_id, &rows) else {
        return Ok(());
    };
    let positions = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let txn = to_device_txn::Model {
        user_id: delivery.sender.to_string(),
        // One message may go to several users, each of whom takes it once.
        device_id: view.user_id.to_string(),
        event_type: String::new(),
        txn_id: delivery.message_id,
        ts: env.clock.now_ms(),
    };
    let devices = receivers(&rows);
    let fact = Fact {
        pos: StreamPos(positions - 1),
        users: Arc::from([view.user_id.clone()]),
        kind,
    };
    let rows = Rows {
        to_device: rows,
        to_device_txns: vec![txn],
        ..Rows::default()
    };
    put(env, Submission::telling(rows, positions, vec![fact]), &devices).await
}

/// One row for each device that exists; `pos` counts from 0.
fn address(view: &UserView, delivery: &Delivery) -> Outcome<Vec<to_device::Model>> {
    let names = [&delivery.event_type, &delivery.message_id];
    if names.iter().any(|name| name.len() > MAX_NAME || name.contains('\0')) {
        return Err(DomainError::invalid_param(format!(
            "An event type or message id has at most {MAX_NAME} bytes, and no U+0000"
        )));
    }
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for (name, content) in &delivery.by_device {
        if !content.get().starts_with('{') {
            return Err(DomainError::bad_json("The content of a message is a JSON object"));
        }
        let event = Event {
            sender: &delivery.sender,
            r#type: &delivery.event_type,
            content,
        };
        let json = serde_json::to_string(&event)
            .map_err(|error| DomainError::internal(format!("to-device message: {error}")))?;
        for device in devices(view, &delivery.by_device, name) {
            bytes += json.len();
            if bytes > MAX_BYTES {
                return Err(DomainError::too_large("Too much in one message"));
            }
            rows.push(to_device::Model {
                pos: i64::try_from(rows.len()).unwrap_or(i64::MAX),
                user_id: view.user_id.to_string(),
                device_id: device.to_string(),
                json: json.clone(),
            });
        }
    }
    Ok(rows)
}

/// What happened; `None` if nothing did.
fn kind_of(user: &UserId, rows: &[to_device::Model]) -> Option<FactKind> {
    let device = match rows {
        [] => return None,
        [only] => Some(only.device_id.as_str().into()),
        _ => None,
    };
    Some(FactKind::ToDevice {
        user: user.to_owned(),
        device,
    })
}
