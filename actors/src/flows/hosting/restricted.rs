//! Joins that the membership in another room allows (server-server API, "Restricted rooms").

use ruma::{OwnedUserId, UserId};

use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::export::access;
use crate::room::membership;
use crate::room::snapshot::RoomSnapshot;

/// The user of this server in whose name a user of another one is let in; `None` where nobody needs to vouch.
///
/// # Errors
/// 403 `M_FORBIDDEN` for users who meet no condition; 400 `M_UNABLE_TO_AUTHORISE_JOIN` where this server cannot tell, 400
/// `M_UNABLE_TO_GRANT_JOIN` where it can and nobody here may invite.
pub(super) async fn authorizer(hub: &Hub, room: &RoomSnapshot, user: &UserId) -> Outcome<Option<OwnedUserId>> {
    let Some(rooms) = membership::allowing_rooms(room) else {
        return Ok(None);
    };
    if matches!(room.membership(user).as_str(), "join" | "invite" | "ban") {
        // Who is banned is told so by the authorization rules.
        return Ok(None);
    }
    let env = hub.env();
    let mut all_known = true;
    for room_id in rooms {
        let known = env.rooms.view(&room_id).await?;
        let known = known.filter(|known| access::is_in(known, &env.server_name));
        match known {
            Some(known) if known.is_joined(user) => {
                let unable = || {
                    let message = format!("nobody on {} may invite to {}", env.server_name, room.room_id);
                    DomainError::matrix(400, "M_UNABLE_TO_GRANT_JOIN", message)
                };
                return membership::authorizer(room, &env.server_name)
                    .map(Some)
                    .ok_or_else(unable);
            }
            Some(known) => all_known &= !env.store.is_partial_room(known.nid.0).await?,
            None => all_known = false,
        }
    }
    if all_known {
        let message = format!("{user} is in none of the rooms whose members may join {}", room.room_id);
        return Err(DomainError::forbidden(message));
    }
    let message = format!(
        "this server does not know all rooms whose members may join {}",
        room.room_id
    );
    Err(DomainError::matrix(400, "M_UNABLE_TO_AUTHORISE_JOIN", message))
}
