//! The events of a transaction, before anything is stored: which can be staged, and what to say of the others.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ruma::room_version_rules::RoomVersionRules;
use ruma::{EventId, OwnedEventId, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{DomainError, Outcome};
use crate::flows::ingest::verify::{self, Flaw, Named};
use crate::hub::Hub;
use crate::room::acl;
use crate::room::commands::{Incoming, OutOfRoom};
use crate::room::event::{Pdu, Status};
use crate::room::rules::rules_of;
use crate::room::snapshot::RoomSnapshot;

const NOT_HERE: &str = "this server is not in the room";

/// What became of a transaction's events.
#[derive(Default)]
pub struct Sorted {
    /// By event. Those whose id cannot be told are left out.
    pub results: BTreeMap<OwnedEventId, Result<(), String>>,
    /// Room by room, in the order sent.
    pub good: Vec<Pdu>,
}

impl Sorted {
    fn flawed(&mut self, origin: &ServerName, flaw: Flaw) {
        let Flaw { event_id, reason } = flaw;
        let shown = event_id.as_deref().map_or("?", EventId::as_str);
        tracing::debug!(%origin, event_id = shown, reason, "an event was refused");
        if let Some(id) = event_id {
            self.results.entry(id).or_insert(Err(reason));
        }
    }
}

#[derive(Deserialize)]
struct Head {
    room_id: Option<String>,
}

/// Checks the events of a transaction (steps 1 to 3 of the checks on receipt, and whether the server may send them).
///
/// # Errors
/// `Overloaded` and `Unavailable` when nothing could be checked.
pub async fn sort(hub: &Arc<Hub>, origin: &ServerName, pdus: Vec<Box<RawValue>>) -> Outcome<Sorted> {
    let mut by_room: BTreeMap<String, Vec<Box<RawValue>>> = BTreeMap::new();
    for pdu in pdus {
        let room_id = serde_json::from_str::<Head>(pdu.get())
            .ok()
            .and_then(|head| head.room_id);
        by_room.entry(room_id.unwrap_or_default()).or_default().push(pdu);
    }
    let mut sorted = Sorted::default();
    for (room_id, pdus) in by_room {
        room(hub, origin, &room_id, pdus, &mut sorted).await?;
    }
    Ok(sorted)
}

async fn room(
    hub: &Arc<Hub>,
    origin: &ServerName,
    room_id: &str,
    pdus: Vec<Box<RawValue>>,
    sorted: &mut Sorted,
) -> Outcome<()> {
    let room = match RoomId::parse(room_id) {
        Ok(room_id) => hub.rooms().view(&room_id).await?,
        Err(_) => None,
    };
    match room {
        Some(room) if room.local_joined.is_empty() => outside(hub, origin, room_id, pdus, sorted).await,
        Some(room) => inside(hub, origin, &room, pdus, sorted).await,
        None => outside(hub, origin, room_id, pdus, sorted).await,
    }
}

/// Events of a room that this server is in.
async fn inside(
    hub: &Arc<Hub>,
    origin: &ServerName,
    room: &RoomSnapshot,
    pdus: Vec<Box<RawValue>>,
    sorted: &mut Sorted,
) -> Outcome<()> {
    let named = verify::name(hub.env(), &room.rules, pdus).await?;
    let let_in = acl::allows(room, origin);
    let mut open = Vec::with_capacity(named.len());
    for one in named {
        match one {
            Ok(one) if let_in => open.push(one),
            Ok(one) => sorted.flawed(
                origin,
                flaw(one.event_id, "the room's access control list keeps your server out"),
            ),
            Err(flaw) => sorted.flawed(origin, flaw),
        }
    }
    let open = without_known(hub, room, open, sorted).await?;
    for one in verify::prove(hub.env(), &room.rules, open).await? {
        match one {
            Ok(pdu) if pdu.room_id != room.room_id => sorted.flawed(origin, flaw(pdu.event_id, "it names two rooms")),
            Ok(pdu) => {
                sorted.results.insert(pdu.event_id.clone(), Ok(()));
                sorted.good.push(pdu);
            }
            Err(flaw) => sorted.flawed(origin, flaw),
        }
    }
    Ok(())
}

/// Events of a room that this server is not in: of interest is only what ends an invite or a knock of a local user.
async fn outside(
    hub: &Arc<Hub>,
    origin: &ServerName,
    room_id: &str,
    pdus: Vec<Box<RawValue>>,
    sorted: &mut Sorted,
) -> Outcome<()> {
    let known = hub.env().store.room_by_id(room_id).await?;
    let known = known.and_then(|row| Some((rules_of(&row.version)?, row.version)));
    let rules = match &known {
        Some((rules, _)) => rules.clone(),
        None => Arc::new(guessed_rules(room_id)),
    };
    let mut open = Vec::new();
    for one in verify::name(hub.env(), &rules, pdus).await? {
        match one {
            Ok(one) if known.is_some() => open.push(one),
            Ok(one) => sorted.flawed(origin, flaw(one.event_id, NOT_HERE)),
            Err(flaw) => sorted.flawed(origin, flaw),
        }
    }
    let Some((_, version)) = known else { return Ok(()) };
    for one in verify::prove(hub.env(), &rules, open).await? {
        let pdu = match one {
            Ok(pdu) => pdu,
            Err(flaw) => {
                sorted.flawed(origin, flaw);
                continue;
            }
        };
        let result = match ends_membership(hub, &pdu) {
            true => end_membership(hub, &pdu, &version).await?,
            false => Err(NOT_HERE.to_owned()),
        };
        sorted.results.insert(pdu.event_id, result);
    }
    Ok(())
}

fn ends_membership(hub: &Hub, pdu: &Pdu) -> bool {
    let target = pdu.state_key.as_deref().and_then(|user| UserId::parse(user).ok());
    let ends = pdu.has_membership("leave") || pdu.has_membership("ban");
    ends && target.is_some_and(|user| hub.env().is_local(&user))
}

async fn end_membership(hub: &Hub, pdu: &Pdu, version: &str) -> Outcome<Result<(), String>> {
    let event = OutOfRoom {
        version: version.to_owned(),
        event: Incoming::of(pdu),
        stripped: Vec::new(),
    };
    match hub.rooms().out_of_room(&pdu.room_id, event).await {
        Ok(()) => Ok(Ok(())),
        Err(error @ DomainError::Matrix { .. }) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

fn flaw(event_id: OwnedEventId, reason: &str) -> Flaw {
    Flaw {
        event_id: Some(event_id),
        reason: reason.to_owned(),
    }
}

/// The version of an unknown room is not known. The newest rules name nearly every event as its server does, and the name
/// serves only to say that it was not taken.
fn guessed_rules(room_id: &str) -> RoomVersionRules {
    // Since version 12 a room is named after its create event, without a server.
    match room_id.contains(':') {
        true => RoomVersionRules::V11,
        false => RoomVersionRules::V12,
    }
}

/// What has its place already, or is in the transaction twice, needs no more checks.
async fn without_known(hub: &Hub, room: &RoomSnapshot, named: Vec<Named>, sorted: &mut Sorted) -> Outcome<Vec<Named>> {
    let ids: Vec<OwnedEventId> = named.iter().map(|one| one.event_id.clone()).collect();
    let stored = hub.env().rooms.events_by_id(&ids).await?;
    let placed = |id: &OwnedEventId| {
        let event = stored.get(id);
        event.is_some_and(|event| event.room_nid == room.nid && event.status != Status::Outlier)
    };
    let mut seen = HashSet::new();
    let mut rest = Vec::with_capacity(named.len());
    for one in named {
        if placed(&one.event_id) {
            sorted.results.insert(one.event_id, Ok(()));
        } else if seen.insert(one.event_id.clone()) {
            rest.push(one);
        }
    }
    Ok(rest)
}
