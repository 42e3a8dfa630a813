//! The way to rooms from outside: reads without a message, writes through the room's actor.

use std::sync::Arc;
use std::time::Duration;

use entities::ids::RoomNid;
use ruma::{OwnedEventId, OwnedUserId, RoomId, UserId};

use super::actor::{RoomCommand, RoomKind, RoomReply};
use super::cache::Reset;
use super::commands::{
    Append, Appended, Backfill, Create, Draft, Import, Imported, Ingest, OutOfRoom, PurgeHistory, Purged, SetReceipt,
    SetTyping, Verdict,
};
use super::membership;
use super::outside;
use super::receipts;
use super::snapshot::RoomSnapshot;
use super::typing;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::policy;
use crate::supervisor::{Fabric, Handle, Settings};

/// How long an import may take, the wait for its turn included.
const IMPORT_DEADLINE: Duration = Duration::from_secs(120);
/// How long the deletion of a room may take.
const PURGE_DEADLINE: Duration = Duration::from_secs(3_600);
/// Receipts of other servers' users that one command takes.
const RECEIPTS_AT_ONCE: usize = 200;

/// All rooms. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    env: Arc<Env>,
    actors: Handle<RoomKind>,
}

impl Rooms {
    /// Starts the supervisors of rooms.
    #[must_use]
    pub fn start(fabric: &Fabric, env: Arc<Env>, settings: Settings) -> Self {
        Self {
            actors: Handle::start(fabric, env.clone(), settings),
            env,
        }
    }

    /// The actors themselves, for figures and for draining.
    #[must_use]
    pub fn actors(&self) -> &Handle<RoomKind> {
        &self.actors
    }

