//! What one user's half of a friendship becomes. Pure.
//!
//! Each of the two keeps a *stance*: whether they want it, under a number that only rises. Both keep the other's newest stance
//! as well, and are friends while both want it. Stances may arrive late, twice or not in order, and several may be told as
//! the last one; both halves come to say the same all the same:
//! - a stance makes void what the other wanted up to a number (who rejects or removes does so);
//! - a stance that accepts counts only while the one that it accepts stands.

use entities::friend::Model;
use ruma::UserId;
use serde::{Deserialize, Serialize};

use crate::clock::Millis;
use crate::error::{DomainError, Outcome};

/// What a user wants of another, as the other's half is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stance {
    /// Its number among those of its user about the other.
    pub seq: i64,
    /// Whether they want to be friends.
    pub wants: bool,
    /// The other's stance that it accepts; 0 for a request.
    #[serde(default)]
    pub answers: i64,
    /// What the other wanted up to this stance of theirs is void.
    #[serde(default)]
    pub voids: i64,
    /// When it was taken, Unix milliseconds.
    #[serde(default)]
    pub ts: Millis,
    /// Where they are to talk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_id: Option<String>,
    /// What the user says to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How the user is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The user's picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
}

/// What there is between two users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Both want it.
    Friends,
    /// The other has asked.
    Incoming,
    /// The user has asked.
    Outgoing,
    /// Neither.
    Strangers,
}

/// A half where there is nothing yet.
#[must_use]
pub fn fresh(user: &UserId, friend: &UserId) -> Model {
    Model {
        user_id: user.to_string(),
        friend_id: friend.to_string(),
        own_seq: 0,
        own_wants: false,
        own_answers: 0,
        own_voids: 0,
        own_message: None,
        own_ts: 0,
        told_seq: 0,
        their_seq: 0,
        their_wants: false,
        their_message: None,
        their_ts: 0,
        their_name: None,
        their_avatar: None,
        since_ts: 0,
        status: NORMAL.to_owned(),
        note: String::new(),
        room_id: None,
        room_own: false,
        room_used: false,
        old_room_id: None,
        due: false,
    }
}

/// The status of a friend of whom nothing else was said.
pub const NORMAL: &str = "normal";

/// What there is between the two.
#[must_use]
pub fn standing(half: &Model) -> Standing {
    match (half.own_wants, half.their_wants) {
        (true, true) => Standing::Friends,
        (false, true) => Standing::Incoming,
        (true, false) => Standing::Outgoing,
        (false, false) => Standing::Strangers,
    }
}

/// The own stance, for the other's half.
#[must_use]
pub fn stance(half: &Model) -> Stance {
    Stance {
        seq: half.own_seq,
        wants: half.own_wants,
        answers: half.own_answers,
        voids: half.own_voids,
        ts: half.own_ts,
        room_id: half.room_id.clone().filter(|_| half.own_wants),
        message: half.own_message.clone(),
        ..Stance::default()
    }
}

/// The user asks the other. Who has been asked by the other accepts with that.
///
/// # Errors
/// `M_CONFLICT` for friends, and while an earlier request is pending.
pub fn request(half: &mut Model, message: Option<String>, now: Millis) -> Outcome<()> {
    match standing(half) {
        Standing::Friends => return Err(DomainError::conflict("you are friends already")),
        Standing::Outgoing => return Err(DomainError::conflict("a request is pending already")),
        Standing::Incoming => return accept(half, now),
        Standing::Strangers => {}
    }
    take(half, true, now);
    half.own_message = message;
    Ok(())
}

/// The user accepts the other's request. Nothing changes among friends.
///
/// # Errors
/// `M_NOT_FOUND` without a request.
pub fn accept(half: &mut Model, now: Millis) -> Outcome<()> {
    match standing(half) {
        Standing::Friends => return Ok(()),
        Standing::Incoming => {}
        Standing::Outgoing | Standing::Strangers => return Err(no_request()),
    }
    take(half, true, now);
    half.own_answers = half.their_seq;
    befriend(half, now);
    Ok(())
}

