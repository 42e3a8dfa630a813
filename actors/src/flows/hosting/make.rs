//! Templates of member events: `make_join`, `make_leave`, `make_knock`.

use ruma::canonical_json::CanonicalJsonObject;
use ruma::{RoomId, RoomVersionId, ServerName, UserId};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Step, restricted};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::export::{access, template};
use crate::room::snapshot::RoomSnapshot;

/// A template that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The server that asks.
    pub origin: &'a ServerName,
    /// The room.
    pub room_id: &'a RoomId,
    /// The user, of that server.
    pub user: &'a UserId,
    /// What for.
    pub step: Step,
    /// The room versions that the server can take part in, where they matter.
    pub versions: Option<&'a [RoomVersionId]>,
}

/// An event to be completed and signed by the server that asked for it.
#[derive(Clone, Debug, Serialize)]
pub struct Template {
    /// The room's version.
    pub room_version: RoomVersionId,
    /// The event.
    pub event: CanonicalJsonObject,
}

/// Makes a template.
///
/// # Errors
/// 404 `M_NOT_FOUND` for rooms this server is not in; 400 `M_INCOMPATIBLE_ROOM_VERSION`; 403 `M_FORBIDDEN` with the reason;
/// for restricted rooms also 400 `M_UNABLE_TO_AUTHORISE_JOIN` and `M_UNABLE_TO_GRANT_JOIN`.
pub async fn make(hub: &Hub, asked: &Asked<'_>) -> Outcome<Template> {
    if asked.user.server_name() != asked.origin {
        let message = format!("{} is no user of {}", asked.user, asked.origin);
        return Err(DomainError::forbidden(message));
    }
    let env = hub.env();
    let room = access::complete(env, asked.room_id, asked.origin).await?;
    if let Some(versions) = asked.versions
        && !versions.contains(&room.version)
    {
        return Err(incompatible(&room));
    }
    let mut content = Map::from_iter([("membership".to_owned(), Value::from(asked.step.membership()))]);
    match asked.step {
        Step::Join => {
            if let Some(user) = restricted::authorizer(hub, &room, asked.user).await? {
                content.insert("join_authorised_via_users_server".to_owned(), user.to_string().into());
            }
        }
        Step::Knock if !room.rules.authorization.knocking => {
            return Err(DomainError::forbidden("this room's version has no knocking"));
        }
        Step::Knock | Step::Leave => {}
    }
    let event = template::own_membership(env, &room, asked.user, &content).await?;
    Ok(Template {
        room_version: room.version.clone(),
        event,
    })
}

fn incompatible(room: &RoomSnapshot) -> DomainError {
    let message = format!("your server does not support room version {}", room.version);
    DomainError::matrix(400, "M_INCOMPATIBLE_ROOM_VERSION", message).with("room_version", room.version.as_str())
}
