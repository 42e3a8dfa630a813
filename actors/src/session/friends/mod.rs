//! Friends: what a user's own actor does about them. Everything that takes two users is a flow
//! ([`crate::flows::friends`]), which tells each of the two halves through the actor that owns it.

pub mod data;
pub mod half;
mod write;

use entities::friend::Model;
use ruma::{OwnedRoomId, OwnedUserId};

use self::data::Statuses;
use self::half::{Stance, Standing};
use self::write::Change;
use super::commands::{SessionCommand, SessionReply};
use super::handle::{Sessions, mixed_up};
use super::view::UserView;
use crate::clock::Millis;
use crate::env::Env;
use crate::error::{DomainError, Outcome};

/// Friends and pending requests of one user.
const MAX_FRIENDS: usize = 1_000;
/// Requests that wait for one user's answer.
const MAX_INCOMING: usize = 500;
/// Characters of a request's message and of a note.
pub const MAX_TEXT: usize = 1_000;

/// What can be asked about one friend, or somebody who might become one.
#[derive(Clone, Debug)]
pub struct FriendCommand {
    /// Who.
    pub friend: OwnedUserId,
    /// What.
    pub wish: Wish,
}

/// See [`FriendCommand`].
#[derive(Clone, Debug)]
pub enum Wish {
    /// To become friends.
    Request {
        /// What the other is told with it.
        message: Option<String>,
    },
    /// To accept the other's request.
    Accept,
    /// To end what there is: to reject, to take a request back, to remove a friend.
    End(Standing),
    /// To set the note about a friend, which the other never sees.
    Note(String),
    /// To set how a friend is treated.
    Status(Status),
    /// To take in what the other wants.
    Hear(Box<Stance>),
    /// The other's half has been told of the stance.
    Told(i64),
    /// The other's half cannot be told: there is no such user.
    Refused(i64),
    /// To talk in this room from now on.
    SetRoom {
        /// The room until now.
        instead_of: Option<String>,
        /// The room.
        room_id: OwnedRoomId,
        /// Whether it is made for this.
        own: bool,
    },
    /// The room that was to be left is left.
    RoomLeft(String),
    /// To have the room among the user's direct chats with the other, or not.
    MarkDirect {
        /// The room.
        room_id: String,
        /// Whether it is to be there.
        listed: bool,
    },
    /// Nothing is left to be done about this half, as it was when somebody looked.
    Settled(Box<Model>),
}

/// How a user treats a friend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Like everybody.
    Normal,
    /// Above others.
    Favorite,
    /// Other servers are not told of the friendship.
    Hidden,
    /// Ignored (client-server API, "Ignoring Users"): no requests, invites or messages.
    Blocked,
}

impl Status {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => half::NORMAL,
            Self::Favorite => "favorite",
            Self::Hidden => "hidden",
            Self::Blocked => "blocked",
        }
    }

    /// By its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Normal, Self::Favorite, Self::Hidden, Self::Blocked]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

/// The answer: the half as it is now.
pub type FriendReply = Option<Box<Model>>;

/// Does one command; the view comes back where it changed.
///
/// # Errors
/// `M_NOT_FOUND`, `M_CONFLICT` as [`half`] has them; `M_TOO_LARGE` for more friends than there may be; `M_FORBIDDEN` for a
/// request to somebody whom the user ignores; `Overloaded` while too many requests wait; `Unavailable`.
pub async fn run(env: &Env, view: &UserView, command: FriendCommand) -> Outcome<(FriendReply, Option<UserView>)> {
    let FriendCommand { friend, wish } = command;
    let stored = env.store.friend(view.user_id.as_str(), friend.as_str()).await?;
    let mut half = stored.clone().unwrap_or_else(|| half::fresh(&view.user_id, &friend));
    let mut change = Change::default();
    apply(env, view, &friend, wish, (&mut half, &mut change)).await?;
    if stored.as_ref() != Some(&half) && (stored.is_some() || half != half::fresh(&view.user_id, &friend)) {
        change.half = Some(half.clone());
    }
    let changed = write::write(env, view, change).await?;
    Ok((Some(Box::new(half)), changed))
}

