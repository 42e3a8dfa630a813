//! The end of an account: its devices and private data, then its rooms. What a stop interrupts goes on with the next start.

use std::sync::Arc;

use ruma::{RoomId, UserId};

use super::friends;
use super::membership::{Change, change};
use crate::error::Outcome;
use crate::hub::Hub;
use crate::room::membership::Action;

/// Ends an account for ever. Its rooms are left in the background.
///
/// # Errors
/// `M_NOT_FOUND` for unknown users; `Unavailable` when the database does not answer.
pub async fn deactivate(hub: &Arc<Hub>, user: &UserId, erase: bool) -> Outcome<()> {
    hub.sessions().deactivate(user, erase).await?;
    friends::end_all(hub, user).await?;
    let rooms = hub.env().store.rooms_to_leave_of(user.as_str()).await?;
    let user = user.as_str().to_owned();
    leave_in_background(hub, rooms.into_iter().map(|room| (user.clone(), room)).collect());
    Ok(())
}

/// Leaves the rooms that deactivated users are still in.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn resume(hub: &Arc<Hub>) -> Outcome<()> {
    leave_in_background(hub, hub.env().store.rooms_to_leave().await?);
    Ok(())
}

/// One after the other: nobody waits for it.
fn leave_in_background(hub: &Arc<Hub>, left: Vec<(String, String)>) {
    if left.is_empty() {
        return;
    }
    let weak = Arc::downgrade(hub);
    hub.env().io.spawn(async move {
        for (user, room) in left {
            // The server is stopping: the next start goes on.
            let Some(hub) = weak.upgrade() else { return };
            if let Err(error) = leave(&hub, &user, &room).await {
                tracing::warn!(%error, user, room, "a deactivated user stays in a room for now");
            }
        }
    });
}

async fn leave(hub: &Hub, user: &str, room: &str) -> Outcome<()> {
    let (Ok(user), Ok(room)) = (UserId::parse(user), RoomId::parse(room)) else {
        return Ok(());
    };
    let leaving = Change {
        room_id: &room,
        sender: &user,
        target: &user,
        reason: None,
    };
    change(hub, &leaving, Action::Leave).await
}
