//! A changed profile: first the profile itself, then the user's member events in every room it is in. The change notes that
//! rooms are to be told; the note goes once all have been, so that a start goes on with what a stop interrupted.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use entities::ids::RoomNid;
use ruma::{OwnedUserId, UserId};
use serde_json::Value;

use crate::error::{DomainError, Outcome};
use crate::failpoint::PROFILE_ROOM;
use crate::hub::Hub;
use crate::room::commands::Append;
use crate::room::membership::{Profile, profile_change};
use crate::session::commands::SessionCommand;
use crate::session::data::{DataCommand, is_shown};

/// Tries for one room whose actor is busy or starting.
const TRIES: u32 = 5;
/// The pause before the second try; it doubles.
const PAUSE: Duration = Duration::from_millis(250);

/// Users whose rooms are being told, and whether there is news since that began.
#[derive(Default)]
pub struct Spreading {
    users: DashMap<OwnedUserId, bool>,
}

impl Spreading {
    /// Whether the caller is to begin; otherwise whoever is at it goes round once more.
    fn begin(&self, user: &UserId) -> bool {
        let mut begun = false;
        self.users
            .entry(user.to_owned())
            .and_modify(|again| *again = true)
            .or_insert_with(|| {
                begun = true;
                false
            });
        begun
    }

    /// Whether the round that ends was the last.
    fn end(&self, user: &UserId) -> bool {
        self.users.remove_if(user, |_, again| !*again).is_some() || {
            if let Some(mut again) = self.users.get_mut(user) {
                *again = false;
            }
            false
        }
    }
}

/// Sets or removes a profile field. Its rooms learn of a name or an avatar in the background.
///
/// # Errors
/// `M_INVALID_PARAM`, `M_KEY_TOO_LARGE`, `M_PROFILE_TOO_LARGE`, `Unavailable`.
pub async fn set_field(hub: &Arc<Hub>, user: &UserId, name: String, value: Option<Value>) -> Outcome<()> {
    let shown = is_shown(&name);
    let command = SessionCommand::Data(DataCommand::SetProfileField { name, value });
    hub.sessions().ask(user, command).await?;
    if shown && hub.env().spreading.begin(user) {
        let (hub, user) = (hub.clone(), user.to_owned());
        hub.env().io.clone().spawn(async move { go_round(&hub, &user).await });
    }
    Ok(())
}

/// Goes on with what the last stop interrupted, one user after the other, in the background.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn resume(hub: &Arc<Hub>) -> Outcome<()> {
    let open = hub.env().store.profile_spreads().await?;
    if open.is_empty() {
        return Ok(());
    }
    let weak = Arc::downgrade(hub);
    hub.env().io.spawn(async move {
        for noted in open {
            let Some(hub) = weak.upgrade() else { return };
            let Ok(user) = UserId::parse(noted.user_id) else {
                continue;
            };
            if hub.env().spreading.begin(&user) {
                go_round(&hub, &user).await;
            }
        }
    });
    Ok(())
}

/// Until there is no news any more.
async fn go_round(hub: &Hub, user: &UserId) {
    loop {
        if let Err(error) = spread(hub, user).await {
            tracing::warn!(%user, %error, "not all rooms show the new profile, the next start tries again");
        }
        if hub.env().spreading.end(user) {
            return;
        }
    }
}

/// Brings the user's member events up to date.
async fn spread(hub: &Hub, user: &UserId) -> Outcome<()> {
    let store = &hub.env().store;
    // First, so that a change made meanwhile stays noted.
    let change = store.profile_spread(user.as_str()).await?;
    let rooms = store.memberships_of_user(user.as_str(), Some(&["join"])).await?;
    let mut failed = None;
    for (membership, _) in rooms {
        if let Err(error) = tell(hub, user, RoomNid(membership.room_nid)).await {
            failed = Some(error);
        }
    }
    match (failed, change) {
        (Some(error), _) => Err(error),
        (None, Some(change)) => Ok(store.end_profile_spread(user.as_str(), change).await?),
        (None, None) => Ok(()),
    }
}

async fn tell(hub: &Hub, user: &UserId, room: RoomNid) -> Outcome<()> {
    let mut pause = PAUSE;
    for attempt in 1..=TRIES {
        match tell_once(hub, user, room).await {
            Err(DomainError::Overloaded { .. } | DomainError::Unavailable { .. }) if attempt < TRIES => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            // The room's rules forbid it (who is banned meanwhile, say): nothing to be done.
            Err(DomainError::Matrix { .. }) => return Ok(()),
            outcome => return outcome,
        }
    }
    Ok(())
}

/// The profile is read again for each room: the newest one counts.
async fn tell_once(hub: &Hub, user: &UserId, room: RoomNid) -> Outcome<()> {
    let Some(view) = hub.sessions().view(user).await?.filter(|view| !view.deactivated) else {
        return Ok(());
    };
    let Some(room) = hub.rooms().view_nid(room).await? else {
        return Ok(());
    };
    let profile = Profile {
        displayname: view.displayname(),
        avatar_url: view.avatar_url(),
    };
    if let Some(draft) = profile_change(&room, user, &profile) {
        hub.env().failpoints.pass(PROFILE_ROOM);
        hub.rooms()
            .append(&room.room_id, Append { drafts: vec![draft] })
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma::user_id;

    #[test]
    fn news_during_a_round_make_another_one() {
        let spreading = Spreading::default();
        let user = user_id!("@a:x");
        assert!(spreading.begin(user));
        assert!(!spreading.begin(user));
        assert!(!spreading.begin(user));
        assert!(!spreading.end(user));
        assert!(spreading.end(user));
        assert!(spreading.begin(user));
    }
}
