//! What one journal submission writes, as data, by table.
//!
//! `pos` columns hold an offset (0-based) while a submission waits and the real stream position once the journal
//! has called [`Rows::shift`]. Every other number is final.
//!
//! Within one `Rows` deletions are carried out before everything else; [`Rows::merge`] keeps the order of two submissions
//! right under that rule.

use std::collections::HashSet;

use crate::{
    access_token, account_data, current_state, device, device_key, device_list_change, event, membership, presence,
    public_room, receipt, refresh_token, room, room_alias, room_head, state_group, state_key, to_device, to_device_txn,
};

/// Rows of many tables, written in one transaction.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Inserted.
    pub rooms: Vec<room::Model>,
    /// Upserted by `room_nid`; the last of equal keys wins.
    pub room_heads: Vec<room_head::Model>,
    /// Inserted; `pos` is an offset where it is `Some` and not negative.
    pub events: Vec<event::Model>,
    /// Inserted; `pos` is final: history that was fetched later.
    pub history: Vec<event::Model>,
    /// Events pruned by a redaction.
    pub redactions: Vec<RedactedEvent>,
    /// `(event nid, unsigned)` of events that tell something about a pruned event; redactions of the same event win.
    pub unsigned_updates: Vec<(i64, String)>,
    /// Outliers and soft-failed events that become visible or get a state group.
    pub event_updates: Vec<EventUpdate>,
    /// As `event_updates`; `pos` is final.
    pub history_updates: Vec<EventUpdate>,
    /// Inserted; one whose `nid` is there is ignored. The same pair under another `nid` refuses the submission.
    pub state_keys: Vec<state_key::Model>,
    /// Inserted.
    pub state_groups: Vec<state_group::Model>,
    /// Upserted.
    pub current_state: Vec<current_state::Model>,
    /// Deleted by `(room_nid, type, state_key)`.
    pub current_state_removed: Vec<(i64, String, String)>,
    /// Upserted; `pos` is an offset.
    pub memberships: Vec<membership::Model>,
    /// `forgotten = true` for `(room_nid, user_id)`.
    pub forgotten: Vec<(i64, String)>,
    /// Upserted, equal keys replaced.
    pub stripped_states: Vec<crate::stripped_state::Model>,
    /// Deleted by `(room_nid, user_id)`.
    pub stripped_states_removed: Vec<(i64, String)>,
    /// Upserted; `pos` is an offset.
    pub receipts: Vec<receipt::Model>,
    /// Inserted.
    pub aliases: Vec<room_alias::Model>,
    /// Rooms that the directory lists from now on.
    pub published: Vec<public_room::Model>,
    /// Upserted; `pos` is an offset.
    pub account_data: Vec<account_data::Model>,
    /// Upserted; `pos` is an offset.
    pub thread_subscriptions: Vec<crate::thread_subscription::Model>,
    /// Upserted; the last of equal keys wins.
    pub friends: Vec<crate::friend::Model>,
    /// Upserted; `pos` is an offset.
    pub presence: Vec<presence::Model>,
    /// Inserted; `pos` is an offset.
    pub to_device: Vec<to_device::Model>,
    /// Inserted; a duplicate refuses the submission.
    pub to_device_txns: Vec<to_device_txn::Model>,
    /// Inserted; `pos` is an offset.
    pub device_list_changes: Vec<device_list_change::Model>,
    /// Upserted.
    pub devices: Vec<device::Model>,
    /// `(user_id, device_id)`: the device, its tokens, keys, one-time keys, fallback keys, inbox and pushers are deleted.
    pub devices_deleted: Vec<(String, String)>,
    /// Inserted.
    pub access_tokens: Vec<access_token::Model>,
    /// Inserted.
    pub refresh_tokens: Vec<refresh_token::Model>,
    /// Upserted.
    pub device_keys: Vec<device_key::Model>,
    /// Upserted; a user has one.
    pub dehydrated_devices: Vec<crate::dehydrated_device::Model>,
    /// Upserted.
    pub cross_signing_keys: Vec<crate::cross_signing_key::Model>,
    /// Upserted.
    pub key_signatures: Vec<crate::key_signature::Model>,
    /// Inserted; `pos` is an offset.
    pub outbound_edus: Vec<crate::outbound_edu::Model>,
    /// Inserted; `pos` is an offset.
    pub relayed_events: Vec<crate::relayed_event::Model>,
    /// Staged events (`inbound_pdu.nid`) that have found their place: deleted.
    pub staged_done: Vec<i64>,
    /// Upserted.
    pub backward_extremities: Vec<crate::backward_extremity::Model>,
    /// Deleted by `(room_nid, event_id)`.
    pub backward_extremities_removed: Vec<(i64, String)>,
    /// Inserted; `low` and `next` are offsets.
    pub history_holes: Vec<crate::history_hole::Model>,
    /// `(id, next)`: what is left of a hole.
    pub history_holes_left: Vec<(i64, i64)>,
    /// Deleted by `id`.
    pub history_holes_removed: Vec<i64>,
    /// Upserted.
    pub early_redactions: Vec<crate::early_redaction::Model>,
    /// Deleted by `(room_nid, target_event_id)`.
    pub early_redactions_removed: Vec<(i64, String)>,
    /// Upserted.
    pub partial_rooms: Vec<crate::partial_room::Model>,
    /// Deleted by `room_nid`.
    pub partial_rooms_removed: Vec<i64>,
}

