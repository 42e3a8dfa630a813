//! Telling the other half what the user wants.

use std::sync::Arc;
use std::time::Duration;

use entities::friend::Model;
use federation::Limits;
use serde::Serialize;
use serde_json::value::to_raw_value;

use super::{Pair, settle_soon};
use crate::error::{DomainError, Outcome};
use crate::failpoint::{FRIEND_TOLD, FRIEND_UNTOLD};
use crate::flows::remote::ask::is_unknown_endpoint;
use crate::hub::Hub;
use crate::peer::handle::Pace;
use crate::peer::transport::WireRequest;
use crate::session::friends::Wish;
use crate::session::friends::half::{Stance, stance};

/// Where servers are asked for their users' friendship.
const REQUEST: &str = "/_matrix/federation/v1/friends/request";
/// Where servers are told that somebody does not want it any more.
const STANCE: &str = "/_matrix/federation/unstable/org.synapse_rust/friends/stance";
/// The other server looks nothing up elsewhere.
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(15),
    max_bytes: 64 * 1024,
};

/// What another server is told. Servers that do not know stances go by the other members.
#[derive(Serialize)]
struct Told<'a> {
    requester: &'a str,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(rename = "org.synapse_rust.stance")]
    stance: &'a Stance,
}

/// Tells the other half of the newest stance, if that has not been done. The answer is why there is nobody to tell.
///
/// # Errors
/// `Unavailable` when it has to be tried again.
pub(super) async fn tell(hub: &Arc<Hub>, pair: &Pair, half: &Model) -> Outcome<Option<DomainError>> {
    if half.told_seq >= half.own_seq {
        return Ok(None);
    }
    let failpoints = &hub.env().failpoints;
    failpoints.pass(FRIEND_UNTOLD);
    let told = match hub.env().is_local(&pair.friend) {
        true => here(hub, pair, half).await,
        false => elsewhere(hub, pair, half).await,
    };
    failpoints.pass(FRIEND_TOLD);
    let (wish, refusal) = match told {
        Ok(()) => (Wish::Told(half.own_seq), None),
        Err(refused @ DomainError::Matrix { status: 400..500, .. }) => {
            (Wish::Refused(half.own_seq), half.own_wants.then_some(refused))
        }
        Err(DomainError::Matrix { message, .. }) => return Err(DomainError::unavailable(message)),
        Err(error) => return Err(error),
    };
    hub.sessions().befriend(&pair.user, &pair.friend, wish).await?;
    Ok(refusal)
}

async fn here(hub: &Arc<Hub>, pair: &Pair, half: &Model) -> Outcome<()> {
    let wish = Wish::Hear(Box::new(stance(half)));
    let other = hub.sessions().befriend(&pair.friend, &pair.user, wish).await?;
    if other.due {
        settle_soon(hub, Pair::new(&pair.friend, &pair.user));
    }
    Ok(())
}

async fn elsewhere(hub: &Hub, pair: &Pair, half: &Model) -> Outcome<()> {
    let view = hub.sessions().view(&pair.user).await?;
    let stance = Stance {
        display_name: view.as_ref().and_then(|view| view.displayname()),
        avatar_url: view.as_ref().and_then(|view| view.avatar_url()),
        ..stance(half)
    };
    let told = Told {
        requester: pair.user.as_str(),
        target: pair.friend.as_str(),
        message: stance.message.as_deref(),
        stance: &stance,
    };
    let body = to_raw_value(&told).map_err(|error| DomainError::internal(format!("a stance: {error}")))?;
    let path = if stance.wants { REQUEST } else { STANCE };
    let request = WireRequest::with_body(http::Method::POST, path, body, LIMITS);
    match hub
        .peers()
        .send(pair.friend.server_name(), request, Pace::Patient)
        .await
    {
        // The other server knows no friends: its user gets the invite to the room like any other.
        Err(error) if is_unknown_endpoint(&error) => Ok(()),
        answer => answer.map(|_| ()),
    }
}