/// The user ends what `expected` says there is: rejects, takes a request back, or removes a friend.
///
/// # Errors
/// `M_NOT_FOUND` where there is something else.
pub fn end(half: &mut Model, expected: Standing, now: Millis) -> Outcome<()> {
    if standing(half) != expected || expected == Standing::Strangers {
        return Err(match expected {
            Standing::Friends => DomainError::not_found("you are not friends"),
            _ => no_request(),
        });
    }
    take(half, false, now);
    half.own_voids = half.own_voids.max(half.their_seq);
    half.their_wants = false;
    half.their_message = None;
    part(half);
    Ok(())
}

/// The other's half could not be told of the stance `seq`: there is no such user. Tells whether that ended a request.
pub fn refused(half: &mut Model, seq: i64) -> bool {
    half.told_seq = half.told_seq.max(seq);
    if half.own_seq != seq || !half.own_wants {
        return false;
    }
    half.own_wants = false;
    half.own_message = None;
    half.their_wants = false;
    half.their_message = None;
    part(half);
    true
}

/// Takes in a stance of the other's. Tells whether it was news.
pub fn hear(half: &mut Model, told: &Stance, now: Millis) -> bool {
    if told.seq <= half.their_seq {
        return false;
    }
    half.their_seq = told.seq;
    let overtaken = half.own_answers != 0 && half.own_answers < told.seq;
    if half.own_wants && (told.voids >= half.own_seq || overtaken) {
        half.own_wants = false;
        half.own_answers = 0;
        half.own_message = None;
    }
    let stands = told.answers == 0 || half.own_wants && told.answers == half.own_seq;
    half.their_wants = told.wants && stands;
    half.their_message = told.message.clone().filter(|_| half.their_wants);
    half.their_ts = told.ts.clamp(0, now);
    half.their_name.clone_from(&told.display_name);
    half.their_avatar.clone_from(&told.avatar_url);
    half.due = true;
    if half.their_wants {
        adopt_room(half, told.room_id.as_deref());
    }
    match standing(half) {
        Standing::Friends => befriend(half, now),
        // Who has asked by themselves goes on asking, and keeps the room.
        Standing::Outgoing | Standing::Incoming => half.since_ts = 0,
        Standing::Strangers => part(half),
    }
    true
}

/// The room that the two talk in from now on, unless another one came between.
pub fn set_room(half: &mut Model, expected: Option<&str>, room_id: String, own: bool) -> bool {
    if half.room_id.as_deref() != expected || !half.own_wants {
        return false;
    }
    half.room_id = Some(room_id);
    half.room_own = own;
    half.room_used = standing(half) == Standing::Friends;
    half.due = true;
    true
}

/// Which of two rooms is given up when both users have made one: both halves must choose the same.
fn adopt_room(half: &mut Model, theirs: Option<&str>) {
    let Some(theirs) = theirs.filter(|theirs| half.room_id.as_deref() != Some(*theirs)) else {
        return;
    };
    let keeps_own = half.own_wants && half.room_id.is_some() && half.user_id < half.friend_id;
    if !keeps_own {
        give_up_room(half);
        half.room_id = Some(theirs.to_owned());
        half.room_own = false;
    }
}

fn take(half: &mut Model, wants: bool, now: Millis) {
    half.own_seq = now.max(half.own_seq + 1);
    half.own_wants = wants;
    half.own_answers = 0;
    half.own_message = None;
    half.own_ts = now;
    half.due = true;
}

fn befriend(half: &mut Model, now: Millis) {
    if half.since_ts == 0 {
        half.since_ts = half.own_ts.max(half.their_ts).clamp(1, now.max(1));
    }
    half.room_used |= half.room_id.is_some();
}

/// Neither wants it any more. A room in which they have been friends stays; one made for a request alone is left.
fn part(half: &mut Model) {
    half.since_ts = 0;
    half.status = NORMAL.to_owned();
    half.note = String::new();
    half.due = true;
    if !half.room_used {
        give_up_room(half);
    }
}

fn give_up_room(half: &mut Model) {
    let given_up = half.room_id.take();
    if !half.room_used && given_up.is_some() {
        half.old_room_id = given_up;
    }
    half.room_own = false;
    half.room_used = false;
}

fn no_request() -> DomainError {
    DomainError::not_found("there is no such friend request")
}
