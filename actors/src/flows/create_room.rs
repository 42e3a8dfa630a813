//! `POST /createRoom`: the room with its alias and first events in one commit, then its entry in the directory.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ruma::api::client::room::create_room::v3::Request;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, UserId};

use super::{profiles, remote};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::commands::Draft;
use crate::room::commit::origin;
use crate::room::create::{self, NewRoom, Options};

/// How long the client waits for the servers of those whom it invites. After that the invites go on by themselves.
const PATIENCE: Duration = Duration::from_secs(20);

/// Creates a room. Everything but the directory's entry and the invites of other servers' users is one commit. An invite
/// that another server does not take leaves the room as it is.
///
/// # Errors
/// `M_ROOM_IN_USE`, `M_INVALID_ROOM_STATE`, `M_UNSUPPORTED_ROOM_VERSION`, `M_BAD_JSON`, `M_INVALID_PARAM`.
pub async fn create_room(hub: &Arc<Hub>, creator: &UserId, request: &Request) -> Outcome<OwnedRoomId> {
    let env = hub.env();
    let users: Vec<OwnedUserId> = request.invite.iter().cloned().chain([creator.to_owned()]).collect();
    let profiles = profiles(env, &users).await?;
    let mut new = create::build(&Options {
        request,
        creator: &creator.to_owned(),
        profiles: &profiles,
        default_version: &env.settings.default_room_version,
        now: env.creation_ms(),
        origin: &origin(env),
    })?;
    let invites = std::mem::take(&mut new.invites);
    let room_id = commit(hub, new).await?;
    if !invites.is_empty() {
        let inviting = invite_others(hub.clone(), room_id.clone(), invites);
        let _late = tokio::time::timeout(PATIENCE, env.io.spawn(inviting)).await;
    }
    Ok(room_id)
}

/// One after the other: each stands on the one before it.
async fn invite_others(hub: Arc<Hub>, room_id: OwnedRoomId, invites: Vec<Draft>) {
    let mut silent: HashSet<OwnedServerName> = HashSet::new();
    for invite in invites {
        let server = invite
            .state_key
            .as_deref()
            .and_then(|key| <&UserId>::try_from(key).ok());
        let server = server.map(|user| user.server_name().to_owned());
        if server.as_ref().is_some_and(|server| silent.contains(server)) {
            continue;
        }
        if let Err(error) = remote::invite::send(&hub, &room_id, &invite).await {
            let user = invite.state_key.as_deref().unwrap_or_default();
            tracing::warn!(%room_id, user, %error, "somebody is not invited to a new room");
            if matches!(error, DomainError::Matrix { status: 500.., .. }) {
                silent.extend(server);
            }
        }
    }
}

/// Commits a built room and publishes it if it is public.
pub(super) async fn commit(hub: &Hub, new: NewRoom) -> Outcome<OwnedRoomId> {
    let env = hub.env();
    let NewRoom {
        room_id, create, alias, ..
    } = new;
    let taken = || DomainError::room_in_use("the room alias is taken");
    if let Some(alias) = &alias
        && env.store.alias(alias.as_str()).await?.is_some()
    {
        return Err(taken());
    }
    hub.rooms()
        .create(&room_id, create)
        .await
        .map_err(|error| match error.errcode() {
            // Room ids are new, so it is the alias that somebody else took meanwhile.
            Some("M_CONFLICT") if alias.is_some() => taken(),
            _ => error,
        })?;
    Ok(room_id)
}
