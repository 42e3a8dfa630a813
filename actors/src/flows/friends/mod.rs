//! Friends. What a user wants is written by their own actor first; then this flow brings about what follows from it: the other
//! half is told, on this server or another one, and the room in which the two talk is made, entered or left.
//!
//! A half notes that something is left to be done until all of it is ([`settle`]). Every step looks whether it has been done,
//! so a death in between, or a server that is away, costs time only: the [`start`]ed task tries again until it is done.

mod receive;
mod room;
pub mod show;
mod tell;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Weak};
use std::time::Duration;

use entities::friend::Model;
use futures_util::{StreamExt as _, stream};
use ruma::{OwnedUserId, UserId};
use tokio::sync::{Mutex, MutexGuard};

pub use self::receive::{Asked, Received, accepted, friends_of, receive, relationship};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::session::friends::half::{Standing, standing};
use crate::session::friends::{MAX_TEXT, Wish};

/// Pairs of users that can be worked on at the same time, if their names do not collide.
const TURNS: usize = 1_024;
/// How long a client waits for what follows from its wish. After that it goes on by itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often what is left to be done is looked for.
const ROUND: Duration = Duration::from_secs(3);
/// Halves of one round.
const AT_ONCE: u32 = 200;
/// Halves that are worked on at the same time.
const SIDE_BY_SIDE: usize = 8;
/// The half may change while it is worked on.
const TRIES: u32 = 5;

