//! Authorization, adapted from ruma: which events authorize an event, and whether they do.
//!
//! Spec: "Authorization rules" and "Auth events selection" of the server-server API and each room version. Lookups are
//! closures over what the caller holds (a snapshot, a resolved state, a map of auth events); nothing here does I/O.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ruma::events::room::power_levels::UserPowerLevel;
use ruma::events::{StateEventType, TimelineEventType};
use ruma::room_version_rules::{AuthorizationRules, RoomVersionRules};

use ruma::state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField};
use ruma::{EventId, Int, OwnedEventId, OwnedUserId, UserId};
use serde_json::value::RawValue;

use super::event::{Pdu, StoredEvent};

/// The `(type, state key)` pairs that authorize an event, those that matter even if they are absent from the state.
///
/// # Errors
/// When the content lacks what the selection depends on (`membership`, the third-party invite's token).
pub fn auth_keys(
    kind: &str,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
    rules: &RoomVersionRules,
) -> Result<Vec<(String, String)>, String> {
    let kind = TimelineEventType::from(kind);
    let keys = ruma::state_res::auth_types_for_event(&kind, sender, state_key, content, &rules.authorization)?;
    Ok(keys.into_iter().map(|(kind, key)| (kind.to_string(), key)).collect())
}

/// The events that a new event must name as `auth_events`, from the state it is sent in. The create event is not among
/// them where the room is named after it (version 12).
///
/// # Errors
/// As [`auth_keys`].
pub fn auth_events_for(
    kind: &str,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
    rules: &RoomVersionRules,
    lookup: impl Fn(&str, &str) -> Option<Arc<StoredEvent>>,
) -> Result<Vec<Arc<StoredEvent>>, String> {
    let keys = auth_keys(kind, sender, state_key, content, rules)?;
    Ok(keys.iter().filter_map(|(kind, key)| lookup(kind, key)).collect())
}

/// The rules that look at the event and its auth events alone: that those are of the room, wanted, unique and not
/// rejected, and the rules of create events. `event` must know every auth event, and the create event.
///
/// # Errors
/// The rule that failed.
pub fn check_auth_events(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    event: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Result<(), String> {
    ruma::state_res::check_state_independent_auth_rules(&rules.authorization, pdu, event)
}

/// The rules that depend on a state: that state may be what the auth events make up, the state before the event, or the
/// room's current state.
///
/// # Errors
/// The rule that failed.
pub fn check_against(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    state: impl Fn(&str, &str) -> Option<Arc<Pdu>>,
) -> Result<(), String> {
    ruma::state_res::check_state_dependent_auth_rules(&rules.authorization, pdu, |kind: &StateEventType, key: &str| {
        state(&kind.to_string(), key)
    })
}

/// Both halves for an event of this server, whose auth events were taken from `state`.
///
/// # Errors
/// The rule that failed.
pub fn check_auth(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    state: impl Fn(&str, &str) -> Option<Arc<Pdu>>,
) -> Result<(), String> {
    let keys = ruma::state_res::auth_types_for_event(
        &pdu.kind,
        &pdu.sender,
        pdu.state_key.as_deref(),
        &pdu.content,
        &rules.authorization,
    )?;
    let create = state("m.room.create", "");
    let events: HashMap<OwnedEventId, Arc<Pdu>> = keys
        .iter()
        .filter_map(|(kind, key)| state(&kind.to_string(), key))
        .chain(create)
        .map(|event| (event.event_id.clone(), event))
        .collect();
    check_auth_events(pdu, rules, |id| events.get(id).cloned())?;
    check_against(pdu, rules, state)
}

/// Who may do what in a room, by its create and power-level events.
///
/// Spec: `m.room.power_levels`; room version 12, where creators stand above every level.
#[derive(Clone, Debug)]
pub struct Power {
    rules: AuthorizationRules,
    creators: HashSet<OwnedUserId>,
    levels: Option<RoomPowerLevelsEvent<Arc<Pdu>>>,
}

impl Power {
    /// From a state.
    ///
    /// # Errors
    /// When there is no create event, or it names no creator.
    pub fn of(rules: &RoomVersionRules, state: impl Fn(&str, &str) -> Option<Arc<Pdu>>) -> Result<Self, String> {
        let create = state("m.room.create", "").ok_or("the room has no create event")?;
        let creators = RoomCreateEvent::new(create).creators(&rules.authorization)?;
        let levels = state("m.room.power_levels", "").map(RoomPowerLevelsEvent::new);
        Ok(Self {
            rules: rules.authorization.clone(),
            creators,
            levels,
        })
    }

    /// The creators; they are privileged from version 12 on.
    #[must_use]
    pub fn creators(&self) -> &HashSet<OwnedUserId> {
        &self.creators
    }

    /// A user's level. A malformed power-level event counts as level 0 for everybody.
    #[must_use]
    pub fn user(&self, user: &UserId) -> UserPowerLevel {
        let is_creator = self.creators.contains(user);
        if self.rules.explicitly_privilege_room_creators && is_creator {
            return UserPowerLevel::Infinite;
        }
        match &self.levels {
            Some(levels) => levels.user_power_level(user, &self.rules).unwrap_or_default().into(),
            None if is_creator => Int::from(100_i32).into(),
            None => Int::default().into(),
        }
    }

    /// The level that sending an event of this type needs.
    #[must_use]
    pub fn to_send(&self, kind: &str, is_state: bool) -> Int {
        let default = if is_state {
            RoomPowerLevelsIntField::StateDefault
        } else {
            RoomPowerLevelsIntField::EventsDefault
        };
        match &self.levels {
            Some(levels) => levels
                .event_power_level(&TimelineEventType::from(kind), is_state.then_some(""), &self.rules)
                .unwrap_or_else(|_| default.default_value()),
            None => default.default_value(),
        }
    }

    fn field(&self, field: RoomPowerLevelsIntField) -> Int {
        match &self.levels {
            Some(levels) => levels
                .get_as_int_or_default(field, &self.rules)
                .unwrap_or_else(|_| field.default_value()),
            None => field.default_value(),
        }
    }

    /// Whether the user's level suffices to send events of this type. Membership is not looked at.
    #[must_use]
    pub fn may_send(&self, user: &UserId, kind: &str, is_state: bool) -> bool {
        self.user(user) >= self.to_send(kind, is_state)
    }

    /// Whether the user's level suffices to redact other users' events.
    #[must_use]
    pub fn may_redact(&self, user: &UserId) -> bool {
        self.user(user) >= self.field(RoomPowerLevelsIntField::Redact)
    }

    /// Whether the user's level suffices to invite.
    #[must_use]
    pub fn may_invite(&self, user: &UserId) -> bool {
        self.user(user) >= self.field(RoomPowerLevelsIntField::Invite)
    }

    /// Whether the user's level suffices to remove `target` from the room.
    #[must_use]
    pub fn may_kick(&self, user: &UserId, target: &UserId) -> bool {
        self.user(user) >= self.field(RoomPowerLevelsIntField::Kick) && self.user(target) < self.user(user)
    }

    /// Whether the user's level suffices to ban `target`.
    #[must_use]
    pub fn may_ban(&self, user: &UserId, target: &UserId) -> bool {
        self.user(user) >= self.field(RoomPowerLevelsIntField::Ban) && self.user(target) < self.user(user)
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
