//! What relates to an event, told with it under `unsigned.m.relations` (client-server API, "Aggregations of child
//! events"): its newest edit, its thread, the events that refer to it.
//!
//! Relations come after what they point to, so for events within a snapshot's tail the tail itself tells; only for older
//! ones the database is asked.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use entities::ids::{EventNid, StreamPos};
use entities::store::relation::Targets;
use ruma::{OwnedEventId, OwnedUserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::event::{StoredEvent, relation_of};
use super::render::{Extras, RoomIdField, Viewer, client_event};
use super::snapshot::RoomSnapshot;
use super::visibility::filter_visible;
use crate::env::Env;
use crate::error::Outcome;

/// References told with the events of one answer at most.
const MAX_REFERENCES: u32 = 500;

/// For whom events are rendered.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// The environment.
    pub env: &'a Env,
    /// The reader.
    pub viewer: &'a Viewer,
    /// Whose events the reader does not want.
    pub ignored: &'a HashSet<OwnedUserId>,
    /// Relations up to here count.
    pub upto: StreamPos,
}

/// The objects under `m.relations` by event.
#[derive(Debug, Default)]
pub struct Bundles(HashMap<OwnedEventId, String>);

impl Bundles {
    /// What is known of the event besides itself.
    #[must_use]
    pub fn extras(&self, event: &StoredEvent) -> Extras<'_> {
        Extras {
            relations: self.0.get(&event.pdu.event_id).map(String::as_str),
            membership: None,
        }
    }
}

#[derive(Default)]
struct Found {
    edits: Vec<Arc<StoredEvent>>,
    thread: Option<Thread>,
    references: Vec<OwnedEventId>,
}

struct Thread {
    count: u64,
    own: bool,
    latest: Arc<StoredEvent>,
}

type AllFound = HashMap<OwnedEventId, Found>;

/// Events of one room as the reader gets them.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn client_events(
    reader: Reader<'_>,
    room: &RoomSnapshot,
    events: &[Arc<StoredEvent>],
    room_id: RoomIdField,
) -> Outcome<Vec<Box<RawValue>>> {
    let bundles = bundles(reader, room, events).await?;
    let render = |event: &Arc<StoredEvent>| client_event(event, reader.viewer, room_id, bundles.extras(event));
    Ok(events.iter().map(render).collect())
}

/// What is bundled with events of one room.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn bundles(reader: Reader<'_>, room: &RoomSnapshot, events: &[Arc<StoredEvent>]) -> Outcome<Bundles> {
    let mut found = find(reader, room, events).await?;
    if found.is_empty() {
        return Ok(Bundles::default());
    }
    // The newest event of a thread is shown whole, with its own edits.
    let latest: Vec<_> = found
        .values()
        .filter_map(|f| Some(f.thread.as_ref()?.latest.clone()))
        .collect();
    let inner = if latest.is_empty() {
        AllFound::new()
    } else {
        find(reader, room, &latest).await?
    };
    let inner = latest
        .iter()
        .filter_map(|event| {
            Some((
                event.pdu.event_id.clone(),
                bundle(reader, event, inner.get(event.event_id())?, None)?,
            ))
        })
        .collect();
    let inner = Bundles(inner);
    let mut bundles = HashMap::new();
    for event in events {
        if let Some(found) = found.remove(event.event_id())
            && let Some(text) = bundle(reader, event, &found, Some(&inner))
        {
            bundles.insert(event.pdu.event_id.clone(), text);
        }
    }
    Ok(Bundles(bundles))
}

/// Everything that relates to the events. State events carry no bundles.
async fn find(reader: Reader<'_>, room: &RoomSnapshot, events: &[Arc<StoredEvent>]) -> Outcome<AllFound> {
    let tail = match room.timeline.front().and_then(|event| event.pos) {
        _ if room.timeline_complete => StreamPos(i64::MIN),
        Some(oldest) => oldest,
        None => StreamPos(i64::MAX),
    };
    let candidates = events.iter().filter(|event| event.pdu.state_key.is_none());
    let (recent, older): (Vec<_>, Vec<_>) = candidates.partition(|event| event.pos.is_some_and(|pos| pos >= tail));
    let mut found = in_tail(reader, room, &recent);
    if !older.is_empty() {
        let ids: Vec<String> = older.iter().map(|event| event.event_id().to_string()).collect();
        in_store(reader, room, &ids, &mut found).await?;
    }
    hide(reader, room, &mut found).await?;
    Ok(found)
}

