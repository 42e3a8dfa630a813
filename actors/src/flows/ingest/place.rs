//! Events into their room: together where all is known, one by one where something has to be fetched before.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ruma::{OwnedEventId, OwnedServerName, RoomId};
use tokio::time::timeout;

use super::{Effort, gap, order};
use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::room::commands::{Incoming, Ingest, Verdict};
use crate::room::event::Pdu;

/// How long what one event needs may take to fetch.
const PER_EVENT: Duration = Duration::from_secs(60);
/// Events of one command.
const EVENTS_AT_ONCE: usize = 50;
/// Outliers of one command.
const OUTLIERS_AT_ONCE: usize = 100;

/// A checked event on its way into its room.
#[derive(Clone, Debug)]
pub struct Item {
    /// The event.
    pub pdu: Pdu,
    /// Who gave it.
    pub origin: OwnedServerName,
    /// Its row in staging.
    pub staged: Option<i64>,
    /// Whether this server lets it in and passes it on.
    pub relay: bool,
}

impl Item {
    fn incoming(&self) -> Incoming {
        Incoming {
            staged: self.staged,
            relay: self.relay,
            ..Incoming::of(&self.pdu)
        }
    }
}

/// What became of an event.
#[derive(Clone, Debug)]
pub enum End {
    /// It has its place. Never [`Verdict::Missing`].
    Settled(Verdict),
    /// It has none yet.
    Open {
        /// The events it waits for, if it does.
        missing: Vec<OwnedEventId>,
        /// In words.
        reason: String,
    },
    /// It will never have one.
    Hopeless(String),
}

/// Brings events into their room, parents first. What is missing for one of them is fetched.
///
/// # Errors
/// `M_NOT_FOUND` for unknown rooms; `Overloaded` when the room has too much to do: nothing more was tried then.
pub async fn place(hub: &Arc<Hub>, room_id: &RoomId, items: Vec<Item>, effort: Effort) -> Outcome<Vec<(Item, End)>> {
    let mut left = order::parents_first(items, |item| &item.pdu);
    let mut done = Vec::with_capacity(left.len());
    // Servers that did not tell in time what was missing: their other events do not wait as long once more.
    let mut slow: HashSet<OwnedServerName> = HashSet::new();
    while !left.is_empty() {
        let mut waiting = Vec::new();
        for (item, end) in together(hub, room_id, left).await? {
            match end {
                End::Open { missing, reason } if !missing.is_empty() => waiting.push((item, missing, reason)),
                end => done.push((item, end)),
            }
        }
        let mut rest = waiting.into_iter();
        for (item, missing, reason) in rest.by_ref() {
            if slow.contains(&item.origin) {
                done.push((item, End::Open { missing, reason }));
                continue;
            }
            let (end, late) = with_gap(hub, room_id, &item, missing, effort).await?;
            if late {
                slow.insert(item.origin.clone());
            }
            let settled = matches!(end, End::Settled(_));
            done.push((item, end));
            if settled {
                break;
            }
        }
        // What one needed may be all that the others needed.
        left = rest.map(|(item, ..)| item).collect();
    }
    Ok(done)
}

/// One command; where it fails, which event is the reason is found out.
pub(super) async fn together(hub: &Hub, room_id: &RoomId, items: Vec<Item>) -> Outcome<Vec<(Item, End)>> {
    let mut ends = Vec::with_capacity(items.len());
    let mut rest = items.into_iter().peekable();
    while rest.peek().is_some() {
        let chunk: Vec<Item> = rest.by_ref().take(EVENTS_AT_ONCE).collect();
        match command(hub, room_id, &chunk).await {
            Ok(verdicts) => ends.extend(chunk.into_iter().zip(verdicts.into_iter().map(end_of))),
            Err(error @ DomainError::Overloaded { .. }) => return Err(error),
            Err(error) if is_gone(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(%room_id, %error, events = chunk.len(), "events were not taken");
                for item in chunk {
                    let end = match command(hub, room_id, std::slice::from_ref(&item)).await {
                        Ok(verdicts) => verdicts.into_iter().next().map_or_else(unanswered, end_of),
                        Err(error) => end_of_error(error)?,
                    };
                    ends.push((item, end));
                }
            }
        }
    }
    Ok(ends)
}