/// An event whose stored PDU is replaced by its pruned form; it stops relating to another event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedactedEvent {
    /// The redacted event.
    pub nid: i64,
    /// The redaction's event id.
    pub redacted_by: String,
    /// The pruned PDU.
    pub json: String,
    /// A JSON object with `redacted_because`, the redaction as clients get it.
    pub unsigned: String,
}

/// A stored event whose standing changes. What is `None` stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventUpdate {
    /// The event.
    pub nid: i64,
    /// An offset if `Some` and not negative.
    pub pos: Option<i64>,
    /// The state group before it.
    pub state_group: Option<i64>,
    /// The new status.
    pub status: i16,
}

/// What is the same for every list.
macro_rules! for_each_list {
    ($($list:ident),* $(,)?) => {
        impl Rows {
            fn append(&mut self, other: Self) {
                let Self { $($list),* } = other;
                $(self.$list.extend($list);)*
            }

            /// Whether there is nothing to write.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                $(self.$list.is_empty())&&*
            }
        }
    };
}

for_each_list!(
    rooms,
    room_heads,
    events,
    history,
    redactions,
    unsigned_updates,
    event_updates,
    history_updates,
    state_keys,
    state_groups,
    current_state,
    current_state_removed,
    memberships,
    forgotten,
    stripped_states,
    stripped_states_removed,
    receipts,
    aliases,
    published,
    account_data,
    thread_subscriptions,
    friends,
    presence,
    to_device,
    to_device_txns,
    device_list_changes,
    devices,
    devices_deleted,
    access_tokens,
    refresh_tokens,
    device_keys,
    dehydrated_devices,
    cross_signing_keys,
    key_signatures,
    outbound_edus,
    relayed_events,
    staged_done,
    backward_extremities,
    backward_extremities_removed,
    history_holes,
    history_holes_left,
    history_holes_removed,
    early_redactions,
    early_redactions_removed,
    partial_rooms,
    partial_rooms_removed,
);

