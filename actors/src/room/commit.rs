//! Batches of a room: look up what planning needs, plan, submit once, answer.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use entities::ids::StreamPos;
use entities::room;
use entities::store::event::Txn;
use entities::store::rows::Rows;
use ruma::{OwnedUserId, RoomVersionId};

use super::commands::{Append, Appended, Create, SetReceipt};
use super::plan::{self, Input, Needs, Origin, Plan, Prefetched, Reply};
use super::receipts::{self, Receipts};
use super::snapshot::RoomSnapshot;
use super::{agree, membership, parse, rules};
use crate::cpu::Class;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::failpoint::ROOM_BEFORE;
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

/// Planning so many drafts is quick enough for a task of the io runtime.
const INLINE_DRAFTS: usize = 8;

/// What a batch may hold.
#[derive(Debug)]
pub(super) enum Item {
    /// Events of local users.
    Append(Append),
    /// A receipt of a local user.
    Receipt(SetReceipt),
    /// Receipts of other servers' users.
    RemoteReceipts(Vec<SetReceipt>),
    /// A local user who left wants to forget the room.
    Forget(OwnedUserId),
}

/// The answer to an [`Item`].
#[derive(Debug)]
pub(super) enum Answer {
    /// To an append.
    Appended(Appended),
    /// To anything else.
    Done,
}

/// How a batch ended.
pub(super) enum End {
    /// The room now stands so.
    Settled(Arc<RoomSnapshot>, Vec<Outcome<Answer>>),
    /// What is stored may differ from the snapshot.
    InDoubt(Vec<Outcome<Answer>>),
}

/// This server as the origin of events.
#[must_use]
pub fn origin(env: &Env) -> Origin {
    Origin {
        server: env.server_name.clone(),
        key: env.key.clone(),
        rng: env.rng.clone(),
    }
}

/// Runs a batch.
pub(super) async fn run(env: &Arc<Env>, room: &Arc<RoomSnapshot>, items: Vec<Item>) -> End {
    match prepare(env, room, &items).await {
        Ok(prepared) => submit(env, room, prepared).await,
        // Nothing was written.
        Err(error) => End::Settled(room.clone(), items.iter().map(|_| Err(error.clone())).collect()),
    }
}

/// A batch before its submission.
struct Prepared {
    plan: Plan,
    receipts: Receipts,
    forgotten: Vec<OwnedUserId>,
    /// What each item will be told.
    slots: Vec<Slot>,
}

enum Slot {
    Append(Outcome<Reply>),
    Other(Outcome<()>),
}

async fn prepare(env: &Arc<Env>, room: &Arc<RoomSnapshot>, items: &[Item]) -> Outcome<Prepared> {
    let appends: Vec<Append> = items
        .iter()
        .filter_map(|item| match item {
            Item::Append(append) => Some(append.clone()),
            _ => None,
        })
        .collect();
    let wanted: Vec<&SetReceipt> = items
        .iter()
        .flat_map(|item| match item {
            Item::Receipt(receipt) => std::slice::from_ref(receipt),
            Item::RemoteReceipts(receipts) => receipts,
            _ => &[],
        })
        .collect();
    let mut receipts = receipts::look_up(env, room, &wanted).await?;
    let mut plan = agree::planned(env, room, appends).await?;
    let mut replies = std::mem::take(&mut plan.replies).into_iter();
    let mut forgotten = Vec::new();
    let slots = items
        .iter()
        .map(|item| match item {
            Item::Append(_) => Slot::Append(replies.next().expect("one reply for each append")),
            Item::Receipt(receipt) => Slot::Other(receipts.take(room, receipt, env.clock.now_ms())),
            Item::RemoteReceipts(wanted) => {
                for receipt in wanted {
                    // The user left, or the event did not get here.
                    let _passed_over = receipts.take(room, receipt, env.clock.now_ms());
                }
                Slot::Other(Ok(()))
            }
            Item::Forget(user) => {
                let answer = membership::check_forget(room, user);
                if answer.is_ok() {
                    forgotten.push(user.clone());
                }
                Slot::Other(answer)
            }
        })
        .collect();
    Ok(Prepared {
        plan,
        receipts,
        forgotten,
        slots,
    })
}

