//! The room actor: the one writer of a room.

use std::sync::Arc;

use entities::ids::RoomNid;
use futures_util::future::BoxFuture;
use ruma::{OwnedUserId, RoomId, RoomVersionId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::commands::{
    Append, Appended, Backfill, Create, Import, Imported, Ingest, OutOfRoom, PurgeHistory, Purged, SetReceipt, Verdict,
};
use super::commit::{self, Answer, End, Item};
use super::heal;
use super::import::{self, Failed};
use super::outside;
use super::plan::{self, BATCH_EVENTS};
use super::purge;
use super::receive::{self, Received};
use super::rules;
use super::snapshot::RoomSnapshot;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::supervisor::{Kind, Managed, Missing, Ran};

/// Receipts and the like that one batch takes beside its events.
const BATCH_ITEMS: usize = 200;

/// What a room can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RoomCommand {
    /// Events of local users.
    Append(Append),
    /// The room itself, which does not exist yet.
    Create(Create),
    /// Events from elsewhere.
    Ingest(Ingest),
    /// The room as another server has it.
    Import(Import),
    /// Events from before those that are here.
    Backfill(Backfill),
    /// A membership in a room that this server is not in.
    OutOfRoom(OutOfRoom),
    /// A receipt of a local user.
    Receipt(SetReceipt),
    /// Receipts of other servers' users; those that cannot be taken are passed over.
    RemoteReceipts(Vec<SetReceipt>),
    /// A local user who left wants to forget the room.
    Forget(OwnedUserId),
    /// A part of the past is deleted.
    PurgeHistory(PurgeHistory),
    /// The room is deleted, with everything that hangs on it. What is not there is no error.
    Purge,
}

/// The answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RoomReply {
    /// To [`RoomCommand::Append`] and [`RoomCommand::Create`].
    Appended(Appended),
    /// To [`RoomCommand::Ingest`] and [`RoomCommand::Backfill`].
    Ingested(Vec<Verdict>),
    /// To [`RoomCommand::Import`].
    Imported(Imported),
    /// To [`RoomCommand::PurgeHistory`].
    Purged(Purged),
    /// To everything without a result.
    Done,
}

/// The kind of actor that a room is. Its state is the room's snapshot.
#[derive(Debug)]
pub struct RoomKind;

impl Managed for RoomKind {
    const KIND: Kind = Kind::Room;
    type Env = Env;
    type State = RoomSnapshot;
    type Command = RoomCommand;
    type Reply = RoomReply;

    fn load(env: Arc<Env>, key: Arc<str>) -> BoxFuture<'static, Outcome<Option<Arc<RoomSnapshot>>>> {
        Box::pin(async move {
            match RoomId::parse(&*key) {
                Ok(room_id) => env.rooms.view(&room_id).await,
                Err(_) => Ok(None),
            }
        })
    }

    fn run(
        env: Arc<Env>,
        key: Arc<str>,
        state: Arc<RoomSnapshot>,
        batch: Vec<RoomCommand>,
    ) -> BoxFuture<'static, Ran<Self>> {
        Box::pin(async move {
            let mut items = Vec::with_capacity(batch.len());
            for command in batch {
                match command {
                    RoomCommand::Append(append) => items.push(Item::Append(append)),
                    RoomCommand::Receipt(receipt) => items.push(Item::Receipt(receipt)),
                    RoomCommand::RemoteReceipts(receipts) => items.push(Item::RemoteReceipts(receipts)),
                    RoomCommand::Forget(user) => items.push(Item::Forget(user)),
                    // These are batches of their own.
                    RoomCommand::Create(create) => return run_create(&env, &key, state, create).await,
                    RoomCommand::Ingest(ingest) => {
                        let ended = receive::receive(&env, &state, ingest).await;
                        let ended = heal::after(&env, ended).await;
                        return received(&env, &state, ended);
                    }
                    RoomCommand::Backfill(backfill) => {
                        let ended = receive::backfill(&env, &state, backfill).await;
                        return received(&env, &state, ended);
                    }
                    RoomCommand::Import(import) => {
                        let made = import::import(&env, &state, import).await;
                        let made = made.map(|made| (made.room, RoomReply::Imported(made.imported)));
                        return taken(&env, state, made);
                    }
                    RoomCommand::Purge => {
                        let replies = vec![purge::room(&env, &key).await.map(|()| RoomReply::Done)];
                        return Ran::Reload { replies };
                    }
                    RoomCommand::PurgeHistory(wanted) => {
                        let replies = vec![purge::history(&env, &state, wanted).await.map(RoomReply::Purged)];
                        return Ran::Reload { replies };
                    }
                    RoomCommand::OutOfRoom(event) => {
                        let taken_in = outside::take(&env, &state, event).await;
                        return taken(&env, state, taken_in.map(|room| (room, RoomReply::Done)));
                    }
                }
            }
            batch_of(&env, state, items).await
        })
    }

    fn batch_len<'a>(waiting: impl ExactSizeIterator<Item = &'a RoomCommand>) -> usize {
        let (mut items, mut drafts) = (0, 0);
        for command in waiting {
            let more = match command {
                RoomCommand::Append(append) => append.drafts.len(),
                RoomCommand::Receipt(_) | RoomCommand::RemoteReceipts(_) | RoomCommand::Forget(_) => 0,
                _ => return items.max(1),
            };
            if items > 0 && (drafts + more > BATCH_EVENTS || items == BATCH_ITEMS) {
                break;
            }
            items += 1;
            drafts += more;
        }
        items.max(1)
    }

    fn creates(command: &RoomCommand) -> bool {
        version_of(command).is_some()
    }

    fn fresh(_env: &Arc<Env>, key: &Arc<str>, command: &RoomCommand) -> Option<Arc<RoomSnapshot>> {
        let named = version_of(command)?;
        let version = RoomVersionId::try_from(named).ok()?;
        let room_id = RoomId::parse(&**key).ok()?;
        Some(Arc::new(plan::empty_room(
            RoomNid(0),
            room_id,
            version,
            rules::rules_of(named)?,
        )))
    }

    fn exists(state: &RoomSnapshot) -> bool {
        !state.extremities.is_empty()
    }

    fn absent(key: &str, _why: Missing, _command: &RoomCommand) -> Outcome<RoomReply> {
        Err(DomainError::not_found(format!("this server is not in the room {key}")))
    }

    fn weight(state: &RoomSnapshot) -> u64 {
        state.weight() as u64
    }

    fn observe(state: &RoomSnapshot) -> Value {
        json!({
            "room_id": state.room_id,
            "version": state.version,
            "position": state.pos.0,
            "state_group": state.state_group.0,
            "state_events": state.state.len(),
            "forward_extremities": state.extremities.iter().map(|e| e.event_id.as_str()).collect::<Vec<_>>(),
            "joined_members": state.joined_count,
            "invited_members": state.invited_count,
            "joined_local_members": state.local_joined.len(),
            "servers": state.joined_servers.len(),
        })
    }
}

