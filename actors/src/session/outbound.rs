//! What other servers must be told of a user's devices, keys and messages to devices: rows that are written with their cause
//! (server-server API, "Device Management", "End-to-End Encryption", "Send-to-device messaging").

use std::collections::BTreeMap;
use std::sync::Arc;

use entities::ids::StreamPos;
use entities::store::rows::Rows;
use entities::{device_list_change, outbound_edu};
use ruma::canonical_json::CanonicalJsonObject;
use ruma::{OwnedServerName, OwnedUserId, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::to_device::Contents;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::peer::durable::{
    DEVICE_LIST_UPDATE, DIRECT_TO_DEVICE, DeviceListUpdate, SIGNING_KEY_UPDATE, SigningKeyUpdate,
};
use crate::peer::sharing;
use crate::stream::fact::{Fact, FactKind};

/// Bytes of the messages in one EDU; a single message may be larger.
const EDU_BYTES: usize = 48 * 1024;
/// Characters of a message id (server-server API, "Send-to-device messaging").
const MESSAGE_ID: usize = 32;

/// What was added to a submission.
#[derive(Debug, Default)]
pub struct Told {
    /// The positions that it takes.
    pub positions: i64,
    /// Wakes the servers; `None` where there are none to tell.
    pub fact: Option<Fact>,
}

fn rows_for(servers: &[OwnedServerName], pos: i64, kind: &str, json: &str, rows: &mut Rows) {
    let row = |server: &OwnedServerName| outbound_edu::Model {
        pos,
        server_name: server.to_string(),
        edu_type: kind.to_owned(),
        json: json.to_owned(),
    };
    rows.outbound_edus.extend(servers.iter().map(row));
}

fn wake(servers: Arc<[OwnedServerName]>, pos: i64) -> Fact {
    Fact {
        pos: StreamPos(pos),
        users: Arc::from([]),
        kind: FactKind::Outbound { servers },
    }
}

fn json(value: &impl Serialize) -> Outcome<String> {
    serde_json::to_string(value).map_err(|error| DomainError::internal(format!("an EDU does not serialize: {error}")))
}

/// The user's devices have changed: the change at `first` is the first one's; each further one gets one of its own.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn devices(env: &Env, user: &UserId, devices: &[String], first: i64, rows: &mut Rows) -> Outcome<Told> {
    let servers = match devices {
        [] => Arc::from([]),
        _ => sharing(env, user).await?,
    };
    if servers.is_empty() {
        return Ok(Told::default());
    }
    let before = env.store.newest_device_list_change(user.as_str()).await?;
    let mut pos = first;
    for (index, device) in devices.iter().enumerate() {
        pos = first + i64::try_from(index).unwrap_or(0);
        let update = DeviceListUpdate {
            user_id: user.to_owned(),
            device_id: device.clone(),
            prev_id: before,
            follows: index > 0,
        };
        rows_for(&servers, pos, DEVICE_LIST_UPDATE, &json(&update)?, rows);
        if index > 0 {
            rows.device_list_changes.push(device_list_change::Model {
                pos,
                user_id: user.to_string(),
            });
        }
    }
    Ok(Told {
        positions: pos - first,
        fact: Some(wake(servers, pos)),
    })
}

/// The user's cross-signing keys have changed, or the signatures on them.
///
/// # Errors
/// As [`devices`].
pub async fn signing_keys(env: &Env, user: &UserId, pos: i64, rows: &mut Rows) -> Outcome<Told> {
    let servers = sharing(env, user).await?;
    if servers.is_empty() {
        return Ok(Told::default());
    }
    let update = SigningKeyUpdate {
        user_id: user.to_owned(),
    };
    rows_for(&servers, pos, SIGNING_KEY_UPDATE, &json(&update)?, rows);
    Ok(Told {
        positions: 0,
        fact: Some(wake(servers, pos)),
    })
}

/// Messages for the devices of one server's users.
#[derive(Serialize)]
struct DirectToDevice<'a> {
    sender: &'a UserId,
    r#type: &'a str,
    message_id: String,
    messages: BTreeMap<&'a OwnedUserId, BTreeMap<&'a str, &'a RawValue>>,
}

/// The messages that go to other servers, from `first` on.
///
/// # Errors
/// `M_BAD_JSON` for a content that is no object of canonical JSON.
pub fn messages(
    env: &Env,
    sender: &UserId,
    event_type: &str,
    contents: &Contents,
    first: i64,
    rows: &mut Rows,
) -> Outcome<Told> {
    let mut by_server: BTreeMap<OwnedServerName, Vec<(&OwnedUserId, &str, &RawValue)>> = BTreeMap::new();
    for (user, by_device) in contents.iter().filter(|(user, _)| !env.is_local(user)) {
        let of_server = by_server.entry(user.server_name().to_owned()).or_default();
        for (device, content) in by_device {
            // Requests to other servers are signed, and only canonical JSON can be.
            serde_json::from_str::<CanonicalJsonObject>(content.get()).map_err(|error| {
                DomainError::bad_json(format!(
                    "what goes to other servers is an object of canonical JSON, without fractions: {error}"
                ))
            })?;
            of_server.push((user, device, content));
        }
    }
    let mut pos = first;
    for (server, of_server) in &by_server {
        for part in parts(of_server) {
            let mut edu = DirectToDevice {
                sender,
                r#type: event_type,
                message_id: env.rng.alphanumeric(MESSAGE_ID),
                messages: BTreeMap::new(),
            };
            for (user, device, content) in part {
                edu.messages.entry(user).or_default().insert(device, content);
            }
            rows_for(std::slice::from_ref(server), pos, DIRECT_TO_DEVICE, &json(&edu)?, rows);
            pos += 1;
        }
    }
    let servers: Arc<[OwnedServerName]> = by_server.into_keys().collect();
    let fact = (pos > first).then(|| wake(servers, pos - 1));
    Ok(Told {
        positions: pos - first,
        fact,
    })
}

type Message<'a> = (&'a OwnedUserId, &'a str, &'a RawValue);

/// As few parts as fit the size of an EDU.
fn parts<'l, 'a>(messages: &'l [Message<'a>]) -> Vec<&'l [Message<'a>]> {
    let (mut parts, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (index, (_, _, content)) in messages.iter().enumerate() {
        let size = content.get().len();
        if bytes + size > EDU_BYTES && index > begin {
            parts.push(&messages[begin..index]);
            (begin, bytes) = (index, 0);
        }
        bytes += size;
    }
    if begin < messages.len() {
        parts.push(&messages[begin..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::value::to_raw_value;

    use super::*;

    #[test]
    fn messages_are_parted_by_size() {
        let user = user_id!("@a:far").to_owned();
        let large = to_raw_value(&"x".repeat(EDU_BYTES / 2)).expect("a string");
        let messages: Vec<Message<'_>> = ["A", "B", "C"].into_iter().map(|id| (&user, id, &*large)).collect();
        let sizes: Vec<usize> = parts(&messages).iter().map(|part| part.len()).collect();
        assert_eq!(sizes, [1, 1, 1]);
        let small = to_raw_value("x").expect("a string");
        let messages: Vec<Message<'_>> = ["A", "B", "C"].into_iter().map(|id| (&user, id, &*small)).collect();
        assert_eq!(parts(&messages).len(), 1);
        assert!(parts(&[]).is_empty());
    }
}
