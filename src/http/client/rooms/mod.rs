//! Rooms (client-server API, "Rooms" and the modules that build on it): thin translations of requests into calls on the
//! hub.

mod aliases;
mod create;
pub mod directory;
mod history;
mod legacy;
mod members;
mod membership;
mod redact;
mod relations;
mod reports;
mod search;
mod send;
mod spaces;
mod state;
mod users;

use actors::error::{DomainError, Outcome};
use actors::room::event::StoredEvent;
use actors::room::read::Access;
use actors::room::render::{RoomIdField, Viewer};
use actors::room::{bundle, read};
use actors::session::identity::Identity;
use actors::session::load;
use entities::ids::StreamPos;
use ruma::{OwnedEventId, OwnedUserId, RoomId, UInt};
use serde_json::value::RawValue;

use std::collections::HashSet;
use std::sync::Arc;

use super::data::suspended;
use crate::http::context::Ctx;
use crate::http::endpoint::Table;

/// Registers the chapter.
pub fn routes(table: &mut Table) {
    aliases::routes(table);
    create::routes(table);
    directory::routes(table);
    history::routes(table);
    legacy::routes(table);
    members::routes(table);
    membership::routes(table);
    redact::routes(table);
    relations::routes(table);
    reports::routes(table);
    search::routes(table);
    send::routes(table);
    spaces::routes(table);
    state::routes(table);
    users::routes(table);
}

/// The user, who may change things.
pub(super) fn active(ctx: &Ctx) -> Outcome<&Identity> {
    let identity = ctx.user()?;
    if identity.is_suspended {
        Err(suspended())
    } else {
        Ok(identity)
    }
}

/// What shadow-banned users get for what is not sent: an id that no event has. `None` for everybody else.
fn pretended(ctx: &Ctx) -> Outcome<Option<OwnedEventId>> {
    let env = ctx.hub.env();
    if !env.security.is_shadow_banned(&ctx.user()?.user_id) {
        return Ok(None);
    }
    let id = format!("${}", env.rng.alphanumeric(43));
    Ok(OwnedEventId::try_from(id).ok())
}

/// Whether a room exists is no outsider's business.
pub(super) async fn require_room(ctx: &Ctx, room_id: &RoomId) -> Outcome<()> {
    match ctx.hub.rooms().view(room_id).await? {
        Some(_) => Ok(()),
        None => Err(DomainError::forbidden(format!("you are not in {room_id}"))),
    }
}

fn viewer(ctx: &Ctx, identity: &Identity) -> Viewer {
    Viewer {
        user: identity.user_id.clone(),
        device: Some(identity.device_id.clone()),
        now: ctx.hub.env().clock.now_ms(),
    }
}

/// A number of things asked for, as a `usize`.
fn count(limit: UInt) -> usize {
    usize::try_from(u64::from(limit)).unwrap_or(usize::MAX)
}

/// A reader of one room.
struct Reading<'a> {
    ctx: &'a Ctx,
    viewer: Viewer,
    access: Access,
    ignored: Arc<HashSet<OwnedUserId>>,
}

impl<'a> Reading<'a> {
    /// Refuses those who may not read the room.
    async fn open(ctx: &'a Ctx, room_id: &RoomId) -> Outcome<Self> {
        let identity = ctx.user()?;
        let env = ctx.hub.env();
        let access = read::access(env, &identity.user_id, room_id).await?;
        let view = load::view(env, &identity.user_id).await?;
        let ignored = view.map(|view| view.ignored.clone()).unwrap_or_default();
        Ok(Self {
            ctx,
            viewer: viewer(ctx, identity),
            access,
            ignored,
        })
    }

    /// Leaves out what users sent whom the reader ignores; state stays.
    fn without_ignored(&self, events: &mut Vec<Arc<StoredEvent>>) {
        events.retain(|event| event.pdu.state_key.is_some() || !self.ignored.contains(&event.pdu.sender));
    }

    async fn render(&self, events: &[Arc<StoredEvent>]) -> Outcome<Vec<Box<RawValue>>> {
        let reader = bundle::Reader {
            env: self.ctx.hub.env(),
            viewer: &self.viewer,
            ignored: &self.ignored,
            upto: self.access.upto,
        };
        bundle::client_events(reader, &self.access.room, events, RoomIdField::Shown).await
    }

    /// State events, which carry nothing bundled.
    fn render_state<'e>(&self, events: impl IntoIterator<Item = &'e Arc<StoredEvent>>) -> Vec<Box<RawValue>> {
        let render = |event: &Arc<StoredEvent>| {
            actors::room::render::client_event(event, &self.viewer, RoomIdField::Shown, Default::default())
        };
        events.into_iter().map(render).collect()
    }

    fn upto(&self) -> StreamPos {
        self.access.upto
    }
}