impl Rows {
    /// Drops what `later` undoes: once merged, its deletions would come before these rows instead of after.
    fn drop_deleted(&mut self, later: &Rows) {
        if !later.devices_deleted.is_empty() {
            let gone: HashSet<(&str, &str)> = later
                .devices_deleted
                .iter()
                .map(|(user, device)| (user.as_str(), device.as_str()))
                .collect();
            let kept = |user: &String, device: &String| !gone.contains(&(user.as_str(), device.as_str()));
            self.devices.retain(|r| kept(&r.user_id, &r.device_id));
            self.access_tokens.retain(|r| kept(&r.user_id, &r.device_id));
            self.refresh_tokens.retain(|r| kept(&r.user_id, &r.device_id));
            self.device_keys.retain(|r| kept(&r.user_id, &r.device_id));
            self.dehydrated_devices.retain(|r| kept(&r.user_id, &r.device_id));
            self.to_device.retain(|r| kept(&r.user_id, &r.device_id));
        }
        if !later.current_state_removed.is_empty() {
            let gone: HashSet<&(i64, String, String)> = later.current_state_removed.iter().collect();
            self.current_state
                .retain(|r| !gone.contains(&(r.room_nid, r.r#type.clone(), r.state_key.clone())));
        }
        if !later.backward_extremities_removed.is_empty() {
            let gone: HashSet<&(i64, String)> = later.backward_extremities_removed.iter().collect();
            self.backward_extremities
                .retain(|r| !gone.contains(&(r.room_nid, r.event_id.clone())));
        }
        if !later.early_redactions_removed.is_empty() {
            let gone: HashSet<&(i64, String)> = later.early_redactions_removed.iter().collect();
            self.early_redactions
                .retain(|r| !gone.contains(&(r.room_nid, r.target_event_id.clone())));
        }
        if !later.stripped_states_removed.is_empty() {
            let gone: HashSet<&(i64, String)> = later.stripped_states_removed.iter().collect();
            self.stripped_states
                .retain(|r| !gone.contains(&(r.room_nid, r.user_id.clone())));
        }
        self.partial_rooms
            .retain(|r| !later.partial_rooms_removed.contains(&r.room_nid));
        if !self.forgotten.is_empty() {
            let back: HashSet<(i64, &str)> = later
                .memberships
                .iter()
                .map(|r| (r.room_nid, r.user_id.as_str()))
                .collect();
            self.forgotten
                .retain(|(room, user)| !back.contains(&(*room, user.as_str())));
        }
    }

    /// Turns offsets into positions. `base` is the position of offset 0.
    pub fn shift(&mut self, base: i64) {
        let shift = |pos: &mut i64| *pos += base;
        let shift_opt = |pos: &mut Option<i64>| {
            if let Some(pos) = pos
                && *pos >= 0
            {
                *pos += base;
            }
        };
        self.events.iter_mut().for_each(|r| shift_opt(&mut r.pos));
        self.event_updates.iter_mut().for_each(|r| shift_opt(&mut r.pos));
        self.room_heads.iter_mut().for_each(|r| shift(&mut r.pos));
        self.memberships.iter_mut().for_each(|r| shift(&mut r.pos));
        self.receipts.iter_mut().for_each(|r| shift(&mut r.pos));
        self.account_data.iter_mut().for_each(|r| shift(&mut r.pos));
        self.thread_subscriptions.iter_mut().for_each(|r| shift(&mut r.pos));
        self.presence.iter_mut().for_each(|r| shift(&mut r.pos));
        self.to_device.iter_mut().for_each(|r| shift(&mut r.pos));
        self.device_list_changes.iter_mut().for_each(|r| shift(&mut r.pos));
        self.outbound_edus.iter_mut().for_each(|r| shift(&mut r.pos));
        for hole in &mut self.history_holes {
            shift(&mut hole.low);
            shift(&mut hole.next);
        }
        self.relayed_events.iter_mut().for_each(|r| shift(&mut r.pos));
    }

    /// Appends a later submission's rows, with the effect of writing one after the other.
    pub fn merge(&mut self, other: Self) {
        self.drop_deleted(&other);
        self.append(other);
    }

    /// About how many bytes of text the large columns carry.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let events = self.events.iter().chain(&self.history);
        events.map(|r| r.json.len()).sum::<usize>()
            + self.to_device.iter().map(|r| r.json.len()).sum::<usize>()
            + self.account_data.iter().map(|r| r.content.len()).sum::<usize>()
            + self.state_groups.iter().map(|r| r.delta.len()).sum::<usize>()
            + self.outbound_edus.iter().map(|r| r.json.len()).sum::<usize>()
    }
}