/// Takes out what the reader may not see, such as an edit that was made while it was away.
async fn hide(reader: Reader<'_>, room: &RoomSnapshot, found: &mut AllFound) -> Outcome<()> {
    let latest = |found: &Found| found.thread.as_ref().map(|thread| thread.latest.clone());
    let told = found.values().flat_map(|f| f.edits.iter().cloned().chain(latest(f)));
    let told: Vec<_> = told.collect();
    if told.is_empty() {
        return Ok(());
    }
    let seen = filter_visible(&reader.env.rooms, &reader.viewer.user, room, told).await?;
    let seen: HashSet<EventNid> = seen.iter().map(|event| event.nid).collect();
    for found in found.values_mut() {
        found.edits.retain(|edit| seen.contains(&edit.nid));
        found.thread = found.thread.take().filter(|thread| seen.contains(&thread.latest.nid));
    }
    Ok(())
}

fn in_tail(reader: Reader<'_>, room: &RoomSnapshot, events: &[&Arc<StoredEvent>]) -> AllFound {
    let mut found = AllFound::new();
    let Some(oldest) = events.iter().filter_map(|event| event.pos).min() else {
        return found;
    };
    let newer = room
        .timeline
        .iter()
        .rev()
        .take_while(|event| event.pos.is_none_or(|pos| pos > oldest));
    for event in newer {
        let counts = event.pos.is_some_and(|pos| pos <= reader.upto)
            && event.pdu.content.get().contains("m.relates_to")
            && !reader.ignored.contains(&event.pdu.sender);
        if !counts {
            continue;
        }
        let (Some(target), Some(kind)) = relation_of(&event.pdu) else {
            continue;
        };
        let Some(target) = events.iter().find(|event| event.event_id().as_str() == target) else {
            continue;
        };
        let entry = found.entry(target.pdu.event_id.clone()).or_default();
        let own = event.pdu.sender == reader.viewer.user;
        match kind.as_str() {
            "m.replace" if event.pdu.state_key.is_none() => entry.edits.push(event.clone()),
            "m.thread" => match &mut entry.thread {
                // Newest first: what comes later is older.
                Some(thread) => {
                    thread.count += 1;
                    thread.own |= own;
                }
                none => {
                    *none = Some(Thread {
                        count: 1,
                        own,
                        latest: event.clone(),
                    })
                }
            },
            "m.reference" => entry.references.insert(0, event.pdu.event_id.clone()),
            _ => {}
        }
    }
    found
}

