//! Room versions: which there are, and their rules. Everywhere else behaviour depends on the rules' flags, never on
//! a version's name.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use ruma::RoomVersionId;
use ruma::room_version_rules::{RoomVersionDisposition, RoomVersionRules};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The version of new rooms unless the administrator or the client chooses another.
pub const DEFAULT_VERSION: &str = "11";

static SUPPORTED: LazyLock<BTreeMap<&'static str, Arc<RoomVersionRules>>> = LazyLock::new(|| {
    BTreeMap::from(
        [
            ("1", RoomVersionRules::V1),
            ("2", RoomVersionRules::V2),
            ("3", RoomVersionRules::V3),
            ("4", RoomVersionRules::V4),
            ("5", RoomVersionRules::V5),
            ("6", RoomVersionRules::V6),
            ("7", RoomVersionRules::V7),
            ("8", RoomVersionRules::V8),
            ("9", RoomVersionRules::V9),
            ("10", RoomVersionRules::V10),
            ("11", RoomVersionRules::V11),
            ("12", RoomVersionRules::V12),
        ]
        .map(|(version, rules)| (version, Arc::new(rules))),
    )
});

/// The rules of a room version, `None` when this server does not know it.
#[must_use]
pub fn rules_of(version: &str) -> Option<Arc<RoomVersionRules>> {
    SUPPORTED.get(version).cloned()
}

/// The rules of a room version, `None` when this server does not know it.
#[must_use]
pub fn rules_for(version: &RoomVersionId) -> Option<Arc<RoomVersionRules>> {
    rules_of(version.as_str())
}

/// Every version this server can take part in, with `stable` or `unstable`, as `m.room_versions` of
/// `GET /capabilities` lists them.
#[must_use]
pub fn available() -> BTreeMap<String, &'static str> {
    SUPPORTED
        .iter()
        .map(|(version, rules)| {
            let stability = match rules.disposition {
                RoomVersionDisposition::Stable => "stable",
                RoomVersionDisposition::Unstable => "unstable",
            };
            ((*version).to_owned(), stability)
        })
        .collect()
}

/// The names of the supported versions, for the `ver` parameter of joins and knocks.
#[must_use]
pub fn supported() -> Vec<RoomVersionId> {
    SUPPORTED
        .keys()
        .map(|version| RoomVersionId::try_from(*version).expect("the table holds valid version names"))
        .collect()
}

/// The version that a create event's content names; version 1 where it names none.
///
/// # Errors
/// When `room_version` is not a version name.
pub fn version_of_create(content: &RawValue) -> Result<RoomVersionId, serde_json::Error> {
    #[derive(Deserialize)]
    struct Content {
        room_version: Option<RoomVersionId>,
    }
    Ok(serde_json::from_str::<Content>(content.get())?
        .room_version
        .unwrap_or(RoomVersionId::V1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_stable_versions_are_known() {
        assert_eq!(supported().len(), 12);
        assert!(supported().iter().all(|version| rules_for(version).is_some()));
        assert!(available().values().all(|stability| *stability == "stable"));
        assert!(rules_of(DEFAULT_VERSION).is_some());
        assert!(rules_of("13").is_none() && rules_of("").is_none());
    }

    #[test]
    fn flags_are_those_of_the_version() {
        let v = |version| rules_of(version).expect("supported");
        assert!(v("1").state_res.v2_rules().is_none() && v("2").state_res.v2_rules().is_some());
        assert!(!v("10").redaction.content_field_redacts && v("11").redaction.content_field_redacts);
        assert!(!v("11").authorization.room_create_event_id_as_room_id);
        assert!(v("12").authorization.room_create_event_id_as_room_id);
    }

    #[test]
    fn a_create_event_without_version_is_version_1() {
        let version = |json: &str| version_of_create(&RawValue::from_string(json.to_owned()).expect("JSON"));
        assert_eq!(version(r#"{"creator":"@a:x"}"#).expect("valid"), RoomVersionId::V1);
        assert_eq!(version(r#"{"room_version":"10"}"#).expect("valid"), RoomVersionId::V10);
        assert!(version(r#"{"room_version":10}"#).is_err());
    }
}
