//! Profile fields (client-server API, "Profiles"): names and values of the user's own choosing besides the known ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use entities::profile_field;
use ruma::MxcUri;
use serde_json::Value;

use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::session::view::UserView;

/// Bytes of a field's name.
pub const MAX_KEY: usize = 255;
/// Bytes of a whole profile as JSON.
pub const MAX_PROFILE: usize = 64 * 1024;
/// Characters of a display name.
const MAX_DISPLAYNAME: usize = 256;
/// Characters of an avatar's address.
const MAX_AVATAR_URL: usize = 1_000;

/// Whether member events show the field.
#[must_use]
pub fn is_shown(name: &str) -> bool {
    matches!(name, "displayname" | "avatar_url")
}

/// Sets or removes a field; `None` where nothing changes.
pub(super) async fn set(env: &Env, view: &UserView, name: String, value: Option<Value>) -> Outcome<Option<UserView>> {
    check_key(&name)?;
    let value = match value {
        Some(value) => check_value(&name, value)?,
        None => None,
    };
    let (user_id, shown) = (view.user_id.to_string(), is_shown(&name));
    let mut profile = (*view.profile).clone();
    match value.map(|value| value.to_string()) {
        Some(value) if profile.get(&name) == Some(&value) => return Ok(None),
        Some(value) => {
            profile.insert(name.clone(), value.clone());
            if size(&profile) > MAX_PROFILE {
                let message = "The profile would exceed 64 KiB";
                return Err(DomainError::matrix(400, "M_PROFILE_TOO_LARGE", message));
            }
            let field = profile_field::Model { user_id, name, value };
            env.store.set_profile_field(&field, shown).await?;
        }
        None if profile.remove(&name).is_none() => return Ok(None),
        None => env.store.delete_profile_field(&user_id, &name, shown).await?,
    }
    Ok(Some(UserView {
        profile: Arc::new(profile),
        ..view.clone()
    }))
}

/// The Common Namespaced Identifier Grammar (appendices), which the known names follow as well.
fn check_key(name: &str) -> Outcome<()> {
    if name.len() > MAX_KEY {
        return Err(DomainError::matrix(
            400,
            "M_KEY_TOO_LARGE",
            "A profile key has at most 255 bytes",
        ));
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    match name.as_bytes() {
        [first, rest @ ..] if first.is_ascii_lowercase() && rest.iter().copied().all(plain) => Ok(()),
        _ => Err(DomainError::invalid_param("Invalid profile key.")),
    }
}

/// The value to store; `None` where an empty name or avatar means none.
fn check_value(name: &str, value: Value) -> Outcome<Option<Value>> {
    let invalid = |message: &str| Err(DomainError::invalid_param(message));
    match (name, &value) {
        ("displayname" | "avatar_url", Value::Null) => Ok(None),
        ("displayname" | "avatar_url", Value::String(text)) if text.is_empty() => Ok(None),
        ("displayname", Value::String(text)) if text.chars().count() > MAX_DISPLAYNAME => {
            invalid("A display name has at most 256 characters")
        }
        ("avatar_url", Value::String(text)) if text.chars().count() > MAX_AVATAR_URL => {
            invalid("An avatar's address has at most 1000 characters")
        }
        ("avatar_url", Value::String(text)) if <&MxcUri>::from(text.as_str()).validate().is_err() => {
            invalid("An avatar's address is an mxc:// URI")
        }
        ("displayname" | "avatar_url" | "m.tz", Value::String(_)) => Ok(Some(value)),
        ("displayname" | "avatar_url" | "m.tz", _) => invalid("The value must be a string"),
        _ => Ok(Some(value)),
    }
}

/// Bytes of the profile as a JSON object.
fn size(profile: &BTreeMap<String, String>) -> usize {
    2 + profile
        .iter()
        .map(|(name, value)| name.len() + value.len() + 4)
        .sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_follow_the_grammar() {
        for key in ["displayname", "m.tz", "org.example.job-title", "a"] {
            assert!(check_key(key).is_ok(), "{key}");
        }
        for key in ["", "Upper", ".dot", "1a", "with space", "ä"] {
            let error = check_key(key).expect_err(key);
            assert_eq!(error.errcode(), Some("M_INVALID_PARAM"), "{key}");
        }
        let long = "a".repeat(256);
        assert_eq!(check_key(&long).expect_err("long").errcode(), Some("M_KEY_TOO_LARGE"));
    }

    #[test]
    fn known_fields_are_checked_and_others_are_not() {
        let good = |name: &str, value: Value| check_value(name, value).expect("accepted");
        assert_eq!(good("displayname", json!("")), None);
        assert_eq!(good("avatar_url", Value::Null), None);
        assert_eq!(good("avatar_url", json!("mxc://x/y")), Some(json!("mxc://x/y")));
        assert_eq!(good("org.example.x", Value::Null), Some(Value::Null));
        for (name, value) in [
            ("displayname", json!(1)),
            ("displayname", json!("x".repeat(257))),
            ("avatar_url", json!("https://x/y")),
            ("m.tz", json!({})),
        ] {
            assert!(check_value(name, value).is_err(), "{name}");
        }
    }
}