/// One of two users at a time.
pub struct Pairs {
    turns: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Default for Pairs {
    fn default() -> Self {
        Self {
            turns: (0..TURNS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Pairs {
    async fn take(&self, pair: &Pair) -> MutexGuard<'_, ()> {
        let (low, high) = (
            pair.user.as_str().min(pair.friend.as_str()),
            pair.user.as_str().max(pair.friend.as_str()),
        );
        let turn = self.hasher.hash_one((low, high)) % TURNS as u64;
        self.turns[turn as usize].lock().await
    }
}

/// Whose half, and about whom.
#[derive(Clone, Debug)]
struct Pair {
    /// The local user.
    user: OwnedUserId,
    friend: OwnedUserId,
}

impl Pair {
    fn new(user: &UserId, friend: &UserId) -> Self {
        Self {
            user: user.to_owned(),
            friend: friend.to_owned(),
        }
    }
}

/// What became of a wish.
#[derive(Clone, Debug)]
pub struct Made {
    /// Where the two talk, once it is known.
    pub room_id: Option<String>,
    /// Whether they are friends now.
    pub are_friends: bool,
}

/// Asks somebody to be the user's friend. Whoever has been asked by them accepts with that.
///
/// # Errors
/// `M_INVALID_PARAM` for the user themselves and for messages that are too long; `M_NOT_FOUND` for users that there are not;
/// `M_CONFLICT` for friends, and while an earlier request is pending; `M_FORBIDDEN` for users whom the user has blocked.
pub async fn request(hub: &Arc<Hub>, user: &UserId, friend: &UserId, message: Option<String>) -> Outcome<Made> {
    if user == friend {
        return Err(DomainError::invalid_param("nobody is their own friend"));
    }
    if let Some(message) = &message {
        check_text("message", message)?;
    }
    if hub.env().is_local(friend) {
        let view = hub.sessions().view(friend).await?;
        view.filter(|view| !view.deactivated && !view.is_guest)
            .ok_or_else(|| DomainError::not_found("there is no such user"))?;
    }
    act(hub, user, friend, Wish::Request { message }).await
}

/// Accepts a request.
///
/// # Errors
/// `M_NOT_FOUND` without one.
pub async fn accept(hub: &Arc<Hub>, user: &UserId, friend: &UserId) -> Outcome<Made> {
    act(hub, user, friend, Wish::Accept).await
}

/// Ends what there is: rejects a request, takes one back, removes a friend.
///
/// # Errors
/// `M_NOT_FOUND` where there is something else.
pub async fn end(hub: &Arc<Hub>, user: &UserId, friend: &UserId, expected: Standing) -> Outcome<()> {
    act(hub, user, friend, Wish::End(expected)).await.map(|_| ())
}

/// Sets the note about a friend.
///
/// # Errors
/// `M_INVALID_PARAM` for notes that are too long; `M_NOT_FOUND` for others than friends.
pub async fn set_note(hub: &Hub, user: &UserId, friend: &UserId, note: String) -> Outcome<()> {
    check_text("note", &note)?;
    hub.sessions()
        .befriend(user, friend, Wish::Note(note))
        .await
        .map(|_| ())
}

/// Ends all that a user, who is gone, has with others. In the background.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn end_all(hub: &Arc<Hub>, user: &UserId) -> Outcome<()> {
    for half in hub.env().store.friends(user.as_str()).await? {
        let Ok(friend) = UserId::parse(&half.friend_id) else {
            continue;
        };
        let wish = Wish::End(standing(&half));
        match hub.sessions().befriend(user, &friend, wish).await {
            // It has ended meanwhile.
            Ok(_) | Err(DomainError::Matrix { .. }) => settle_soon(hub, Pair::new(user, &friend)),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn check_text(what: &str, text: &str) -> Outcome<()> {
    if text.chars().count() > MAX_TEXT || text.contains('\0') {
        let message = format!("a {what} has at most {MAX_TEXT} characters, and no U+0000");
        return Err(DomainError::invalid_param(message));
    }
    Ok(())
}

/// Writes what the user wants, and waits a while for what follows from it.
async fn act(hub: &Arc<Hub>, user: &UserId, friend: &UserId, wish: Wish) -> Outcome<Made> {
    let mut half = hub.sessions().befriend(user, friend, wish).await?;
    if half.due {
        let (working, pair) = (hub.clone(), Pair::new(user, friend));
        let work = hub.env().io.spawn(async move { settle(&working, &pair).await });
        // What could not be done yet is done later.
        if let Ok(Ok(Err(refused @ DomainError::Matrix { .. }))) = tokio::time::timeout(PATIENCE, work).await {
            return Err(refused);
        }
        let now = hub.env().store.friend(user.as_str(), friend.as_str()).await?;
        half = now.unwrap_or(half);
    }
    Ok(Made {
        are_friends: standing(&half) == Standing::Friends,
        room_id: half.room_id,
    })
}

/// Does in the background what is left to be done.
fn settle_soon(hub: &Arc<Hub>, pair: Pair) {
    let weak = Arc::downgrade(hub);
    hub.env().io.spawn(async move {
        let Some(hub) = weak.upgrade() else { return };
        try_to_settle(&hub, &pair).await;
    });
}

async fn try_to_settle(hub: &Arc<Hub>, pair: &Pair) {
    if let Err(error) = settle(hub, pair).await {
        tracing::debug!(user = %pair.user, friend = %pair.friend, %error, "a friendship is not settled yet");
    }
}

/// Does what is left to be done about one half.
///
/// # Errors
/// What the other server says to a request of one that there is nobody to take; `Unavailable` where something has to be tried
/// again later.
async fn settle(hub: &Arc<Hub>, pair: &Pair) -> Outcome<()> {
    let _turn = hub.env().pairs.take(pair).await;
    let mut refusal = None;
    for _ in 0..TRIES {
        let Some(half) = stored(hub, pair).await?.filter(|half| half.due) else {
            return refusal.map_or(Ok(()), Err);
        };
        let is_gone = hub
            .sessions()
            .view(&pair.user)
            .await?
            .is_none_or(|view| view.deactivated);
        room::leave_old(hub, pair, &half, is_gone).await?;
        let half = if is_gone {
            half
        } else {
            room::made(hub, pair, half).await?
        };
        if let Some(refused) = tell::tell(hub, pair, &half).await? {
            refusal = Some(refused);
            continue;
        }
        if !is_gone {
            room::enter(hub, pair, &half).await?;
        }
        let now = stored(hub, pair).await?;
        if let Some(now) = now.filter(|now| stage(now) == stage(&half) && now.old_room_id.is_none()) {
            let done = Wish::Settled(Box::new(now));
            hub.sessions().befriend(&pair.user, &pair.friend, done).await?;
        }
    }
    Err(DomainError::unavailable("a friendship does not come to rest"))
}

async fn stored(hub: &Hub, pair: &Pair) -> Outcome<Option<Model>> {
    Ok(hub.env().store.friend(pair.user.as_str(), pair.friend.as_str()).await?)
}

/// What the steps go by.
fn stage(half: &Model) -> (i64, bool, i64, bool, Option<&str>) {
    (
        half.own_seq,
        half.own_wants,
        half.their_seq,
        half.their_wants,
        half.room_id.as_deref(),
    )
}

/// Does from now on, until the hub ends, whatever is left to be done anywhere.
pub fn start(hub: &Arc<Hub>) {
    hub.env().io.spawn(run(Arc::downgrade(hub)));
}

async fn run(weak: Weak<Hub>) {
    let mut after = (String::new(), String::new());
    let mut ended = false;
    while let Some(hub) = weak.upgrade().filter(|hub| !hub.is_draining()) {
        ended = ended || end_of_the_gone(&hub).await.is_ok();
        if let Err(error) = round(&hub, &mut after).await {
            tracing::warn!(%error, "friendships are not settled for now");
        }
        drop(hub);
        tokio::time::sleep(ROUND).await;
    }
}

/// Ends what a stop has left of users who are gone.
async fn end_of_the_gone(hub: &Arc<Hub>) -> Outcome<()> {
    for user in hub.env().store.friends_of_deactivated().await? {
        if let Ok(user) = UserId::parse(user) {
            end_all(hub, &user).await?;
        }
    }
    Ok(())
}

/// The next of all halves with something left to be done; after the last one the first comes again.
async fn round(hub: &Arc<Hub>, after: &mut (String, String)) -> Outcome<()> {
    let due = hub.env().store.friends_due((&after.0, &after.1), AT_ONCE).await?;
    *after = match due.last() {
        Some(last) if due.len() == AT_ONCE as usize => (last.user_id.clone(), last.friend_id.clone()),
        _ => (String::new(), String::new()),
    };
    let pairs = due.iter().filter_map(|half| {
        Some(Pair {
            user: UserId::parse(&half.user_id).ok()?,
            friend: UserId::parse(&half.friend_id).ok()?,
        })
    });
    let settle = |pair: Pair| async move { try_to_settle(hub, &pair).await };
    stream::iter(pairs).for_each_concurrent(SIDE_BY_SIDE, settle).await;
    Ok(())
}
