//! Events from elsewhere, placed into their room one after the other and committed together.
//!
//! Spec: server-server API, "Checks performed on receipt of a PDU". What events depend on is read at the beginning, for all
//! of them at once; most follow the room as it is and then need nothing more ([`linear`]). The others are placed one by one
//! ([`branch`]).

mod apply;
mod arrive;
mod branch;
mod gaps;
mod groups;
mod linear;
mod past;
mod prefetch;
mod redact;
mod work;

use std::collections::VecDeque;
use std::sync::Arc;

use ruma::OwnedEventId;
use ruma::events::TimelineEventType;

use super::commands::{Backfill, Incoming, Ingest, Verdict};
use super::event::{Pdu, Status};
use super::fault::{Rule, is_broken};
use super::library::Library;
use super::snapshot::{RoomSnapshot, StateKey};
use super::{auth, ingest, parse};
use crate::cpu::Class;
use crate::error::{DomainError, Outcome};
pub(super) use arrive::{Arrival, Outside, arrive, outside};
use work::Work;

/// Placing so many events that follow the room as it is is quick enough for a task of the io runtime.
const INLINE: usize = 8;

/// How an [`Ingest`] or a [`Backfill`] ended.
pub(super) enum Received {
    /// The room now stands so.
    Settled(Arc<RoomSnapshot>, Outcome<Vec<Verdict>>),
    /// What is stored may differ from the snapshot.
    InDoubt(DomainError),
}

/// Takes events from elsewhere into the room.
pub(super) async fn receive(library: &impl Library, room: &Arc<RoomSnapshot>, ingest: Ingest) -> Received {
    let mut receiver = Receiver::new(library, room);
    let verdicts = receiver.all(ingest).await;
    receiver.settle(room, verdicts).await
}

/// Takes events from before those that are here.
pub(super) async fn backfill(library: &impl Library, room: &Arc<RoomSnapshot>, backfill: Backfill) -> Received {
    let mut receiver = Receiver::new(library, room);
    let verdicts = receiver.history(backfill).await;
    receiver.settle(room, verdicts).await
}

/// An event to be placed.
struct Item {
    pdu: Arc<Pdu>,
    /// The state keys that authorize it.
    keys: Vec<StateKey>,
    /// The state before it, as another server tells it.
    state_before: Option<Arc<[OwnedEventId]>>,
    /// Whether this server let it in and passes it on.
    relay: bool,
    /// Whether the room's policy server does not recommend it.
    withheld: bool,
}

/// One that cannot even be read has a reason instead.
type Parsed = Result<Item, String>;

/// A command being worked on.
struct Receiver<'a, L> {
    library: &'a L,
    /// Away only while another thread works on it.
    work: Option<Box<Work>>,
}

impl<'a, L: Library> Receiver<'a, L> {
    fn new(library: &'a L, room: &Arc<RoomSnapshot>) -> Self {
        Self {
            library,
            work: Some(Box::new(Work::new(room, library.server().clone()))),
        }
    }

    fn work(&mut self) -> &mut Work {
        self.work.as_mut().expect("a job that failed ended the command")
    }

