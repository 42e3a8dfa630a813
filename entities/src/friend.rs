//! One user's half of what there is between two users: who wants to be whose friend, and where they talk.

use sea_orm::entity::prelude::*;

/// A row of `friend`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "friend")]
pub struct Model {
    /// The local user whose half it is.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub friend_id: String,
    /// The number of the own stance; it only rises.
    pub own_seq: i64,
    pub own_wants: bool,
    /// The other's stance that the own one accepts; 0 for a request.
    pub own_answers: i64,
    /// What the other wanted up to this stance of theirs is void.
    pub own_voids: i64,
    pub own_message: Option<String>,
    pub own_ts: i64,
    /// The newest own stance that the other half is known to have.
    pub told_seq: i64,
    pub their_seq: i64,
    pub their_wants: bool,
    pub their_message: Option<String>,
    pub their_ts: i64,
    /// How another server's user was called when they said so last.
    pub their_name: Option<String>,
    pub their_avatar: Option<String>,
    /// Unix milliseconds; 0 unless they are friends.
    pub since_ts: i64,
    /// `normal`, `favorite` or `hidden`.
    pub status: String,
    pub note: String,
    pub room_id: Option<String>,
    /// Whether the room was made for this half.
    pub room_own: bool,
    /// Whether they have been friends in it.
    pub room_used: bool,
    /// A room that is to be left.
    pub old_room_id: Option<String>,
    /// Whether something is left to be done.
    pub due: bool,
}

/// No relations: joins are written out where they are needed.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