async fn command(hub: &Hub, room_id: &RoomId, items: &[Item]) -> Outcome<Vec<Verdict>> {
    let ingest = Ingest {
        pdus: items.iter().map(Item::incoming).collect(),
        outliers: Vec::new(),
    };
    hub.rooms().ingest(room_id, ingest).await
}

fn end_of(verdict: Verdict) -> End {
    match verdict {
        Verdict::Missing(missing) => End::Open {
            reason: format!("{} events are missing", missing.len()),
            missing,
        },
        verdict => End::Settled(verdict),
    }
}

fn unanswered() -> End {
    End::Open {
        missing: Vec::new(),
        reason: "the room did not say".to_owned(),
    }
}

fn is_gone(error: &DomainError) -> bool {
    error.errcode() == Some("M_NOT_FOUND")
}

/// What an error says of a single event.
fn end_of_error(error: DomainError) -> Outcome<End> {
    match error {
        DomainError::Overloaded { .. } => Err(error),
        error if is_gone(&error) => Err(error),
        // It cannot be stored.
        DomainError::Matrix { .. } => Ok(End::Hopeless(error.to_string())),
        error => Ok(End::Open {
            missing: Vec::new(),
            reason: error.to_string(),
        }),
    }
}

/// Fetches what the event needs and brings all of it in. Also whether that took too long.
///
/// # Errors
/// As [`place`].
pub async fn with_gap(
    hub: &Hub,
    room_id: &RoomId,
    item: &Item,
    missing: Vec<OwnedEventId>,
    effort: Effort,
) -> Outcome<(End, bool)> {
    let _permit = hub.env().ingests.gaps.acquire().await;
    let room = hub.rooms().existing(room_id).await?;
    let fetching = gap::fill(hub, room, &item.origin, &item.pdu, effort);
    let open = |reason: String| End::Open { missing, reason };
    let filled = match timeout(PER_EVENT, fetching).await {
        Ok(Ok(filled)) => filled,
        Ok(Err(error)) => return Ok((open(error.to_string()), false)),
        Err(_) => return Ok((open("what is missing did not come in time".to_owned()), true)),
    };
    match hand_over(hub, room_id, filled, item).await {
        Ok(verdict) => Ok((end_of(verdict), false)),
        Err(error) => Ok((end_of_error(error)?, false)),
    }
}

/// The outliers, then the events in between, then the event. Answers what became of that one.
async fn hand_over(hub: &Hub, room_id: &RoomId, filled: Ingest, item: &Item) -> Outcome<Verdict> {
    let Ingest { mut pdus, outliers } = filled;
    tracing::debug!(
        %room_id,
        event_id = %item.pdu.event_id,
        between = pdus.len().saturating_sub(1),
        outliers = outliers.len(),
        "fetched what an event needs"
    );
    if let Some(last) = pdus.last_mut() {
        last.staged = item.staged;
        last.relay = item.relay;
    }
    for chunk in outliers.chunks(OUTLIERS_AT_ONCE) {
        let ingest = Ingest {
            pdus: Vec::new(),
            outliers: chunk.to_vec(),
        };
        hub.rooms().ingest(room_id, ingest).await?;
    }
    let mut verdict = Verdict::Missing(Vec::new());
    for chunk in pdus.chunks(EVENTS_AT_ONCE) {
        let ingest = Ingest {
            pdus: chunk.to_vec(),
            outliers: Vec::new(),
        };
        let mut verdicts = hub.rooms().ingest(room_id, ingest).await?;
        verdict = verdicts.pop().unwrap_or(verdict);
    }
    Ok(verdict)
}
