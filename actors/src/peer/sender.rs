//! The task that sends to one server: one transaction at a time, repeated as it is until it is answered (server-server API,
//! "Transactions"). It ends when there is nothing to send, or when the server is to be left alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use entities::ids::RoomNid;
use federation::Limits;
use http::Method;
use ruma::{OwnedEventId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::health::Sign;
use super::outbox::{Flight, MAX_BYTES, MAX_EDUS, MAX_PDUS, Owed};
use super::transport::WireRequest;
use super::view::{Next, PeerView};
use super::{catchup, durable};
use crate::clock::Millis;
use crate::error::{DomainError, Outcome};
use crate::peer::handle::Shared;

/// Rooms that one transaction pays debts of.
const ROOMS: usize = MAX_PDUS;
/// After a pause as long as this, a transaction is put together anew: the server needs other things by then.
const GIVE_UP_MS: Millis = 10 * 60 * 1_000;
/// How long to wait where the database does not answer.
const STORE_PAUSE: Duration = Duration::from_secs(5);
/// Durable EDUs that are kept for a server that does not answer; see [`entities::store::Store::trim_outbound_edus`].
const MAX_DURABLE: u32 = 10_000;
/// Characters of what a server says about an event that are kept.
const MAX_WORDS: usize = 500;

/// Starts the sender of a server, if there is something to send and nobody who does.
pub(super) fn kick(shared: &Arc<Shared>, view: &Arc<PeerView>) {
    if !shared.is_stopping() && view.begin_sending(shared.now()) {
        shared.env.io.spawn(run(Arc::clone(shared), Arc::clone(view)));
    }
}

/// Resets the mark that somebody sends, also after a panic.
struct Sending<'a> {
    view: &'a PeerView,
    ended: bool,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.view.end_sending();
        }
    }
}

async fn run(shared: Arc<Shared>, view: Arc<PeerView>) {
    let mut sending = Sending {
        view: &view,
        ended: false,
    };
    while !shared.is_stopping() {
        let done = match view.next(shared.now(), ROOMS) {
            Next::Rest => {
                sending.ended = true;
                return;
            }
            Next::Load => shared.open(view.server()).await.map(|_| ()),
            Next::Repeat(flight) => transmit(&shared, &view, &flight).await,
            Next::Compose(debts) => compose(&shared, &view, debts).await,
        };
        if let Err(error) = done {
            tracing::warn!(server = %view.server(), %error, "sending to a server has to wait");
            tokio::time::sleep(STORE_PAUSE).await;
        }
    }
}

/// Puts the next transaction together and sends it.
async fn compose(shared: &Shared, view: &PeerView, debts: Vec<(RoomNid, Owed)>) -> Outcome<()> {
    let now = shared.now();
    let mut flight = Flight {
        id: shared.transaction_id(),
        ts: now,
        ..Flight::default()
    };
    pay(shared, view.server(), debts, &mut flight).await?;
    if view.take_durable() {
        let read = add_durable(shared, view, &mut flight).await;
        read.inspect_err(|_| view.want(now))?;
    }
    match view.depart(flight, now) {
        Some(flight) => transmit(shared, view, &flight).await,
        None => Ok(()),
    }
}

/// Half of a transaction at most: new events are not to wait for old ones.
async fn pay(shared: &Shared, server: &ServerName, debts: Vec<(RoomNid, Owed)>, flight: &mut Flight) -> Outcome<()> {
    for (room, owed) in debts {
        let left = (MAX_PDUS / 2).saturating_sub(flight.pdus.len());
        let bytes: usize = flight.pdus.iter().map(|pdu| pdu.len()).sum();
        if left == 0 || bytes > MAX_BYTES / 2 {
            break;
        }
        let part = catchup::read(&shared.env, server, room, owed, left).await?;
        flight
            .pdus
            .extend(part.events.iter().map(|event| event.pdu.json.clone()));
        flight.covered.push((room, part.upto));
    }
    Ok(())
}

