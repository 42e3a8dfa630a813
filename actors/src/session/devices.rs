//! A user's devices: names and ends. They begin with a login, in `account.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use entities::ids::StreamPos;
use entities::store::rows::Rows;
use entities::{device, device_list_change};
use ruma::OwnedDeviceId;

use super::auth;
use super::interest::interested_users;
use super::outbound;
use super::view::{DeviceView, UserView};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

/// Characters of a device's name.
pub const MAX_NAME: usize = 100;

/// Bytes of a device's id.
const MAX_ID: usize = 255;

/// Refuses what cannot be a device's id.
///
/// # Errors
/// `M_INVALID_PARAM`.
pub fn check_id(id: &str) -> Outcome<()> {
    match (1..=MAX_ID).contains(&id.len()) && !id.contains('\0') {
        true => Ok(()),
        false => Err(DomainError::invalid_param("device_id must have 1 to 255 bytes")),
    }
}

/// What can be asked about devices.
#[derive(Clone, Debug)]
pub enum DeviceCommand {
    /// Gives a device another name, or none.
    Rename {
        /// Which.
        device_id: OwnedDeviceId,
        /// The name.
        display_name: Option<String>,
    },
    /// Makes a device without tokens; one that is there stays as it is.
    Create {
        /// Which.
        device_id: OwnedDeviceId,
        /// The name.
        display_name: Option<String>,
    },
    /// Ends devices with their tokens, keys, inboxes and pushers. Unknown ones count as ended.
    Delete {
        /// Which.
        device_ids: Vec<OwnedDeviceId>,
    },
}

/// The answers.
#[derive(Clone, Debug)]
pub enum DeviceReply {
    /// It is done.
    Done,
}

/// Does one command; the view comes back where it changed.
///
/// # Errors
/// `M_NOT_FOUND` for a device to rename that is not there, `M_TOO_LARGE` for a long name; `Unavailable` when nothing
/// could be written.
pub async fn run(env: &Env, view: &UserView, command: DeviceCommand) -> Outcome<(DeviceReply, Option<UserView>)> {
    let changed = match command {
        DeviceCommand::Rename {
            device_id,
            display_name,
        } => rename(env, view, device_id, display_name).await?,
        DeviceCommand::Create {
            device_id,
            display_name,
        } => create(env, view, device_id, display_name).await?,
        DeviceCommand::Delete { device_ids } => delete(env, view, &device_ids).await?,
    };
    Ok((DeviceReply::Done, changed))
}

async fn rename(
    env: &Env,
    view: &UserView,
    device_id: OwnedDeviceId,
    name: Option<String>,
) -> Outcome<Option<UserView>> {
    let Some(device) = view.devices.get(&device_id) else {
        return Err(DomainError::not_found("Unknown device"));
    };
    if name.as_ref().is_some_and(|name| name.chars().count() > MAX_NAME) {
        let message = format!("A device's name has at most {MAX_NAME} characters");
        return Err(DomainError::matrix(400, "M_TOO_LARGE", message));
    }
    if device.display_name == name {
        return Ok(None);
    }
    env.store
        .rename_device(view.user_id.as_str(), device_id.as_str(), name.as_deref())
        .await?;
    let mut changed = view.clone();
    if let Some(device) = Arc::make_mut(&mut changed.devices).get_mut(&device_id) {
        device.display_name = name;
    }
    let renamed = vec![device_id.to_string()];
    commit(env, Rows::default(), renamed, &changed, Vec::new()).await?;
    Ok(Some(changed))
}

