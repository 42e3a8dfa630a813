//! Events by their time, in rooms whose history is not all here (client-server and server-server API, `timestamp_to_event`).

use std::sync::Arc;
use std::time::Duration;

use ruma::api::Direction;
use ruma::api::federation::event::get_event_by_timestamp::v1;
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName};

use crate::error::Outcome;
use crate::hub::Hub;
use crate::peer::handle::Pace;
use crate::room::snapshot::RoomSnapshot;

/// Servers that are asked for one answer.
const SERVERS: usize = 3;
/// How long each may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// An event and its time, Unix milliseconds.
pub type Found = (OwnedEventId, i64);

/// The event closest to a time that other servers of the room know, where parts of its history are missing here and theirs is
/// closer than `own`.
///
/// # Errors
/// `Unavailable` when the database does not answer; what other servers do not answer is no error.
pub async fn elsewhere(
    hub: &Arc<Hub>,
    room: &RoomSnapshot,
    ts: MilliSecondsSinceUnixEpoch,
    backwards: bool,
    own: Option<i64>,
) -> Outcome<Option<Found>> {
    let env = hub.env();
    let wanted = i64::from(ts.get());
    // Nothing is closer than what is exactly there.
    if own == Some(wanted) || !env.store.has_gaps(room.nid.0).await? {
        return Ok(None);
    }
    let direction = if backwards {
        Direction::Backward
    } else {
        Direction::Forward
    };
    let closer = |other: i64| {
        let on_that_side = if backwards { other <= wanted } else { other >= wanted };
        on_that_side && own.is_none_or(|own| other.abs_diff(wanted) < own.abs_diff(wanted))
    };
    let others = room.joined_servers.iter().filter(|server| **server != env.server_name);
    let others: Vec<&OwnedServerName> = others.take(SERVERS).collect();
    for server in others {
        let request = v1::Request::new(room.room_id.clone(), ts, direction);
        let asked = hub.peers().call(server, request, Pace::Patient);
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => {
                let at = i64::from(answer.origin_server_ts.get());
                return Ok(closer(at).then_some((answer.event_id, at)));
            }
            Ok(Err(error)) => tracing::debug!(%server, %error, room_id = %room.room_id, "no event by its time"),
            Err(_) => tracing::debug!(%server, room_id = %room.room_id, "no event by its time in time"),
        }
    }
    Ok(None)
}