async fn add_durable(shared: &Shared, view: &PeerView, flight: &mut Flight) -> Outcome<()> {
    let limit = u32::try_from(MAX_EDUS).unwrap_or(u32::MAX);
    let rows = shared.env.store.outbound_edus(view.server().as_str(), limit).await?;
    let read = rows.len();
    (flight.edus, flight.durable) = durable::edus(&shared.env, rows).await?;
    if flight.durable.len() < read || read == MAX_EDUS {
        view.want(shared.now());
    }
    Ok(())
}

/// The body of a transaction.
#[derive(Serialize)]
struct Body<'a> {
    origin: &'a ServerName,
    origin_server_ts: Millis,
    pdus: Vec<&'a RawValue>,
    edus: &'a [Box<RawValue>],
}

fn request(origin: &ServerName, flight: &Flight) -> Outcome<WireRequest> {
    let internal = |error: serde_json::Error| DomainError::internal(format!("a transaction: {error}"));
    let pdus = flight.pdus.iter().map(|pdu| serde_json::from_str(pdu));
    let body = Body {
        origin,
        origin_server_ts: flight.ts,
        pdus: pdus.collect::<Result<_, _>>().map_err(internal)?,
        edus: &flight.edus,
    };
    let body = to_raw_value(&body).map_err(internal)?;
    let path = format!("/_matrix/federation/v1/send/{}", flight.id);
    let limits = Limits {
        timeout: Duration::from_secs(60),
        ..Limits::QUERY
    };
    Ok(WireRequest::with_body(Method::PUT, path, body, limits))
}

/// Sends a transaction once.
async fn transmit(shared: &Shared, view: &PeerView, flight: &Flight) -> Outcome<()> {
    let request = match request(&shared.env.server_name, flight) {
        Ok(request) => request,
        Err(error) => {
            // It would never be sent.
            view.failed(true);
            return Err(error);
        }
    };
    let outcome = shared.exchange(view, request, Sign::of_transaction).await;
    let Ok(answer) = outcome else {
        let pause = view.health().pause;
        view.failed(pause >= GIVE_UP_MS);
        if pause > 0 {
            trim(shared, view.server()).await?;
        }
        return Ok(());
    };
    // Gone from the database before they can be read again.
    if !flight.durable.is_empty() {
        let server = view.server().as_str();
        shared.env.store.delete_outbound_edus(server, &flight.durable).await?;
    }
    view.arrived(refused(&answer.body), shared.now());
    metrics::counter!("federation_sent_pdus_total").increment(flight.pdus.len() as u64);
    metrics::counter!("federation_sent_edus_total").increment(flight.edus.len() as u64);
    Ok(())
}

async fn trim(shared: &Shared, server: &ServerName) -> Outcome<()> {
    let (updates, others) = shared
        .env
        .store
        .trim_outbound_edus(server.as_str(), MAX_DURABLE)
        .await?;
    if others > 0 {
        tracing::warn!(%server, others, "to-device messages for a server that does not answer were dropped");
    }
    if updates > 0 {
        tracing::info!(%server, updates, "a server that does not answer will have to ask for devices again");
    }
    Ok(())
}

/// The events that the server took note of without wanting them.
fn refused(body: &[u8]) -> Vec<(OwnedEventId, String)> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        pdus: BTreeMap<OwnedEventId, Event>,
    }
    #[derive(Deserialize)]
    struct Event {
        error: Option<String>,
    }
    // Servers answer all kinds of things; that they have answered is enough.
    let answer: Answer = serde_json::from_slice(body).unwrap_or(Answer { pdus: BTreeMap::new() });
    let refused = answer
        .pdus
        .into_iter()
        .filter_map(|(id, event)| Some((id, event.error?)));
    refused
        .take(MAX_PDUS)
        .map(|(id, words)| (id, words.chars().take(MAX_WORDS).collect()))
        .collect()
}