    /// Lets a job work on the room, on the CPU pool.
    async fn on_cpu<T: Send + 'static>(
        &mut self,
        class: Class,
        job: impl FnOnce(&mut Work) -> T + Send + 'static,
    ) -> Outcome<T> {
        let mut work = self.work.take().expect("a job that failed ended the command");
        let (work, result) = self
            .library
            .compute(class, move || {
                let result = job(&mut work);
                (work, result)
            })
            .await?;
        self.work = Some(work);
        Ok(result)
    }

    /// Commits, unless something went wrong before.
    async fn settle(self, room: &Arc<RoomSnapshot>, verdicts: Outcome<Vec<Verdict>>) -> Received {
        let verdicts = match verdicts {
            Ok(verdicts) => verdicts,
            // Nothing was written.
            Err(error) => return Received::Settled(room.clone(), Err(error)),
        };
        let work = self.work.expect("a job that failed ended the command");
        let reset = work.reset.clone();
        let plan = work.finish();
        if plan.rows.is_empty() {
            return Received::Settled(room.clone(), Ok(verdicts));
        }
        match self.library.commit(plan).await {
            Ok((_, newer)) => {
                if let Some(reset) = reset {
                    self.library.note_reset(room, reset);
                }
                Received::Settled(newer.unwrap_or_else(|| room.clone()), Ok(verdicts))
            }
            Err(error @ DomainError::Overloaded { .. }) => Received::Settled(room.clone(), Err(error)),
            Err(error) => Received::InDoubt(error),
        }
    }

    async fn all(&mut self, ingest: Ingest) -> Outcome<Vec<Verdict>> {
        let staged: Vec<Option<i64>> = ingest.pdus.iter().map(|incoming| incoming.staged).collect();
        let (items, outliers) = self.parse(ingest.pdus, ingest.outliers).await?;
        self.prefetch(&items, &outliers).await?;
        self.outliers(&outliers)?;
        let mut verdicts = Vec::with_capacity(items.len());
        let mut rest = VecDeque::from(items);
        while !rest.is_empty() {
            let quick = rest.len() <= INLINE;
            let job = move |work: &mut Work| {
                let verdicts = run(work, &mut rest);
                (verdicts, rest)
            };
            let (placed, left) = if quick {
                job(self.work())
            } else {
                self.on_cpu(Class::Plan, job).await?
            };
            verdicts.extend(placed?);
            rest = left;
            if let Some(Ok(item)) = rest.pop_front() {
                verdicts.push(self.branch(&item).await?);
            }
        }
        let is_settled = |verdict: &Verdict| !matches!(verdict, Verdict::Missing(_));
        let done = staged.iter().zip(&verdicts).filter(|(_, verdict)| is_settled(verdict));
        let done = done.filter_map(|(staged, _)| *staged);
        self.work().out.rows.staged_done.extend(done);
        self.work().close_holes();
        Ok(verdicts)
    }

    /// Reads the texts.
    async fn parse(&mut self, pdus: Vec<Incoming>, outliers: Vec<Incoming>) -> Outcome<(Vec<Parsed>, Vec<Arc<Pdu>>)> {
        let quick = pdus.len() + outliers.len() <= INLINE;
        let job = move |work: &mut Work| {
            let items = pdus.into_iter().map(|incoming| read(&work.room, incoming)).collect();
            let outliers = outliers.into_iter();
            let outliers = outliers.filter_map(|incoming| Some(read(&work.room, incoming).ok()?.pdu));
            (items, ingest::after_their_auth_events(outliers.collect()))
        };
        if quick {
            Ok(job(self.work()))
        } else {
            self.on_cpu(Class::Plan, job).await
        }
    }

    /// Stores events that others need for their auth chains, but those that are known or whose own auth events are not.
    fn outliers(&mut self, outliers: &[Arc<Pdu>]) -> Outcome<()> {
        let work = self.work();
        for pdu in outliers {
            let known = |id: &ruma::EventId| work.stored.get(id).map(|event| event.pdu.clone());
            if work.stored.contains_key(&pdu.event_id) || pdu.auth_events.iter().any(|id| known(id).is_none()) {
                continue;
            }
            let status = match ingest::check_by_auth_events(pdu, &work.room.rules, known) {
                Ok(()) => Status::Outlier,
                Err(reason) => {
                    tracing::info!(event_id = %pdu.event_id, %reason, "an outlier was rejected");
                    Status::Rejected
                }
            };
            work.hide(pdu, status, None)?;
        }
        Ok(())
    }
}

/// Places events as long as they follow the room as it is. The first that does not is left at the front.
fn run(work: &mut Work, rest: &mut VecDeque<Parsed>) -> Outcome<Vec<Verdict>> {
    let mut verdicts = Vec::with_capacity(rest.len());
    while let Some(next) = rest.front() {
        let verdict = match next {
            Err(reason) => Some(Verdict::Rejected(reason.clone())),
            Ok(item) => match standing(work, &item.pdu) {
                Some(verdict) => Some(verdict),
                None => work.linear(item)?,
            },
        };
        let Some(verdict) = verdict else { break };
        verdicts.push(verdict);
        rest.pop_front();
    }
    Ok(verdicts)
}

/// What is decided without looking at the room.
fn standing(work: &Work, pdu: &Pdu) -> Option<Verdict> {
    let known = work.stored.get(&pdu.event_id);
    if known.is_some_and(|event| event.status != Status::Outlier) && !is_broken(Rule::Duplicates) {
        return Some(Verdict::Duplicate);
    }
    let create = pdu.kind == TimelineEventType::RoomCreate;
    create.then(|| Verdict::Rejected("a room has only one create event".to_owned()))
}

fn read(room: &RoomSnapshot, incoming: Incoming) -> Parsed {
    let Incoming {
        json,
        event_id,
        state_before,
        relay,
        withheld,
        ..
    } = incoming;
    let pdu = parse::pdu_from_checked(&json, &room.rules, event_id).map_err(|e| e.to_string())?;
    if pdu.room_id != room.room_id {
        return Err("it belongs to another room".to_owned());
    }
    let kind = pdu.kind.to_string();
    let keys = auth::auth_keys(&kind, &pdu.sender, pdu.state_key.as_deref(), &pdu.content, &room.rules);
    let keys = keys.unwrap_or_default().into_iter();
    Ok(Item {
        keys: keys.map(|(kind, key)| super::resolve::state_key(&kind, &key)).collect(),
        pdu: Arc::new(pdu),
        state_before,
        relay,
        withheld,
    })
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "past_tests.rs"]
mod past_tests;

#[cfg(test)]
#[path = "order_tests.rs"]
mod order_tests;
