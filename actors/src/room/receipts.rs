//! Receipts (client-server API and server-server API, "Receipts"). A receipt never moves backwards.

use std::collections::HashMap;
use std::sync::Arc;

use entities::ids::StreamPos;
use entities::receipt;
use entities::store::rows::Rows;
use ruma::{OwnedEventId, OwnedUserId};

use super::commands::SetReceipt;
use super::event::relation_of;
use super::snapshot::RoomSnapshot;
use crate::clock::Millis;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::stream::fact::{Fact, FactKind};

/// `m.read.private`, which concerns nobody but its user.
const PRIVATE: &str = "m.read.private";

/// User, type, thread.
type Key = (OwnedUserId, String, String);

/// The receipts of one batch.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    /// The positions of the events that are pointed at.
    positions: HashMap<OwnedEventId, i64>,
    /// How far each receipt stands.
    standing: HashMap<Key, i64>,
    /// What moved, the newest of each.
    moved: Vec<(Key, receipt::Model)>,
}

/// Refuses a receipt for a thread that the event is no part of. What relates to an event otherwise (a reaction, an edit)
/// is taken to be in the thread the client says.
pub(super) async fn check_thread(env: &Env, receipt: &SetReceipt) -> Outcome<()> {
    let Some(thread) = &receipt.thread_id else {
        return Ok(());
    };
    if thread != "main" && !thread.starts_with('$') {
        return Err(DomainError::invalid_param("thread_id must be main or an event id"));
    }
    let Some(event) = env.rooms.event_by_id(&receipt.event_id).await? else {
        return Ok(());
    };
    let (root, rel_type) = relation_of(&event.pdu);
    let root = root.filter(|_| rel_type.as_deref() == Some("m.thread"));
    let inside = match (&root, rel_type.is_some()) {
        (Some(root), _) => root == thread,
        (None, true) => true,
        (None, false) => thread == "main" || *thread == receipt.event_id,
    };
    match inside {
        true => Ok(()),
        false => Err(DomainError::invalid_param("event_id is not related to the thread_id")),
    }
}

/// Reads how far the users' receipts stand and where the events are.
pub(super) async fn look_up(env: &Arc<Env>, room: &RoomSnapshot, wanted: &[&SetReceipt]) -> Outcome<Receipts> {
    let mut receipts = Receipts::default();
    let mut unknown = Vec::new();
    for receipt in wanted {
        let held = room
            .timeline
            .iter()
            .rev()
            .find(|event| event.pdu.event_id == receipt.event_id);
        match held.and_then(|event| event.pos) {
            Some(pos) => drop(receipts.positions.insert(receipt.event_id.clone(), pos.0)),
            None => unknown.push(receipt.event_id.clone()),
        }
    }
    if !unknown.is_empty() {
        let found = env.rooms.events_by_id(&unknown).await?;
        let visible = found.into_values().filter(|event| event.room_nid == room.nid);
        receipts
            .positions
            .extend(visible.filter_map(|e| Some((e.pdu.event_id.clone(), e.pos?.0))));
    }
    let mut users: Vec<_> = wanted.iter().map(|receipt| &receipt.user).collect();
    users.sort();
    users.dedup();
    for user in users {
        for row in env.store.receipts_of_user(user.as_str(), &[room.nid.0]).await? {
            receipts
                .standing
                .insert((user.clone(), row.receipt_type, row.thread_id), row.event_pos);
        }
    }
    Ok(receipts)
}

impl Receipts {
    /// Takes a receipt into the batch unless it would move backwards.
    ///
    /// # Errors
    /// `M_FORBIDDEN` for users who are not joined, `M_NOT_FOUND` for events the room does not have,
    /// `M_INVALID_PARAM` for other types.
    pub(super) fn take(&mut self, room: &RoomSnapshot, wanted: &SetReceipt, now: Millis) -> Outcome<()> {
        if !matches!(wanted.kind.as_str(), "m.read" | PRIVATE) {
            return Err(DomainError::invalid_param(
                "receiptType must be m.read or m.read.private",
            ));
        }
        if !room.is_joined(&wanted.user) {
            return Err(DomainError::forbidden("you are not in this room"));
        }
        let unknown = || DomainError::not_found("the room has no such event");
        let event_pos = *self.positions.get(&wanted.event_id).ok_or_else(unknown)?;
        let thread_id = wanted.thread_id.clone().unwrap_or_default();
        let key: Key = (wanted.user.clone(), wanted.kind.clone(), thread_id.clone());
        if self.standing.get(&key).is_some_and(|standing| *standing >= event_pos) {
            return Ok(());
        }
        let row = receipt::Model {
            room_nid: room.nid.0,
            user_id: wanted.user.to_string(),
            receipt_type: wanted.kind.clone(),
            thread_id,
            event_id: wanted.event_id.to_string(),
            event_pos,
            ts: wanted.ts.unwrap_or(now),
            pos: 0,
        };
        self.standing.insert(key.clone(), event_pos);
        self.moved.retain(|(other, _)| *other != key);
        self.moved.push((key, row));
        Ok(())
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.moved.len()
    }

    /// Gives each row a position of its own, from `next` on.
    pub(super) fn write(self, room: &RoomSnapshot, next: &mut i64, rows: &mut Rows, facts: &mut Vec<Fact>) {
        for ((user, kind, _), mut row) in self.moved {
            row.pos = *next;
            let receipt = Arc::new(row.clone());
            rows.receipts.push(row);
            let private = kind == PRIVATE;
            let users = if private {
                Arc::from([user.clone()])
            } else {
                room.local_joined.clone()
            };
            let kind = FactKind::Receipt {
                room_nid: room.nid,
                room_id: room.room_id.clone(),
                user,
                receipt,
                private,
            };
            facts.push(Fact {
                pos: StreamPos(*next),
                users,
                kind,
            });
            *next += 1;
        }
    }
}
