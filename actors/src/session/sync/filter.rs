//! Filters (client-server API, "Filtering") applied to events.

use ruma::RoomId;
use ruma::api::client::filter::{Filter, FilterDefinition, LazyLoadOptions, RoomEventFilter, UrlFilter};
use serde::Deserialize;

use crate::room::event::StoredEvent;

/// How many timeline events a room shows when the filter does not say.
const DEFAULT_LIMIT: usize = 10;
/// The most it shows whatever the filter says.
const MAX_LIMIT: usize = 1_000;

/// How many timeline events of a room the client wants.
#[must_use]
pub fn timeline_limit(filter: &RoomEventFilter) -> usize {
    filter
        .limit
        .map_or(DEFAULT_LIMIT, |limit| {
            usize::try_from(u64::from(limit)).unwrap_or(MAX_LIMIT)
        })
        .min(MAX_LIMIT)
}

/// Whether the filter leaves the room in at all.
#[must_use]
pub fn room_allowed(filter: &FilterDefinition, room: &RoomId) -> bool {
    let rooms = &filter.room;
    rooms
        .rooms
        .as_ref()
        .is_none_or(|allowed| allowed.iter().any(|r| r == room))
        && !rooms.not_rooms.iter().any(|r| r == room)
}

/// Whether a section's filter leaves the room in.
#[must_use]
pub fn section_allows_room(filter: &RoomEventFilter, room: &RoomId) -> bool {
    filter
        .rooms
        .as_ref()
        .is_none_or(|allowed| allowed.iter().any(|r| r == room))
        && !filter.not_rooms.iter().any(|r| r == room)
}

/// Whether a section's filter leaves the event in.
#[must_use]
pub fn event_allowed(filter: &RoomEventFilter, event: &StoredEvent) -> bool {
    let pdu = &event.pdu;
    let sender = pdu.sender.as_str();
    if filter.not_senders.iter().any(|s| s == sender)
        || filter
            .senders
            .as_ref()
            .is_some_and(|allowed| !allowed.iter().any(|s| s == sender))
    {
        return false;
    }
    let unrestricted = filter.types.is_none() && filter.not_types.is_empty();
    if !unrestricted && !type_allowed(filter.types.as_deref(), &filter.not_types, &pdu.kind.to_string()) {
        return false;
    }
    match filter.url_filter {
        None => true,
        Some(UrlFilter::EventsWithUrl) => has_url(event),
        Some(UrlFilter::EventsWithoutUrl) => !has_url(event),
    }
}

/// Whether a filter for events outside rooms (presence, account data) leaves the event in.
#[must_use]
pub fn plain_allowed(filter: &Filter, kind: &str, sender: Option<&str>) -> bool {
    if let Some(sender) = sender
        && (filter.not_senders.iter().any(|s| s == sender)
            || filter
                .senders
                .as_ref()
                .is_some_and(|allowed| !allowed.iter().any(|s| s == sender)))
    {
        return false;
    }
    type_allowed(filter.types.as_deref(), &filter.not_types, kind)
}

/// `*` stands for any run of characters; an exclusion wins.
#[must_use]
pub fn type_allowed(types: Option<&[String]>, not_types: &[String], kind: &str) -> bool {
    !not_types.iter().any(|pattern| matches(pattern, kind))
        && types.is_none_or(|types| types.iter().any(|pattern| matches(pattern, kind)))
}

fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    // `split` answers at least one part.
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

fn has_url(event: &StoredEvent) -> bool {
    #[derive(Deserialize)]
    struct Content {
        url: Option<serde::de::IgnoredAny>,
    }
    event
        .pdu
        .content_as::<Content>()
        .is_ok_and(|content| content.url.is_some())
}

/// Whether members are loaded lazily, and whether those sent before are sent again.
#[must_use]
pub fn lazy(filter: &FilterDefinition) -> Option<Redundant> {
    match filter.room.state.lazy_load_options {
        LazyLoadOptions::Disabled => None,
        LazyLoadOptions::Enabled {
            include_redundant_members,
        } => Some(Redundant(include_redundant_members)),
    }
}

/// Whether members that were sent before are sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redundant(pub bool);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("m.room.message", "m.room.message", true),
            ("m.room.message", "m.room.messages", false),
            ("m.room.*", "m.room.name", true),
            ("*", "", true),
            ("*.name", "m.room.name", true),
            ("m.*.na*e", "m.room.name", true),
            ("m.*.na*e", "m.room.nama", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn an_exclusion_wins() {
        let types = ["m.*".to_owned()];
        assert!(!type_allowed(Some(&types), &["m.room.*".to_owned()], "m.room.name"));
        assert!(type_allowed(Some(&types), &["m.room.*".to_owned()], "m.call"));
        assert!(!type_allowed(Some(&[]), &[], "m.call"));
    }
}