    /// The room as of its newest committed event; `None` for rooms this server is not and never was in.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn view(&self, room_id: &RoomId) -> Outcome<Option<Arc<RoomSnapshot>>> {
        self.env.rooms.view(room_id).await
    }

    /// The room by its number.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub async fn view_nid(&self, nid: RoomNid) -> Outcome<Option<Arc<RoomSnapshot>>> {
        self.env.rooms.view_nid(nid).await
    }

    /// The room, which must exist.
    ///
    /// # Errors
    /// `M_NOT_FOUND`; as [`Self::view`].
    pub async fn existing(&self, room_id: &RoomId) -> Outcome<Arc<RoomSnapshot>> {
        self.view(room_id)
            .await?
            .ok_or_else(|| DomainError::not_found(format!("this server is not in {room_id}")))
    }

    /// The room, as seen by somebody who is joined to it.
    ///
    /// # Errors
    /// `M_FORBIDDEN`, also for rooms that do not exist; as [`Self::view`].
    pub async fn joined(&self, room_id: &RoomId, user: &UserId) -> Outcome<Arc<RoomSnapshot>> {
        let room = self.view(room_id).await?.filter(|room| room.is_joined(user));
        room.ok_or_else(|| DomainError::forbidden(format!("you are not in {room_id}")))
    }

    async fn appended(&self, room_id: &RoomId, command: RoomCommand) -> Outcome<Appended> {
        match self.actors.ask(room_id.as_str(), command).await? {
            RoomReply::Appended(appended) => Ok(appended),
            other => Err(unexpected(&other)),
        }
    }

    async fn done(&self, room_id: &RoomId, command: RoomCommand) -> Outcome<()> {
        match self.actors.ask(room_id.as_str(), command).await? {
            RoomReply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends events of local users, all or none.
    ///
    /// # Errors
    /// `M_FORBIDDEN` with the rule that failed, `M_BAD_JSON`, `M_TOO_LARGE`, `M_NOT_FOUND` for unknown rooms and targets.
    pub async fn append(&self, room_id: &RoomId, append: Append) -> Outcome<Appended> {
        // Looked up together with what others send: it must not be refused together.
        if append.drafts.iter().any(holds_nul) {
            return Err(DomainError::invalid_param("U+0000 is not accepted"));
        }
        self.appended(room_id, RoomCommand::Append(append)).await
    }

    /// Sends one event of a local user.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub async fn send(&self, room_id: &RoomId, draft: Draft) -> Outcome<OwnedEventId> {
        let appended = self.append(room_id, Append { drafts: vec![draft] }).await?;
        let id = appended.event_ids.into_iter().next();
        id.ok_or_else(|| DomainError::internal("a draft was answered without an id"))
    }

    /// Makes a room.
    ///
    /// # Errors
    /// `M_INVALID_ROOM_STATE` when its events do not pass; `M_CONFLICT` when the room or an alias exists.
    pub async fn create(&self, room_id: &RoomId, create: Create) -> Outcome<Appended> {
        self.appended(room_id, RoomCommand::Create(create)).await
    }

    /// Takes events from elsewhere.
    ///
    /// # Errors
    /// `M_NOT_FOUND` for unknown rooms.
    pub async fn ingest(&self, room_id: &RoomId, ingest: Ingest) -> Outcome<Vec<Verdict>> {
        let ingest = policy::reviewed(&self.env, room_id, ingest).await?;
        match self.actors.ask(room_id.as_str(), RoomCommand::Ingest(ingest)).await? {
            RoomReply::Ingested(verdicts) => Ok(verdicts),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes a room over from another server, with the join of a local user that this server made with it. Takes seconds for
    /// rooms of many thousands; whoever asks the room meanwhile waits.
    ///
    /// # Errors
    /// `M_FORBIDDEN` when the join is not authorized by the given state; `M_BAD_STATE` (502) when that state is none;
    /// `M_CONFLICT` when local users are in the room already: the join then goes the way of every event.
    pub async fn import(&self, room_id: &RoomId, import: Import) -> Outcome<Imported> {
        let command = RoomCommand::Import(import);
        match self
            .actors
            .ask_within(room_id.as_str(), command, IMPORT_DEADLINE)
            .await?
        {
            RoomReply::Imported(imported) => Ok(imported),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes events from before those that are here.
    ///
    /// # Errors
    /// `M_NOT_FOUND` for unknown rooms.
    pub async fn backfill(&self, room_id: &RoomId, backfill: Backfill) -> Outcome<Vec<Verdict>> {
        match self
            .actors
            .ask(room_id.as_str(), RoomCommand::Backfill(backfill))
            .await?
        {
            RoomReply::Ingested(verdicts) => Ok(verdicts),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes an invite, a knock or the end of one of a local user, in a room that no local user is joined to. Where one is,
    /// nothing happens: the room gets the event like any other.
    ///
    /// # Errors
    /// `M_FORBIDDEN` for an event that ends no invite or knock that is pending; `M_BAD_JSON` for anything but a member event
    /// of a local user; `M_UNSUPPORTED_ROOM_VERSION`.
    pub async fn out_of_room(&self, room_id: &RoomId, event: OutOfRoom) -> Outcome<()> {
        self.done(room_id, RoomCommand::OutOfRoom(event)).await
    }

    /// Deletes a room with everything that hangs on it; whoever asks the room meanwhile waits.
    ///
    /// # Errors
    /// `Unavailable`: what is left is deleted when it is asked for again.
    pub async fn purge(&self, room_id: &RoomId) -> Outcome<()> {
        let command = RoomCommand::Purge;
        match self
            .actors
            .ask_within(room_id.as_str(), command, PURGE_DEADLINE)
            .await?
        {
            RoomReply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes a part of a room's past.
    ///
    /// # Errors
    /// `M_NOT_FOUND` for unknown rooms.
    pub async fn purge_history(&self, room_id: &RoomId, wanted: PurgeHistory) -> Outcome<Purged> {
        let command = RoomCommand::PurgeHistory(wanted);
        match self.actors.ask(room_id.as_str(), command).await? {
            RoomReply::Purged(purged) => Ok(purged),
            other => Err(unexpected(&other)),
        }
    }

    /// Moves a receipt; one that would move backwards stays.
    ///
    /// # Errors
    /// `M_FORBIDDEN` for users who are not joined, `M_NOT_FOUND` for events the room does not have, `M_INVALID_PARAM` for
    /// events of another thread.
    pub async fn set_receipt(&self, room_id: &RoomId, receipt: SetReceipt) -> Outcome<()> {
        // Members only, also of what the threads of events tell.
        self.joined(room_id, &receipt.user).await?;
        receipts::check_thread(&self.env, &receipt).await?;
        self.done(room_id, RoomCommand::Receipt(receipt)).await
    }

    /// Moves receipts of other servers' users; what cannot be taken is passed over.
    ///
    /// # Errors
    /// `M_NOT_FOUND` for unknown rooms.
    pub async fn remote_receipts(&self, room_id: &RoomId, receipts: Vec<SetReceipt>) -> Outcome<()> {
        let mut fitting = Vec::with_capacity(receipts.len());
        for receipt in receipts {
            // There is a row for each thread, so what is called one has to be one.
            match receipts::check_thread(&self.env, &receipt).await {
                Ok(()) => fitting.push(receipt),
                Err(DomainError::Matrix { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for chunk in fitting.chunks(RECEIPTS_AT_ONCE) {
            self.done(room_id, RoomCommand::RemoteReceipts(chunk.to_vec())).await?;
        }
        Ok(())
    }

    /// Notes that a user is typing, or no longer is.
    ///
    /// # Errors
    /// `M_FORBIDDEN` for users who are not joined.
    pub async fn set_typing(&self, room_id: &RoomId, notice: SetTyping) -> Outcome<()> {
        let room = self.joined(room_id, &notice.user).await?;
        typing::set(&self.env, &room, &notice.user, notice.timeout_ms).await
    }

    /// The last event since the start that changed more of the room's state than its own entry; `None` for rooms whose
    /// history knows of none.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub async fn last_reset(&self, room_id: &RoomId) -> Outcome<Option<Arc<Reset>>> {
        let room = self.view(room_id).await?;
        Ok(room.and_then(|room| self.env.rooms.last_reset(room.nid)))
    }

    /// Who is typing, and the position of the last change.
    #[must_use]
    pub fn typing(&self, room: RoomNid) -> (Vec<OwnedUserId>, entities::ids::StreamPos) {
        self.env.rooms.typing().in_room(room)
    }

    /// Forgets a room for a user who left it.
    ///
    /// # Errors
    /// `M_UNKNOWN` for users who are in the room or never were.
    pub async fn forget(&self, room_id: &RoomId, user: &UserId) -> Outcome<()> {
        let Some(room) = self.view(room_id).await? else {
            return outside::forget(&self.env, room_id, user).await;
        };
        membership::check_forget(&room, user)?;
        self.done(room_id, RoomCommand::Forget(user.to_owned())).await
    }
}

fn unexpected(reply: &RoomReply) -> DomainError {
    DomainError::internal(format!("a room answered {reply:?}"))
}

/// Whether a name holds U+0000, which no column can store; in content it is escaped.
fn holds_nul(draft: &Draft) -> bool {
    let names = [
        Some(&draft.kind),
        draft.state_key.as_ref(),
        draft.txn.as_ref().map(|(_, txn)| txn),
    ];
    names.into_iter().flatten().any(|name| name.contains('\0'))
}
