//! Events from elsewhere, before a room with a policy server gets them.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use ruma::{OwnedEventId, RoomId};

use super::{Policy, ask, is_exempt};
use crate::cpu::Class;
use crate::env::Env;
use crate::error::Outcome;
use crate::room::commands::{Incoming, Ingest};
use crate::room::event::{Pdu, Status};
use crate::room::parse;
use crate::room::snapshot::RoomSnapshot;

/// Events that one policy server is asked about at the same time.
const AT_ONCE: usize = 16;

/// Marks the events that the room's policy server does not recommend; those that it signs when it is asked get its signature.
///
/// # Errors
/// `Unavailable` when the database does not answer; `Overloaded` when too much waits to be checked.
pub async fn reviewed(env: &Arc<Env>, room_id: &RoomId, mut ingest: Ingest) -> Outcome<Ingest> {
    let Some(room) = env.rooms.view(room_id).await? else {
        return Ok(ingest);
    };
    let Some(policy) = Policy::of(&room).filter(|_| !ingest.pdus.is_empty()) else {
        return Ok(ingest);
    };
    let ids: Vec<OwnedEventId> = ingest.pdus.iter().map(|incoming| incoming.event_id.clone()).collect();
    let stored = env.rooms.events_by_id(&ids).await?;
    let is_open = |incoming: &Incoming| {
        let event = stored.get(&incoming.event_id);
        event.is_none_or(|event| event.status == Status::Outlier)
    };
    let open = ingest.pdus.iter().enumerate().filter(|(_, incoming)| is_open(incoming));
    let open: Vec<(usize, Incoming)> = open.map(|(at, incoming)| (at, incoming.clone())).collect();
    let (by, rules) = (policy.clone(), room.rules.clone());
    let job = move || {
        let lacks = |(at, incoming): (usize, Incoming)| Some((at, lacking(&by, &rules, incoming)?));
        open.into_iter().filter_map(lacks).collect::<Vec<_>>()
    };
    let lacking = env.cpu.run(Class::Verify, job).await?;
    let asked = stream::iter(lacking).map(|(at, pdu)| look(env, &room, &policy, at, pdu));
    let answers: Vec<(usize, Option<String>)> = asked.buffer_unordered(AT_ONCE).collect().await;
    for (at, signed) in answers {
        match signed {
            Some(json) => ingest.pdus[at].json = json,
            None => ingest.pdus[at].withheld = true,
        }
    }
    Ok(ingest)
}

/// The event, if it should have the policy server's signature and has not. What cannot be read has no place in the room anyway.
fn lacking(policy: &Policy, rules: &ruma::room_version_rules::RoomVersionRules, incoming: Incoming) -> Option<Pdu> {
    let pdu = parse::pdu_from_checked(&incoming.json, rules, incoming.event_id).ok()?;
    let object = parse::canonical(&incoming.json).ok()?;
    let lacks = !is_exempt(&pdu.kind, pdu.state_key.as_deref()) && !policy.recommends(&object, rules);
    lacks.then_some(pdu)
}

async fn look(env: &Env, room: &RoomSnapshot, policy: &Policy, at: usize, pdu: Pdu) -> (usize, Option<String>) {
    let signed = match ask(env, room, policy, &pdu).await {
        Ok(object) => serde_json::to_string(&object).ok(),
        Err(error) => {
            let (room_id, event_id) = (&room.room_id, &pdu.event_id);
            tracing::info!(%room_id, %event_id, via = %policy.via, %error, "the policy server does not recommend an event");
            None
        }
    };
    (at, signed)
}