/// Plans a batch, whatever a policy server may say.
pub(super) async fn plan_appends(env: &Arc<Env>, room: &Arc<RoomSnapshot>, appends: Vec<Append>) -> Outcome<Plan> {
    let drafts: usize = appends.iter().map(|append| append.drafts.len()).sum();
    let needs = Needs::of(room, appends.iter().flat_map(|append| &append.drafts));
    let prefetched = prefetch(env, room, &needs).await?;
    let first_nid = env.ids.take(needs.nids).await?;
    let (room, origin, now) = (room.clone(), origin(env), env.clock.now_ms());
    let job = move || {
        let input = Input {
            origin: &origin,
            now,
            first_nid,
            prefetched: &prefetched,
        };
        plan::plan(&room, &appends, &input)
    };
    if drafts <= INLINE_DRAFTS {
        Ok(job())
    } else {
        env.cpu.run(Class::Plan, job).await
    }
}

/// Looks up what planning needs.
pub(super) async fn prefetch(env: &Arc<Env>, room: &RoomSnapshot, needs: &Needs) -> Outcome<Prefetched> {
    let mut seen = HashSet::new();
    let asked: Vec<_> = needs.txns.iter().filter(|key| seen.insert(*key)).collect();
    let txns = asked.iter().map(|(sender, device, txn, kind)| Txn {
        room_nid: room.nid.0,
        sender: sender.to_string(),
        device_id: device.clone(),
        txn_id: txn.clone(),
        kind: kind.clone(),
    });
    let answers = env.txns.look_up(txns.collect()).await?;
    let found = asked.into_iter().zip(answers);
    let txns = found
        .filter_map(|(key, id)| Some((key.clone(), ruma::EventId::parse(id?).ok()?)))
        .collect();
    let events = if needs.events.is_empty() {
        HashMap::new()
    } else {
        env.rooms.events_by_id(&needs.events).await?
    };
    let state_keys = if needs.state_keys.is_empty() {
        HashMap::new()
    } else {
        env.rooms.keys().intern(&needs.state_keys).await?
    };
    let events: HashMap<_, _> = events
        .into_iter()
        .filter(|(_, event)| event.room_nid == room.nid)
        .collect();
    let mut successors = Vec::new();
    for target in &needs.redacted {
        if let Some(target) = plan::find(room, target).or_else(|| events.get(target)) {
            successors.extend(env.rooms.successors(target).await?);
        }
    }
    Ok(Prefetched {
        txns,
        state_keys,
        events,
        successors,
    })
}

async fn submit(env: &Arc<Env>, room: &Arc<RoomSnapshot>, prepared: Prepared) -> End {
    let Prepared {
        plan,
        receipts,
        forgotten,
        slots,
    } = prepared;
    let others = receipts.len() + forgotten.len();
    if plan.positions == 0 && others == 0 {
        return End::Settled(room.clone(), answer(slots, StreamPos(0), room.pos));
    }
    let mut rest = Rows::default();
    let mut facts = Vec::new();
    let mut next = i64::from(plan.positions);
    receipts.write(room, &mut next, &mut rest, &mut facts);
    for user in forgotten {
        rest.forgotten.push((room.nid.0, user.to_string()));
        let kind = FactKind::Forgotten { room_nid: room.nid };
        facts.push(Fact {
            pos: StreamPos(next),
            users: Arc::from([user]),
            kind,
        });
        next += 1;
    }
    match commit(env, plan, rest, facts, next).await {
        Ok((base, newer)) => {
            let replies = answer(slots, base, room.pos);
            End::Settled(newer.unwrap_or_else(|| room.clone()), replies)
        }
        Err(error) => {
            let refused = slots.into_iter().map(|slot| match slot {
                Slot::Append(Err(own)) | Slot::Other(Err(own)) => Err(own),
                _ => Err(error.clone()),
            });
            let replies = refused.collect();
            // A full queue takes nothing; after anything else only the database knows.
            match error {
                DomainError::Overloaded { .. } => End::Settled(room.clone(), replies),
                _ => End::InDoubt(replies),
            }
        }
    }
}

fn answer(slots: Vec<Slot>, base: StreamPos, before: StreamPos) -> Vec<Outcome<Answer>> {
    let answer = |slot| match slot {
        Slot::Append(reply) => reply.map(|reply| Answer::Appended(reply.place(base, before))),
        Slot::Other(reply) => reply.map(|()| Answer::Done),
    };
    slots.into_iter().map(answer).collect()
}

