//! What an accepted event changes: the timeline, the current state, memberships, facts.

use std::sync::Arc;

use entities::ids::{StateGroupId, StreamPos};
use entities::{membership, relayed_event};
use ruma::{OwnedEventId, OwnedServerName, OwnedUserId, UserId};

use super::work::{Held, Known, Work};
use crate::error::{DomainError, Outcome};
use crate::room::event::{Pdu, Status, StoredEvent};
use crate::room::members;
use crate::room::plan::replaced_unsigned;
use crate::room::snapshot::{Extremity, StateEntry, StateKey, TIMELINE_TAIL};
use crate::room::state_group::{self, FullMap, NewGroup};
use crate::stream::fact::{Fact, FactKind};

/// An entry of the current state that becomes another.
pub(super) struct Change {
    pub key: StateKey,
    pub event: Option<Arc<StoredEvent>>,
}

impl Work {
    /// Stores an event as the newest of the timeline.
    pub(super) fn enter(
        &mut self,
        pdu: &Arc<Pdu>,
        group: StateGroupId,
        replaced: Option<&StoredEvent>,
    ) -> Outcome<Arc<StoredEvent>> {
        let pos = StreamPos(self.out.next);
        self.out.next += 1;
        let unsigned = replaced.map(replaced_unsigned);
        let event = self.event_of(pdu, Status::Accepted, Some(group), Some(pos), unsigned)?;
        self.write(&event, false);
        if !pdu.is_dummy() {
            self.room.timeline.push_back(event.clone());
        }
        if self.room.timeline.len() > TIMELINE_TAIL {
            self.room.timeline.pop_front();
            self.room.timeline_complete = false;
        }
        self.room.pos = pos;
        Ok(event)
    }

    pub(super) fn set_extremities(&mut self, event: &StoredEvent, ends: &[OwnedEventId]) {
        let old = self.room.extremities.clone();
        let extremity = |id: &OwnedEventId| {
            let known = old.iter().find(|end| end.event_id == *id).cloned();
            let own = (*id == event.pdu.event_id).then(|| Extremity {
                nid: event.nid,
                event_id: id.clone(),
                depth: event.pdu.depth,
            });
            known.or(own)
        };
        self.room.extremities = ends.iter().filter_map(extremity).collect();
    }

    /// One entry changes, by `event` alone: the next state group is a step away from this one. Answers the local users whose
    /// membership changed.
    pub(super) fn step(&mut self, change: Change, event: &StoredEvent) -> Outcome<Vec<OwnedUserId>> {
        let mut users = Vec::new();
        let step = self.put(change, event.pos.unwrap_or_default(), &mut users)?;
        let id = StateGroupId(self.nid()?);
        let room = &self.room;
        let map = || FullMap::from_entries(room.state.values().map(|entry| (entry.key_nid, entry.event.nid)));
        let next = NewGroup::after(room.state_group, &room.state_chain, &[step], map)
            .map_err(|e| DomainError::internal(format!("state group: {e}")))?;
        self.out.rows.state_groups.push(next.to_row(id, room.nid));
        self.set_group(id, next.chain);
        Ok(users)
    }

    /// The room's state has this number from now on.
    pub(super) fn set_group(&mut self, group: StateGroupId, chain: state_group::Chain) {
        (self.room.state_group, self.room.state_chain) = (group, chain);
        self.known.push(Known {
            group,
            chain,
            held: Held::Entries(self.room.state.clone()),
        });
    }

    /// Replaces an entry of the current state. Adds to `users` a local user whose membership this is.
    pub(super) fn put(
        &mut self,
        change: Change,
        pos: StreamPos,
        users: &mut Vec<OwnedUserId>,
    ) -> Outcome<state_group::Change> {
        let Change { key, event } = change;
        let key_nid = self.key_nid(&key)?;
        let new = event.as_ref().map(|event| event.nid);
        let old = match event {
            Some(event) => self.room.state.insert(key.clone(), StateEntry { key_nid, event }),
            None => self.room.state.remove(&key),
        };
        let old = old.map(|entry| entry.event);
        if let Some(old) = &old {
            // Older state groups go on naming them.
            self.keys.insert(key.clone(), (key_nid, true));
            self.stored
                .entry(old.pdu.event_id.clone())
                .or_insert_with(|| old.clone());
        }
        if &*key.0 == "m.room.member"
            && let Ok(user) = UserId::parse(&*key.1)
        {
            self.set_membership(&user, old.as_ref(), pos);
            if user.server_name() == self.server {
                users.push(user);
            }
        }
        let old = old.map(|event| event.nid);
        self.out.changed.insert(key);
        Ok(state_group::Change { key: key_nid, old, new })
    }

    fn set_membership(&mut self, user: &UserId, old: Option<&Arc<StoredEvent>>, pos: StreamPos) {
        let new = self.room.state_event("m.room.member", user.as_str()).cloned();
        let membership = |event: Option<&Arc<StoredEvent>>| {
            let membership = event.and_then(|event| event.pdu.membership());
            membership.unwrap_or_else(|| "leave".to_owned())
        };
        let (was, is) = (membership(old), membership(new.as_ref()));
        members::change(&mut self.room, user, &was, &is, &self.server);
        // Where resolution leaves no member event, the row keeps pointing at the one that was.
        let Some(event) = new.as_ref().or(old) else { return };
        self.out.rows.memberships.push(membership::Model {
            room_nid: self.room.nid.0,
            user_id: user.to_string(),
            membership: is,
            sender: event.pdu.sender.to_string(),
            event_nid: event.nid.0,
            pos: pos.0,
            forgotten: false,
        });
    }

    /// Tells who was in the room before the event, who is now, and whose membership changed.
    pub(super) fn announce(
        &mut self,
        event: &Arc<StoredEvent>,
        before: &Arc<[OwnedUserId]>,
        changed: &[OwnedUserId],
        servers: Arc<[OwnedServerName]>,
    ) {
        if event.pdu.is_dummy() {
            return;
        }
        let mut users = self.room.local_joined.clone();
        for user in before.iter().chain(changed) {
            users = members::with(&users, user);
        }
        let passed_on = !servers.is_empty();
        let kind = FactKind::Event {
            room_id: self.room.room_id.clone(),
            event: event.clone(),
            servers,
        };
        let pos = event.pos.unwrap_or_default();
        if passed_on {
            self.out.rows.relayed_events.push(relayed_event::Model { pos: pos.0 });
        }
        self.out.facts.push(Fact { pos, users, kind });
    }

    /// The servers of the room, this one and that of the event's sender left out: who must get an event that was let in by
    /// this server.
    pub(super) fn other_servers(&self, pdu: &Pdu) -> Arc<[OwnedServerName]> {
        let others = self.room.joined_servers.iter();
        others
            .filter(|server| **server != self.server && *server != pdu.sender.server_name())
            .cloned()
            .collect()
    }
}
