//! What other servers ask.

mod backfill;
mod events;
mod extensions;
mod friends;
mod hierarchy;
mod invite;
mod join;
mod keys;
mod knock;
mod leave;
mod media;
mod policy;
mod public_rooms;
mod query;
mod send;
mod state;
mod third_party;
pub(super) mod users;
mod version;

use actors::error::{DomainError, Outcome};
use actors::room::export::document::Document;
use futures_util::StreamExt as _;
use http::header::CONTENT_TYPE;
use ruma::{EventId, OwnedEventId};

use super::context::RawRequest;
use super::endpoint::Table;
use super::reply::Reply;

/// Answers above this size, bytes, are sent piece by piece.
const WHOLE: usize = 256 * 1024;

/// Registers all chapters.
pub fn routes(table: &mut Table) {
    backfill::routes(table);
    events::routes(table);
    extensions::routes(table);
    friends::routes(table);
    hierarchy::routes(table);
    invite::routes(table);
    join::routes(table);
    keys::routes(table);
    knock::routes(table);
    leave::routes(table);
    media::routes(table);
    policy::routes(table);
    public_rooms::routes(table);
    query::routes(table);
    send::routes(table);
    state::routes(table);
    third_party::routes(table);
    users::routes(table);
    version::routes(table);
}

/// A path argument that is an event's id.
fn event_id(request: &RawRequest, at: usize) -> Outcome<OwnedEventId> {
    let arg = request.arg(at)?;
    EventId::parse(arg).map_err(|e| DomainError::invalid_param(format!("invalid event id {arg:?}: {e}")))
}

/// An answer made of stored texts.
fn document(document: Document) -> Outcome<Reply> {
    if document.len() <= WHOLE {
        return Ok(Reply::json_bytes(document.into_bytes()));
    }
    let size = u64::try_from(document.len()).ok();
    let pieces = futures_util::stream::iter(document.pieces().map(Ok)).boxed();
    Reply::stream(size, pieces).with_header(CONTENT_TYPE, "application/json")
}