/// What local users say and set, together.
async fn batch_of(env: &Arc<Env>, state: Arc<RoomSnapshot>, items: Vec<Item>) -> Ran<RoomKind> {
    let says = items.iter().any(|item| matches!(item, Item::Append(_)));
    let joined = if says {
        heal::before(env, state.clone()).await
    } else {
        Ok(state.clone())
    };
    let in_doubt = |replies| {
        env.rooms.invalidate(&state.room_id);
        Ran::Reload { replies }
    };
    let room = match joined {
        Ok(room) => room,
        Err(error) => return in_doubt(items.iter().map(|_| Err(error.clone())).collect()),
    };
    match commit::run(env, &room, items).await {
        End::Settled(state, answers) => Ran::Done {
            state,
            replies: answers.into_iter().map(reply).collect(),
        },
        End::InDoubt(answers) => in_doubt(answers.into_iter().map(reply).collect()),
    }
}

async fn run_create(env: &Arc<Env>, key: &str, state: Arc<RoomSnapshot>, create: Create) -> Ran<RoomKind> {
    if RoomKind::exists(&state) {
        let exists = Err(DomainError::conflict("the room exists already"));
        return Ran::Done {
            state,
            replies: vec![exists],
        };
    }
    match commit::create(env, key, create).await {
        Ok((state, appended)) => Ran::Done {
            state,
            replies: vec![Ok(RoomReply::Appended(appended))],
        },
        Err(error) => {
            env.rooms.invalidate(&state.room_id);
            Ran::Reload {
                replies: vec![Err(error)],
            }
        }
    }
}

/// The version of a room that a command may make.
fn version_of(command: &RoomCommand) -> Option<&str> {
    match command {
        RoomCommand::Create(create) => Some(&create.version),
        RoomCommand::Import(import) => Some(&import.version),
        RoomCommand::OutOfRoom(event) => Some(&event.version),
        // A room that this server has no state of can be deleted as well; any version will do for what is not there.
        RoomCommand::Purge => Some("1"),
        _ => None,
    }
}

/// What came of a command that may make a room.
fn taken(env: &Env, state: Arc<RoomSnapshot>, made: Result<(Arc<RoomSnapshot>, RoomReply), Failed>) -> Ran<RoomKind> {
    let (state, reply) = match made {
        Ok((room, reply)) => (room, Ok(reply)),
        Err(Failed::Refused(error)) => (state, Err(error)),
        Err(Failed::InDoubt(error)) => {
            env.rooms.invalidate(&state.room_id);
            let replies = vec![Err(error)];
            return Ran::Reload { replies };
        }
    };
    Ran::Done {
        state,
        replies: vec![reply],
    }
}

fn received(env: &Env, state: &RoomSnapshot, ended: Received) -> Ran<RoomKind> {
    match ended {
        Received::Settled(state, verdicts) => Ran::Done {
            state,
            replies: vec![verdicts.map(RoomReply::Ingested)],
        },
        Received::InDoubt(error) => {
            env.rooms.invalidate(&state.room_id);
            Ran::Reload {
                replies: vec![Err(error)],
            }
        }
    }
}

fn reply(answer: Outcome<Answer>) -> Outcome<RoomReply> {
    answer.map(|answer| match answer {
        Answer::Appended(appended) => RoomReply::Appended(appended),
        Answer::Done => RoomReply::Done,
    })
}
