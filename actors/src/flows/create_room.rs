//! `POST /createRoom`: the room with its alias and first events in one commit, then its entry in the directory.

use ruma::api::client::room::create_room::v3::Request;
use ruma::{OwnedRoomId, OwnedUserId, UserId};

use super::{not_federated, profiles};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::commit::origin;
use crate::room::create::{self, NewRoom, Options};

/// Creates a room. Everything but the directory's entry is one commit.
///
/// # Errors
/// `M_ROOM_IN_USE`, `M_INVALID_ROOM_STATE`, `M_UNSUPPORTED_ROOM_VERSION`, `M_BAD_JSON`, `M_INVALID_PARAM`.
pub async fn create_room(hub: &Hub, creator: &UserId, request: &Request) -> Outcome<OwnedRoomId> {
    let env = hub.env();
    if let Some(remote) = request.invite.iter().find(|user| !env.is_local(user)) {
        return Err(not_federated(&format!("cannot invite {remote}")));
    }
    let users: Vec<OwnedUserId> = request.invite.iter().cloned().chain([creator.to_owned()]).collect();
    let profiles = profiles(env, &users).await?;
    let new = create::build(&Options {
        request,
        creator: &creator.to_owned(),
        profiles: &profiles,
        default_version: &env.settings.default_room_version,
        now: env.creation_ms(),
        origin: &origin(env),
    })?;
    commit(hub, new).await
}

/// Commits a built room and publishes it if it is public.
pub(super) async fn commit(hub: &Hub, new: NewRoom) -> Outcome<OwnedRoomId> {
    let env = hub.env();
    let NewRoom { room_id, create, alias } = new;
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