/// Commits a plan and what goes with it. Answers the position of offset 0, and the new snapshot if there are new events.
pub(super) async fn commit(
    env: &Arc<Env>,
    mut plan: Plan,
    rest: Rows,
    more: Vec<Fact>,
    positions: i64,
) -> Outcome<(StreamPos, Option<Arc<RoomSnapshot>>)> {
    let mut rows = std::mem::take(&mut plan.rows);
    rows.merge(rest);
    let cache = env.rooms.clone();
    let slot = Arc::new(Mutex::new(None));
    let filled = slot.clone();
    let publish = Box::new(move |base: StreamPos| {
        let mut facts = Vec::new();
        if plan.is_news() {
            let published = plan.publish(base);
            cache.publish(&published);
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(published.snapshot);
            facts = published.facts;
        }
        facts.extend(more.into_iter().map(|fact| Fact {
            pos: StreamPos(fact.pos.0 + base.0),
            ..fact
        }));
        facts
    });
    let positions = u32::try_from(positions).unwrap_or(u32::MAX);
    env.failpoints.pass(ROOM_BEFORE);
    let base = env
        .journal
        .submit(Submission {
            rows,
            positions,
            publish,
        })
        .await?;
    let newer = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok((base, newer))
}

/// Makes a room that does not exist yet.
///
/// # Errors
/// `M_INVALID_ROOM_STATE` when the events do not pass authorization; `M_CONFLICT` when the room or an alias exists.
pub(super) async fn create(env: &Arc<Env>, room_id: &str, create: Create) -> Outcome<(Arc<RoomSnapshot>, Appended)> {
    let version = RoomVersionId::try_from(create.version.as_str());
    let known = rules::rules_of(&create.version).zip(version.ok());
    let (rules, version) =
        known.ok_or_else(|| DomainError::unsupported_room_version(format!("room version {}", create.version)))?;
    let pdu = parse::parse_pdu(&create.create_pdu, &rules, None).map_err(|e| DomainError::internal(e.to_string()))?;
    if pdu.room_id != room_id {
        return Err(DomainError::internal("the create event belongs to another room"));
    }
    let creator = pdu.sender.to_string();
    let (now, origin) = (env.clock.now_ms(), origin(env));
    let room_nid = env.ids.take(1).await?;
    let empty = plan::empty_room(entities::ids::RoomNid(room_nid), pdu.room_id.clone(), version, rules);
    let append = Append { drafts: create.drafts };
    let mut needs = Needs::of(&empty, &append.drafts);
    needs.state_keys.push((Arc::from("m.room.create"), Arc::from("")));
    // The create event and its state group.
    needs.nids += 2;
    let prefetched = prefetch(env, &empty, &needs).await?;
    let first_nid = env.ids.take(needs.nids).await?;
    let job = move || {
        let input = Input {
            origin: &origin,
            now,
            first_nid,
            prefetched: &prefetched,
        };
        plan::plan_new(empty, pdu, &append, &input)
    };
    let mut plan = env.cpu.run(Class::Plan, job).await?.map_err(invalid_state)?;
    let reply = plan.replies.pop().expect("one append was planned")?;
    let row = |(alias, creator)| entities::room_alias::Model {
        alias,
        room_id: room_id.to_owned(),
        creator,
    };
    let listed = entities::public_room::Model {
        room_id: room_id.to_owned(),
    };
    let rest = Rows {
        published: create.published.then_some(listed).into_iter().collect(),
        rooms: vec![room::Model {
            nid: room_nid,
            room_id: room_id.to_owned(),
            version: create.version,
            creator,
            created_ts: now,
        }],
        aliases: create.aliases.into_iter().map(row).collect(),
        ..Rows::default()
    };
    let positions = i64::from(plan.positions);
    let (base, snapshot) = commit(env, plan, rest, Vec::new(), positions).await?;
    let snapshot = snapshot.ok_or_else(|| DomainError::internal("a new room was not published"))?;
    Ok((snapshot, reply.place(base, StreamPos(0))))
}

/// A new room whose own events do not pass is the client's mistake, not a lack of rights.
fn invalid_state(error: DomainError) -> DomainError {
    match error {
        DomainError::Matrix { errcode, message, .. } if errcode == "M_FORBIDDEN" => {
            DomainError::matrix(400, "M_INVALID_ROOM_STATE", message)
        }
        other => other,
    }
}

#[cfg(test)]
#[path = "commit_tests.rs"]
pub(super) mod tests;
