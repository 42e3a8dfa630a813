//! The list of what a user was notified about (client-server API, "Listing Notifications"): computed from the events of
//! the rooms it is in, newest first.

use std::collections::HashMap;
use std::sync::Arc;

use entities::ids::{RoomNid, StreamPos};
use ruma::push::Action;
use ruma::{DeviceId, OwnedRoomId, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Reader, Verdict, actions};
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::room::event::{StoredEvent, thread_of};
use crate::room::render::{Extras, RoomIdField, Viewer, client_event};
use crate::room::snapshot::RoomSnapshot;
use crate::room::visibility::filter_visible;
use crate::session::load;
use crate::session::sync::unread::Marks;
use crate::session::view::UserView;
use crate::stream::token::Token;

/// Notifications of one page, unless the client says.
const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;
/// Events read at a time.
const CHUNK: u32 = 200;
/// Chunks read for one page.
const MAX_CHUNKS: usize = 16;
/// Stream positions looked at first; where they hold too little, twice as many next.
const FIRST_SPAN: i64 = 4_096;
const MAX_SPAN: i64 = 262_144;

/// Which page.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Where the page before ended.
    pub from: Option<String>,
    /// How many at most.
    pub limit: Option<usize>,
    /// Only those that stand out.
    pub only_highlights: bool,
}

/// One page.
#[derive(Debug, Default, Serialize)]
pub struct Page {
    /// Where the next page begins; `None` at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_token: Option<String>,
    /// Newest first.
    pub notifications: Vec<Notification>,
}

/// Something the user was notified about.
#[derive(Debug, Serialize)]
pub struct Notification {
    /// What its rule does.
    pub actions: Vec<Action>,
    /// The event.
    pub event: Box<RawValue>,
    /// Whether a receipt covers it.
    pub read: bool,
    /// Its room.
    pub room_id: OwnedRoomId,
    /// When it was sent, Unix milliseconds.
    pub ts: u64,
}

struct Room {
    snapshot: Arc<RoomSnapshot>,
    reader: Reader,
    marks: Marks,
}

struct Walk<'a> {
    env: &'a Env,
    view: &'a UserView,
    viewer: Viewer,
    rooms: HashMap<RoomNid, Option<Room>>,
    only_highlights: bool,
}

/// A page of notifications. It may be empty although there are more further back.
///
/// # Errors
/// `M_INVALID_PARAM` for tokens of another kind; `Unavailable` when the database does not answer.
pub async fn page(env: &Env, user: &UserId, device: &DeviceId, query: &Query) -> Outcome<Page> {
    let view = load::view(env, user).await?;
    let view = view.ok_or_else(|| DomainError::not_found("Unknown user"))?;
    let visible = env.visible();
    let mut cursor = match &query.from {
        Some(from) => Token::parse(from)?.pos().min(visible),
        None => visible,
    };
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let memberships = env.store.memberships_of_user(user.as_str(), Some(&["join"])).await?;
    let nids: Vec<i64> = memberships.iter().map(|(row, _)| row.room_nid).collect();
    let mut page = Page::default();
    let viewer = Viewer {
        user: user.to_owned(),
        device: Some(device.to_owned()),
        now: env.clock.now_ms(),
    };
    let mut walk = Walk {
        env,
        view: &view,
        viewer,
        rooms: HashMap::new(),
        only_highlights: query.only_highlights,
    };
    let mut span = FIRST_SPAN;
    for _ in 0..MAX_CHUNKS {
        if cursor <= StreamPos(0) || nids.is_empty() {
            return Ok(page);
        }
        let floor = (cursor.0 - span).max(0);
        let rows = env.store.newest_of_rooms(&nids, floor, cursor.0, CHUNK).await?;
        let whole = rows.len() >= usize::try_from(CHUNK).unwrap_or(usize::MAX);
        for event in env.rooms.decode(rows).await? {
            cursor = event.pos.map_or(cursor, |pos| StreamPos(pos.0 - 1));
            page.notifications.extend(walk.notification(event).await?);
            if page.notifications.len() == limit {
                page.next_token = Some(Token::Live(cursor).to_string());
                return Ok(page);
            }
        }
        if !whole {
            cursor = StreamPos(floor);
            span = (span * 2).min(MAX_SPAN);
        }
    }
    page.next_token = (cursor > StreamPos(0)).then(|| Token::Live(cursor).to_string());
    Ok(page)
}

impl Walk<'_> {
    async fn notification(&mut self, event: Arc<StoredEvent>) -> Outcome<Option<Notification>> {
        let sender = &event.pdu.sender;
        if *sender == self.viewer.user || self.view.ignored.contains(sender) {
            return Ok(None);
        }
        self.open(event.room_nid).await?;
        let Some(Some(room)) = self.rooms.get_mut(&event.room_nid) else {
            return Ok(None);
        };
        let thread = thread_of(&event.pdu);
        room.reader.look_at(self.env, self.view, thread.as_deref()).await?;
        let actions = actions(&room.reader, &self.view.push_rules, &event).await;
        let verdict = Verdict::of(&actions);
        if !verdict.notify || self.only_highlights && !verdict.highlight {
            return Ok(None);
        }
        let pos = event.pos.unwrap_or_default();
        let seen = filter_visible(&self.env.rooms, &self.viewer.user, &room.snapshot, vec![event]).await?;
        Ok(seen.first().map(|event| Notification {
            actions,
            event: client_event(event, &self.viewer, RoomIdField::Omitted, Extras::default()),
            read: room.marks.cover(pos, thread.as_deref()),
            room_id: room.snapshot.room_id.clone(),
            ts: event.pdu.origin_server_ts.get().into(),
        }))
    }

    async fn open(&mut self, nid: RoomNid) -> Outcome<()> {
        if self.rooms.contains_key(&nid) {
            return Ok(());
        }
        let mut room = None;
        if let Some(snapshot) = self.env.rooms.view_nid(nid).await? {
            let user = self.viewer.user.as_str();
            let receipts = self.env.store.receipts_of_user(user, &[nid.0]).await?;
            room = Some(Room {
                reader: Reader::new(&snapshot, self.view),
                marks: Marks::of(&receipts),
                snapshot,
            });
        }
        self.rooms.insert(nid, room);
        Ok(())
    }
}
