//! What a server tells of a room when it lets somebody in: checked before any of it is believed.
//!
//! Spec: server-server API, `PUT /_matrix/federation/v2/send_join`; "Checks performed on receipt of a PDU".

use std::collections::HashSet;
use std::sync::Arc;

use ruma::api::federation::membership::create_join_event::v2::RoomState;
use ruma::room_version_rules::RoomVersionRules;
use ruma::{OwnedEventId, RoomVersionId, ServerName};
use serde_json::value::RawValue;

use super::ask::bad_answer;
use super::cosign;
use crate::env::Env;
use crate::error::Outcome;
use crate::flows::ingest::order::auth_first;
use crate::flows::ingest::verify::{name, prove};
use crate::room::commands::{Import, Incoming};
use crate::room::event::Pdu;
use crate::room::{parse, rules};

/// Events of one answer.
const MAX_EVENTS: usize = 1_000_000;

/// The join that was sent.
#[derive(Debug)]
pub struct Sent<'a> {
    /// Who answers.
    pub server: &'a ServerName,
    /// The room's version, as the template said.
    pub version: &'a RoomVersionId,
    /// Its rules.
    pub rules: &'a Arc<RoomVersionRules>,
    /// The event.
    pub join: &'a Pdu,
}

/// Verifies an answer: the signatures of all events, that they are of the room, that there is a create event of the right
/// version, and that whoever vouches for the join has signed it. Bad events are left out; what the others are worth is for the
/// room to judge.
///
/// # Errors
/// 502 `M_UNKNOWN` for answers that cannot be used; `Overloaded`, `Unavailable`.
pub async fn check(env: &Arc<Env>, sent: &Sent<'_>, answer: RoomState) -> Outcome<Import> {
    let RoomState {
        members_omitted,
        auth_chain,
        state,
        event,
        ..
    } = answer;
    // Nobody asked for that: what is missing would count as not being so.
    if members_omitted {
        return Err(bad_answer(&"members are left out"));
    }
    let join = vouched(env, sent, event).await?;
    if state.len() + auth_chain.len() > MAX_EVENTS {
        return Err(bad_answer(&"too many events"));
    }
    let (ids, mut events) = verified(env, sent, state, auth_chain).await?;
    let state = state_of(sent, &ids, &events)?;
    // Every event rests on it, also where none names it (since version 12).
    events.sort_by_key(|event| !event.is_state("m.room.create", ""));
    Ok(Import {
        version: sent.version.to_string(),
        state,
        events: auth_first(events, |pdu: &Pdu| pdu).iter().map(Incoming::of).collect(),
        join: Incoming::of(&join),
        partial: None,
    })
}

/// The join with the signature of the server whose user vouches for it.
async fn vouched(env: &Arc<Env>, sent: &Sent<'_>, signed: Option<Box<RawValue>>) -> Outcome<Pdu> {
    let object = parse::canonical(&sent.join.json).map_err(|error| bad_answer(&error))?;
    let mut servers = parse::required_servers(&object, sent.rules).map_err(|error| bad_answer(&error))?;
    servers.remove(&env.server_name);
    let mut join = sent.join.clone();
    for server in servers {
        let Some(signed) = &signed else {
            return Err(bad_answer(&format!("{server} has not signed the join")));
        };
        join = cosign::cosigned(env, sent.rules, &join, signed, &server).await?;
    }
    Ok(join)
}

/// The ids of the state events, and all good events, each once.
async fn verified(
    env: &Arc<Env>,
    sent: &Sent<'_>,
    mut state: Vec<Box<RawValue>>,
    chain: Vec<Box<RawValue>>,
) -> Outcome<(Vec<OwnedEventId>, Vec<Pdu>)> {
    let known: HashSet<&str> = state.iter().map(|event| event.get()).collect();
    let chain: Vec<_> = chain.into_iter().filter(|event| !known.contains(event.get())).collect();
    drop(known);
    let of_state = state.len();
    state.extend(chain);
    let (mut ids, mut named) = (Vec::with_capacity(of_state), Vec::new());
    let mut seen = HashSet::new();
    let mut bad = 0_usize;
    for (at, event) in name(env, sent.rules, state).await?.into_iter().enumerate() {
        let Ok(event) = event else {
            bad += 1;
            continue;
        };
        if at < of_state {
            ids.push(event.event_id.clone());
        }
        if seen.insert(event.event_id.clone()) {
            named.push(event);
        }
    }
    let mut events = Vec::with_capacity(named.len());
    for event in prove(env, sent.rules, named).await? {
        match event {
            Ok(event) if event.room_id == sent.join.room_id => events.push(event),
            _ => bad += 1,
        }
    }
    if bad > 0 {
        tracing::warn!(room_id = %sent.join.room_id, server = %sent.server, bad, "a server told bad events of a room");
    }
    Ok((ids, events))
}

/// The ids of the state events that are good; they must make up a state.
fn state_of(sent: &Sent<'_>, ids: &[OwnedEventId], events: &[Pdu]) -> Outcome<Vec<OwnedEventId>> {
    let wanted: HashSet<&OwnedEventId> = ids.iter().collect();
    let mut keys = HashSet::new();
    let mut state = Vec::with_capacity(ids.len());
    let mut create = None;
    for event in events.iter().filter(|event| wanted.contains(&event.event_id)) {
        let Some(key) = event.state_key.as_deref() else {
            return Err(bad_answer(&format!("{} is no state", event.event_id)));
        };
        if !keys.insert((event.kind.to_string(), key)) {
            return Err(bad_answer(&format!("the state has two events ({}, {key})", event.kind)));
        }
        if event.is_state("m.room.create", "") {
            create = Some(event);
        }
        state.push(event.event_id.clone());
    }
    let create = create.ok_or_else(|| bad_answer(&"the state has no create event"))?;
    let version = rules::version_of_create(&create.content).map_err(|error| bad_answer(&error))?;
    if version != *sent.version {
        return Err(bad_answer(&format!(
            "the room's version is {version}, not {}",
            sent.version
        )));
    }
    Ok(state)
}