async fn apply(
    env: &Env,
    view: &UserView,
    friend: &OwnedUserId,
    wish: Wish,
    (half, change): (&mut Model, &mut Change),
) -> Outcome<()> {
    let now = env.clock.now_ms();
    match wish {
        Wish::Request { message } => {
            if view.ignored.contains(friend) {
                return Err(DomainError::forbidden("you have blocked this user"));
            }
            make_place(env, half).await?;
            half::request(half, message, now)
        }
        // What a blocked user asked for is not shown.
        Wish::Accept if half::standing(half) == Standing::Incoming && view.ignored.contains(friend) => {
            Err(DomainError::not_found("there is no such friend request"))
        }
        Wish::Accept => {
            make_place(env, half).await?;
            half::accept(half, now)
        }
        Wish::End(expected) => half::end(half, expected, now),
        Wish::Note(note) => {
            require_friend(half)?;
            half.note = note;
            Ok(())
        }
        Wish::Status(status) => set_status(env, view, friend, status, (half, change)).await,
        Wish::Hear(told) => hear(env, view, half, &told, now).await,
        Wish::Told(seq) => {
            half.told_seq = half.told_seq.max(seq);
            Ok(())
        }
        Wish::Refused(seq) => {
            half::refused(half, seq);
            Ok(())
        }
        Wish::SetRoom {
            instead_of,
            room_id,
            own,
        } => {
            half::set_room(half, instead_of.as_deref(), room_id.into(), own);
            Ok(())
        }
        Wish::RoomLeft(room_id) => {
            half.old_room_id.take_if(|old| *old == room_id);
            Ok(())
        }
        Wish::MarkDirect { room_id, listed } => {
            change
                .entries
                .extend(data::mark_direct(env, view, friend, &room_id, listed).await?);
            Ok(())
        }
        Wish::Settled(seen) => {
            half.due &= *seen != *half;
            Ok(())
        }
    }
}

async fn hear(env: &Env, view: &UserView, half: &mut Model, told: &Stance, now: Millis) -> Outcome<()> {
    if view.deactivated {
        return Err(super::kind::unknown_user());
    }
    if told.wants {
        make_place_for_theirs(env, half).await?;
    }
    half::hear(half, told, now);
    Ok(())
}

/// Refuses one more friend, or request to somebody, than there may be.
async fn make_place(env: &Env, half: &Model) -> Outcome<()> {
    if !half.own_wants && count(env, half, true).await? >= MAX_FRIENDS {
        return Err(DomainError::too_large("you have too many friends and requests"));
    }
    Ok(())
}

/// Refuses one more request that waits for the user than there may be.
async fn make_place_for_theirs(env: &Env, half: &Model) -> Outcome<()> {
    if !half.own_wants && !half.their_wants && count(env, half, false).await? >= MAX_INCOMING {
        return Err(DomainError::Overloaded { retry_after_ms: 60_000 });
    }
    Ok(())
}

async fn count(env: &Env, half: &Model, own: bool) -> Outcome<usize> {
    let all = env.store.friends(&half.user_id).await?;
    Ok(all.iter().filter(|half| half.own_wants == own).count())
}

fn require_friend(half: &Model) -> Outcome<()> {
    match half::standing(half) {
        Standing::Friends => Ok(()),
        _ => Err(DomainError::not_found("you are not friends")),
    }
}

/// Whom a user has blocked is who they ignore, so that every client can tell. Anybody can be blocked, and taken off again.
async fn set_status(
    env: &Env,
    view: &UserView,
    friend: &OwnedUserId,
    status: Status,
    (half, change): (&mut Model, &mut Change),
) -> Outcome<()> {
    let blocked = view.ignored.contains(friend);
    let unblocks = blocked && status == Status::Normal;
    if status != Status::Blocked && !unblocks {
        require_friend(half)?;
    }
    if status != Status::Blocked && half::standing(half) == Standing::Friends {
        status.as_str().clone_into(&mut half.status);
    }
    if blocked != (status == Status::Blocked) {
        let ignored = data::ignore(env, view, friend, status == Status::Blocked).await?;
        change.ignored = Some(ignored);
    }
    Ok(())
}

/// The status of a friend, as the user sees it.
#[must_use]
pub fn status_of(view: &UserView, half: &Model) -> &'static str {
    Statuses { view }.of(half)
}

/// Whether a request is shown to the user whom it waits for.
#[must_use]
pub fn is_shown(view: &UserView, half: &Model) -> bool {
    Statuses { view }.of(half) != Status::Blocked.as_str()
}

/// The user's list of friends is to say what it ought to: for when somebody is ignored or not any more.
///
/// # Errors
/// `Unavailable`.
pub async fn refresh(env: &Env, view: &UserView) -> Outcome<()> {
    write::write(env, view, Change::default()).await.map(|_| ())
}

impl Sessions {
    /// Asks the user's actor about a friend; the answer is the user's half.
    ///
    /// # Errors
    /// As [`run`]; `M_NOT_FOUND` for unknown users.
    pub async fn befriend(&self, user: &ruma::UserId, friend: &ruma::UserId, wish: Wish) -> Outcome<Model> {
        let command = FriendCommand {
            friend: friend.to_owned(),
            wish,
        };
        match self.ask(user, SessionCommand::Friends(command)).await? {
            SessionReply::Friends(Some(half)) => Ok(*half),
            _ => Err(mixed_up()),
        }
    }
}

#[cfg(test)]
mod half_tests;
