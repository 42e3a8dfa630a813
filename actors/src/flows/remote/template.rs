//! Member events that another server prepares: what is taken from its template, and the event made of it. Pure.
//!
//! Of the template count the room version, the place in the graph and, for restricted rooms, who vouches. Everything else is
//! this server's.

use std::sync::Arc;

use ruma::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use ruma::room_version_rules::RoomVersionRules;
use ruma::{Int, OwnedUserId, RoomId, RoomVersionId, UserId};
use serde_json::value::RawValue;

use crate::error::Outcome;
use crate::room::event::{Pdu, ts};
use crate::room::membership::Profile;
use crate::room::plan::{self, Origin};
use crate::room::{parse, rules};

/// The member event that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Where.
    pub room_id: &'a RoomId,
    /// Sender and state key.
    pub user: &'a UserId,
    /// `join`, `leave` or `knock`.
    pub membership: &'static str,
    /// `reason`
    pub reason: Option<&'a str>,
    /// What it shows of the user.
    pub profile: &'a Profile,
}

/// What another server's template says.
#[derive(Clone, Debug)]
pub struct Template {
    /// The room's version.
    pub version: RoomVersionId,
    /// The version's rules.
    pub rules: Arc<RoomVersionRules>,
    prev_events: CanonicalJsonValue,
    auth_events: CanonicalJsonValue,
    depth: Int,
    /// Who lets the user into a restricted room.
    vouching: Option<OwnedUserId>,
}

impl Template {
    /// Reads a template and checks that it is what was asked for. Without a version the first one is meant.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(event: &RawValue, version: Option<&RoomVersionId>, wish: &Wish<'_>) -> Result<Self, String> {
        let version = version.cloned().unwrap_or(RoomVersionId::V1);
        let rules = rules::rules_for(&version).ok_or_else(|| format!("room version {version} was not asked for"))?;
        let mut event = parse::canonical(event.get()).map_err(|error| error.to_string())?;
        for (field, expected) in [
            ("type", "m.room.member"),
            ("room_id", wish.room_id.as_str()),
            ("sender", wish.user.as_str()),
            ("state_key", wish.user.as_str()),
        ] {
            if text(&event, field) != Some(expected) {
                return Err(format!("`{field}` of the template is not {expected}"));
            }
        }
        let Some(CanonicalJsonValue::Object(content)) = event.get("content") else {
            return Err("the template has no content".to_owned());
        };
        if text(content, "membership") != Some(wish.membership) {
            return Err(format!("the template's membership is not {}", wish.membership));
        }
        let vouching = text(content, "join_authorised_via_users_server")
            .filter(|_| rules.authorization.restricted_join_rule && wish.membership == "join")
            .map(UserId::parse)
            .transpose()
            .map_err(|error| format!("who vouches is no user: {error}"))?;
        let Some(CanonicalJsonValue::Integer(depth)) = event.get("depth").cloned() else {
            return Err("the template has no depth".to_owned());
        };
        let mut references = |field: &str, least: usize| match event.remove(field) {
            Some(CanonicalJsonValue::Array(list)) if list.len() >= least => Ok(CanonicalJsonValue::Array(list)),
            _ => Err(format!("the template has no {field}")),
        };
        Ok(Self {
            prev_events: references("prev_events", 1)?,
            auth_events: references("auth_events", 0)?,
            depth,
            vouching,
            version,
            rules,
        })
    }

    /// The event, hashed and signed by this server.
    ///
    /// # Errors
    /// `M_BAD_JSON` when the template's references are not of the version's format; `M_TOO_LARGE`.
    pub fn event(&self, wish: &Wish<'_>, origin: &Origin, now: i64) -> Outcome<Pdu> {
        let mut content = content_of(wish);
        if let Some(user) = &self.vouching {
            content.insert("join_authorised_via_users_server".to_owned(), user.to_string().into());
        }
        let place = Place {
            prev_events: self.prev_events.clone(),
            auth_events: self.auth_events.clone(),
            depth: self.depth,
        };
        plan::seal(unsealed(wish, content, place, origin, now), &self.rules, origin)
    }
}

/// Where an event stands in the graph.
#[derive(Clone, Debug)]
pub struct Place {
    /// In the format of the room version.
    pub prev_events: CanonicalJsonValue,
    /// In the format of the room version.
    pub auth_events: CanonicalJsonValue,
    /// As the event claims.
    pub depth: Int,
}

/// The content that a user's own member event has anywhere.
#[must_use]
pub fn content_of(wish: &Wish<'_>) -> CanonicalJsonObject {
    let mut content = CanonicalJsonObject::from_iter([("membership".to_owned(), wish.membership.to_owned().into())]);
    // Who leaves shows nothing of themselves.
    let shown = wish.membership != "leave";
    let profile = wish.profile;
    for (field, value) in [
        ("displayname", profile.displayname.as_deref().filter(|_| shown)),
        ("avatar_url", profile.avatar_url.as_deref().filter(|_| shown)),
        ("reason", wish.reason),
    ] {
        if let Some(value) = value {
            content.insert(field.to_owned(), value.to_owned().into());
        }
    }
    content
}

/// The event, not hashed and signed yet.
#[must_use]
pub fn unsealed(
    wish: &Wish<'_>,
    content: CanonicalJsonObject,
    place: Place,
    origin: &Origin,
    now: i64,
) -> CanonicalJsonObject {
    let user = || CanonicalJsonValue::String(wish.user.to_string());
    let now: i64 = ts(now).get().into();
    CanonicalJsonObject::from_iter([
        ("auth_events".to_owned(), place.auth_events),
        ("content".to_owned(), CanonicalJsonValue::Object(content)),
        ("depth".to_owned(), CanonicalJsonValue::Integer(place.depth)),
        // The handshakes still ask for it.
        ("origin".to_owned(), origin.server.to_string().into()),
        (
            "origin_server_ts".to_owned(),
            CanonicalJsonValue::Integer(Int::new_saturating(now)),
        ),
        ("prev_events".to_owned(), place.prev_events),
        ("room_id".to_owned(), wish.room_id.to_string().into()),
        ("sender".to_owned(), user()),
        ("state_key".to_owned(), user()),
        ("type".to_owned(), "m.room.member".to_owned().into()),
    ])
}

fn text<'o>(object: &'o CanonicalJsonObject, field: &str) -> Option<&'o str> {
    match object.get(field) {
        Some(CanonicalJsonValue::String(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