async fn create(
    env: &Env,
    view: &UserView,
    device_id: OwnedDeviceId,
    name: Option<String>,
) -> Outcome<Option<UserView>> {
    check_id(device_id.as_str())?;
    if view.devices.contains_key(&device_id) {
        return Ok(None);
    }
    let now = env.clock.now_ms();
    let row = device::Model {
        user_id: view.user_id.to_string(),
        device_id: device_id.to_string(),
        display_name: name.map(|name| name.chars().take(MAX_NAME).collect()),
        last_seen_ts: now,
        last_seen_ip: None,
        user_agent: None,
        created_ts: now,
    };
    let changed = with_device(view, &row);
    let rows = Rows {
        devices: vec![row],
        ..Rows::default()
    };
    announce(env, rows, &changed, Vec::new()).await?;
    Ok(Some(changed))
}

/// Deletes devices; `None` if none of them was there.
///
/// # Errors
/// `Unavailable` when nothing was written.
pub async fn delete(env: &Env, view: &UserView, device_ids: &[OwnedDeviceId]) -> Outcome<Option<UserView>> {
    let known = |id: &&OwnedDeviceId| view.devices.contains_key(*id);
    let gone: Vec<String> = device_ids.iter().filter(known).map(ToString::to_string).collect();
    if gone.is_empty() {
        return Ok(None);
    }
    let tokens = env
        .store
        .access_token_hashes(view.user_id.as_str(), Some(&gone))
        .await?;
    let mut changed = view.clone();
    Arc::make_mut(&mut changed.devices).retain(|id, _| !gone.iter().any(|gone| gone == id.as_str()));
    let user = view.user_id.to_string();
    let rows = Rows {
        devices_deleted: gone.into_iter().map(|device| (user.clone(), device)).collect(),
        ..Rows::default()
    };
    announce(env, rows, &changed, tokens).await?;
    Ok(Some(changed))
}

/// Adds a device to the view, for [`announce`].
#[must_use]
pub fn with_device(view: &UserView, row: &device::Model) -> UserView {
    let mut changed = view.clone();
    let device = DeviceView {
        display_name: row.display_name.clone(),
        ..DeviceView::default()
    };
    Arc::make_mut(&mut changed.devices).insert(row.device_id.as_str().into(), device);
    changed
}

/// Commits `rows` with a change of the user's device list, publishes the new view and forgets deleted access tokens.
///
/// # Errors
/// `Unavailable` when nothing was written.
pub async fn announce(env: &Env, rows: Rows, changed: &UserView, tokens_gone: Vec<Vec<u8>>) -> Outcome<()> {
    let deleted = rows.devices_deleted.iter().map(|(_, device)| device);
    let made = rows.devices.iter().map(|row| &row.device_id);
    let devices: BTreeSet<String> = deleted.chain(made).cloned().collect();
    commit(env, rows, devices.into_iter().collect(), changed, tokens_gone).await
}

/// `devices`: those that other servers are told of.
async fn commit(
    env: &Env,
    mut rows: Rows,
    devices: Vec<String>,
    changed: &UserView,
    tokens_gone: Vec<Vec<u8>>,
) -> Outcome<()> {
    let user = changed.user_id.clone();
    rows.device_list_changes.push(device_list_change::Model {
        pos: 0,
        user_id: user.to_string(),
    });
    let told = outbound::devices(env, &user, &devices, 0, &mut rows).await?;
    let concerned = interested_users(env, &user).await?;
    let (users, tokens, view) = (env.users.clone(), env.tokens.clone(), Arc::new(changed.clone()));
    let publish = move |base: StreamPos| {
        users.publish(user.clone(), view);
        auth::invalidate(&tokens, &tokens_gone);
        let change = Fact {
            pos: base,
            users: concerned,
            kind: FactKind::DeviceList { user },
        };
        let wake = told.fact.map(|fact| Fact {
            pos: StreamPos(fact.pos.0 + base.0),
            ..fact
        });
        std::iter::once(change).chain(wake).collect()
    };
    let positions = u32::try_from(1 + told.positions).unwrap_or(u32::MAX);
    env.journal
        .submit(Submission {
            rows,
            positions,
            publish: Box::new(publish),
        })
        .await?;
    Ok(())
}
