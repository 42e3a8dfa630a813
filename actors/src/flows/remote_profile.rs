//! Profiles of anybody's users (client-server API, "Profiles"; server-server API, "Querying for information").

use ruma::UserId;
use ruma::api::federation::query::get_profile_information;
use serde_json::{Map, Value};

use crate::error::{DomainError, Outcome};
use crate::hub::Hub;
use crate::peer::handle::Pace;

/// Bytes of another server's user's profile.
const MAX_PROFILE: usize = 64 * 1024;

/// The fields of a user's profile.
///
/// # Errors
/// `M_NOT_FOUND`; for users of other servers also what [`crate::peer::handle::Peers::call`] answers.
pub async fn profile(hub: &Hub, user: &UserId) -> Outcome<Map<String, Value>> {
    let missing = || DomainError::not_found("Profile not found");
    if !hub.env().is_local(user) {
        return remote(hub, user).await;
    }
    let view = hub.sessions().view(user).await?;
    let view = view.filter(|view| !view.deactivated).ok_or_else(missing)?;
    let fields = view.profile.iter();
    Ok(fields
        .filter_map(|(name, value)| Some((name.clone(), serde_json::from_str(value).ok()?)))
        .collect())
}

async fn remote(hub: &Hub, user: &UserId) -> Outcome<Map<String, Value>> {
    let request = get_profile_information::v1::Request::new(user.to_owned());
    let answer = hub.peers().call(user.server_name(), request, Pace::Patient).await?;
    let fields: Map<String, Value> = answer
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    match Value::Object(fields.clone()).to_string().len() <= MAX_PROFILE {
        true => Ok(fields),
        false => Err(DomainError::matrix(502, "M_UNKNOWN", "the profile is too large")),
    }
}