async fn in_store(reader: Reader<'_>, room: &RoomSnapshot, ids: &[String], found: &mut AllFound) -> Outcome<()> {
    let env = reader.env;
    let ignored: Vec<String> = reader.ignored.iter().map(ToString::to_string).collect();
    let targets = Targets {
        room_nid: room.nid.0,
        event_ids: ids,
        upto: reader.upto.0,
        ignored: &ignored,
    };
    let counts = env.store.relation_counts(&targets, reader.viewer.user.as_str()).await?;
    let of_kind = |kind: &str| -> Vec<String> {
        counts
            .iter()
            .filter(|count| count.rel_type == kind)
            .map(|count| count.relates_to.clone())
            .collect()
    };
    let entry = |found: &mut AllFound, target: &str, fill: &mut dyn FnMut(&mut Found)| {
        if let Ok(target) = OwnedEventId::try_from(target) {
            fill(found.entry(target).or_default());
        }
    };
    let edited = of_kind("m.replace");
    if !edited.is_empty() {
        let rows = env
            .store
            .newest_edits(&Targets {
                event_ids: &edited,
                ..targets.clone()
            })
            .await?;
        for edit in env.rooms.decode(rows).await? {
            if let (Some(target), _) = relation_of(&edit.pdu) {
                entry(found, &target, &mut |found| found.edits.push(edit.clone()));
            }
        }
    }
    let threads: Vec<_> = counts.iter().filter(|count| count.rel_type == "m.thread").collect();
    if !threads.is_empty() {
        let newest: Vec<i64> = threads.iter().map(|thread| thread.newest).collect();
        let rows = env.store.events_at(&newest).await?;
        let events = env.rooms.decode(rows).await?;
        for thread in threads {
            let latest = events.iter().find(|event| event.pos == Some(StreamPos(thread.newest)));
            let Some(latest) = latest else { continue };
            let count = u64::try_from(thread.count).unwrap_or(0);
            let thread_of = || Thread {
                count,
                own: thread.own,
                latest: latest.clone(),
            };
            entry(found, &thread.relates_to, &mut |found| found.thread = Some(thread_of()));
        }
    }
    let referred = of_kind("m.reference");
    if !referred.is_empty() {
        let targets = Targets {
            event_ids: &referred,
            ..targets
        };
        for (target, event) in env.store.references(&targets, MAX_REFERENCES).await? {
            let Ok(event) = OwnedEventId::try_from(event) else {
                continue;
            };
            entry(found, &target, &mut |found| found.references.push(event.clone()));
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Bundle<'a> {
    #[serde(rename = "m.replace", skip_serializing_if = "Option::is_none")]
    replace: Option<Box<RawValue>>,
    #[serde(rename = "m.thread", skip_serializing_if = "Option::is_none")]
    thread: Option<ThreadBundle>,
    #[serde(rename = "m.reference", skip_serializing_if = "Option::is_none")]
    reference: Option<References<'a>>,
}

#[derive(Serialize)]
struct ThreadBundle {
    latest_event: Box<RawValue>,
    count: u64,
    current_user_participated: bool,
}

#[derive(Serialize)]
struct References<'a> {
    chunk: Vec<Reference<'a>>,
}

#[derive(Serialize)]
struct Reference<'a> {
    event_id: &'a OwnedEventId,
}

/// `inner`: what is bundled with the newest events of threads; `None` for those themselves, which have no threads.
fn bundle(reader: Reader<'_>, event: &StoredEvent, found: &Found, inner: Option<&Bundles>) -> Option<String> {
    let render = |event: &StoredEvent, extras| client_event(event, reader.viewer, RoomIdField::Shown, extras);
    let thread = found.thread.as_ref().zip(inner).map(|(thread, inner)| ThreadBundle {
        latest_event: render(&thread.latest, inner.extras(&thread.latest)),
        count: thread.count,
        current_user_participated: thread.own || event.pdu.sender == reader.viewer.user,
    });
    let references = found.references.iter().map(|event_id| Reference { event_id });
    let bundle = Bundle {
        replace: newest_edit(event, &found.edits).map(|edit| render(edit, Extras::default())),
        thread,
        reference: (!found.references.is_empty()).then(|| References {
            chunk: references.collect(),
        }),
    };
    if bundle.replace.is_none() && bundle.thread.is_none() && bundle.reference.is_none() {
        return None;
    }
    serde_json::to_string(&bundle).ok()
}

/// The valid edit that counts: by time, then by event id. Spec: "Validity of replacement events".
fn newest_edit<'a>(event: &StoredEvent, edits: &'a [Arc<StoredEvent>]) -> Option<&'a Arc<StoredEvent>> {
    if event.redacted_by.is_some() || relation_of(&event.pdu).1.as_deref() == Some("m.replace") {
        return None;
    }
    let valid = |edit: &&Arc<StoredEvent>| {
        let encrypted = edit.pdu.kind == ruma::events::TimelineEventType::RoomEncrypted;
        edit.pdu.sender == event.pdu.sender
            && edit.pdu.kind == event.pdu.kind
            && (encrypted || edit.pdu.content.get().contains("\"m.new_content\""))
    };
    edits
        .iter()
        .filter(valid)
        .max_by(|a, b| (a.pdu.origin_server_ts, &a.pdu.event_id).cmp(&(b.pdu.origin_server_ts, &b.pdu.event_id)))
}
