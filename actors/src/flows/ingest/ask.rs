//! What is asked of other servers about a room's events (server-server API, "Backfilling and retrieving missing events",
//! "Retrieving events", "Retrieving event authorisation information").

use ruma::api::federation::authorization::get_event_authorization;
use ruma::api::federation::event::{get_event, get_missing_events, get_room_state, get_room_state_ids};
use ruma::{EventId, OwnedEventId, RoomId, ServerName, UInt};
use serde_json::value::RawValue;

use crate::error::Outcome;
use crate::hub::Hub;
use crate::peer::handle::Pace;

/// PDUs as they came.
pub type Raw = Vec<Box<RawValue>>;

/// The events between `latest` and `earliest`, some of them.
pub async fn missing_events(
    hub: &Hub,
    server: &ServerName,
    room_id: &RoomId,
    (earliest, latest): (Vec<OwnedEventId>, Vec<OwnedEventId>),
    (limit, min_depth): (u32, i64),
) -> Outcome<Raw> {
    let mut request = get_missing_events::v1::Request::new(room_id.to_owned(), earliest, latest);
    request.limit = limit.into();
    request.min_depth = UInt::try_from(min_depth.max(0)).unwrap_or_default();
    let answer = hub.peers().call(server, request, Pace::Patient).await?;
    Ok(answer.events)
}

/// The ids of the state before an event, and of the auth chains of that state.
pub async fn state_ids(
    hub: &Hub,
    server: &ServerName,
    room_id: &RoomId,
    event_id: &EventId,
) -> Outcome<(Vec<OwnedEventId>, Vec<OwnedEventId>)> {
    let request = get_room_state_ids::v1::Request::new(event_id.to_owned(), room_id.to_owned());
    let answer = hub.peers().call(server, request, Pace::Patient).await?;
    Ok((answer.pdu_ids, answer.auth_chain_ids))
}

/// The state before an event and its auth chains, together.
pub async fn state(hub: &Hub, server: &ServerName, room_id: &RoomId, event_id: &EventId) -> Outcome<Raw> {
    let request = get_room_state::v1::Request::new(event_id.to_owned(), room_id.to_owned());
    let answer = hub.peers().call(server, request, Pace::Patient).await?;
    let mut events = answer.auth_chain;
    events.extend(answer.pdus);
    Ok(events)
}

/// The auth chain of an event.
pub async fn event_auth(hub: &Hub, server: &ServerName, room_id: &RoomId, event_id: &EventId) -> Outcome<Raw> {
    let request = get_event_authorization::v1::Request::new(room_id.to_owned(), event_id.to_owned());
    let answer = hub.peers().call(server, request, Pace::Patient).await?;
    Ok(answer.auth_chain)
}

/// One event.
pub async fn event(hub: &Hub, server: &ServerName, event_id: &EventId) -> Outcome<Box<RawValue>> {
    let request = get_event::v1::Request::new(event_id.to_owned());
    let answer = hub.peers().call(server, request, Pace::Patient).await?;
    Ok(answer.pdu)
}
