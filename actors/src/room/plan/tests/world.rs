//! A room in memory and the numbers that the world around it would keep.

use std::collections::HashMap;
use std::sync::Arc;

use entities::ids::{RoomNid, StateKeyNid, StreamPos};
use ruma::api::client::room::create_room::v3::Request;
use ruma::{OwnedEventId, OwnedUserId, RoomVersionId, user_id};
use serde_json::{Value, json};

use super::super::*;
use crate::error::DomainError;
use crate::room::commands::{Append, Draft};
use crate::room::create::{self, NewRoom, Options};
use crate::room::membership::{self, Action, Ask, Profile};
use crate::room::snapshot::TIMELINE_TAIL;
use crate::room::{members, parse, rules};

pub(super) fn origin(seed: u64) -> Origin {
    let key = Arc::new(ServerKey::new(&[7; 32], "a"));
    Origin {
        server: "x".try_into().expect("a server name"),
        key,
        rng: Rng::seeded(seed),
    }
}

pub(super) fn raw(value: &Value) -> Box<serde_json::value::RawValue> {
    serde_json::value::to_raw_value(value).expect("serializes")
}

/// A room and the numbers that the world around it would keep.
pub(super) struct World {
    pub(super) origin: Origin,
    pub(super) room: Arc<RoomSnapshot>,
    pub(super) prefetched: Prefetched,
    pub(super) next_nid: i64,
    pub(super) next_pos: i64,
    pub(super) now: i64,
    pub(super) last: Option<Published>,
}

pub(super) fn alice() -> OwnedUserId {
    user_id!("@alice:x").to_owned()
}

pub(super) fn bob() -> OwnedUserId {
    user_id!("@bob:x").to_owned()
}

pub(super) fn built(request: &Request) -> Outcome<NewRoom> {
    create::build(&Options {
        request,
        creator: &alice(),
        profiles: &HashMap::from([(
            alice(),
            Profile {
                displayname: Some("Alice".to_owned()),
                avatar_url: None,
            },
        )]),
        default_version: &RoomVersionId::V11,
        now: 1_000,
        origin: &origin(1),
    })
}

pub(super) fn request(version: &str, more: Value) -> Request {
    let mut request = Request::new();
    request.room_version = Some(version.try_into().expect("a version"));
    if let Some(preset) = more["preset"].as_str() {
        request.preset = Some(preset.into());
    }
    if let Some(over) = more.get("power_level_content_override") {
        request.power_level_content_override = Some(ruma::serde::Raw::from_json(raw(over)));
    }
    for user in more["invite"].as_array().into_iter().flatten() {
        request
            .invite
            .push(user.as_str().expect("a user id").try_into().expect("a user id"));
    }
    request.name = more["name"].as_str().map(str::to_owned);
    request.topic = more["topic"].as_str().map(str::to_owned);
    request.is_direct = more["is_direct"].as_bool().unwrap_or(false);
    request
}

impl World {
    pub(super) fn new(version: &str, more: Value) -> Self {
        Self::create(built(&request(version, more)).expect("buildable")).expect("a valid room")
    }

    pub(super) fn create(new: NewRoom) -> Outcome<Self> {
        let rules = rules::rules_of(&new.create.version).expect("known");
        let pdu = parse::parse_pdu(&new.create.create_pdu, &rules, None).expect("a PDU");
        assert_eq!(pdu.room_id, new.room_id);
        let version = new.create.version.as_str().try_into().expect("a version");
        let empty = empty_room(RoomNid(1), new.room_id, version, rules);
        let mut world = Self {
            origin: origin(2),
            room: Arc::new(empty.clone()),
            prefetched: Prefetched::default(),
            next_nid: 100,
            next_pos: 10,
            now: 2_000,
            last: None,
        };
        let append = Append {
            drafts: new.create.drafts,
        };
        world.prefetch(&append.drafts);
        world.intern(&(Arc::from("m.room.create"), Arc::from("")));
        let input = Input {
            origin: &world.origin,
            now: world.now,
            first_nid: world.next_nid,
            prefetched: &world.prefetched,
        };
        let plan = plan_new(empty, pdu, &append, &input)?;
        world.next_nid += 10_000;
        world.commit(plan);
        Ok(world)
    }

    pub(super) fn intern(&mut self, key: &StateKey) {
        let next = self.prefetched.state_keys.len() as i64 + 1;
        self.prefetched
            .state_keys
            .entry(key.clone())
            .or_insert((StateKeyNid(next), false));
    }

    pub(super) fn prefetch(&mut self, drafts: &[Draft]) {
        for key in Needs::of(&self.room, drafts).state_keys {
            self.intern(&key);
        }
    }

    pub(super) fn commit(&mut self, plan: Plan) {
        let positions = i64::from(plan.positions);
        assert_eq!(plan.rows.events.len() as i64, positions);
        let published = plan.publish(StreamPos(self.next_pos));
        self.next_pos += positions;
        self.room = published.snapshot.clone();
        self.check_consistency();
        self.last = Some(published);
    }

    pub(super) fn batch(&mut self, batch: &[Append]) -> Vec<Outcome<Reply>> {
        for append in batch {
            self.prefetch(&append.drafts);
        }
        let input = Input {
            origin: &self.origin,
            now: self.now,
            first_nid: self.next_nid,
            prefetched: &self.prefetched,
        };
        let mut plan = plan(&self.room, batch, &input);
        let needs = Needs::of(&self.room, batch.iter().flat_map(|append| &append.drafts));
        let used = plan.rows.events.len() + plan.rows.state_groups.len();
        assert!(used <= needs.nids, "more numbers used than asked for");
        self.next_nid += needs.nids as i64;
        self.now += 1;
        let replies = std::mem::take(&mut plan.replies);
        if plan.positions > 0 {
            self.commit(plan);
        } else {
            assert!(plan.rows.is_empty());
        }
        replies
    }

    pub(super) fn send(&mut self, draft: Draft) -> Outcome<OwnedEventId> {
        let mut reply = self.batch(&[Append { drafts: vec![draft] }]).remove(0)?;
        Ok(reply.event_ids.remove(0))
    }

    pub(super) fn member(&mut self, sender: &OwnedUserId, target: &OwnedUserId, action: Action) -> Outcome<()> {
        let profile = Profile::default();
        let ask = Ask {
            sender,
            target,
            action,
            reason: None,
            profile: &profile,
        };
        match membership::draft(&self.room, &ask, &self.origin.server)? {
            Some(draft) => self.send(draft).map(|_| ()),
            None => Ok(()),
        }
    }

    pub(super) fn state(&self, kind: &str) -> Value {
        let event = self.room.state_event(kind, "").expect("there is such state");
        event.pdu.content_as().expect("an object")
    }

    /// What a snapshot derives must equal what it derives from.
    pub(super) fn check_consistency(&self) {
        let room = &self.room;
        let mut counted = (**room).clone();
        members::recount(&mut counted, &self.origin.server);
        assert_eq!(counted.local_joined, room.local_joined);
        assert_eq!(counted.joined_servers, room.joined_servers);
        assert_eq!(
            (counted.joined_count, counted.invited_count),
            (room.joined_count, room.invited_count)
        );
        assert!(room.timeline.len() <= TIMELINE_TAIL);
        assert_eq!(room.timeline.last().and_then(|event| event.pos), Some(room.pos));
        let positions: Vec<_> = room.timeline.iter().map(|event| event.pos).collect();
        assert!(positions.windows(2).all(|pair| pair[0] < pair[1]), "{positions:?}");
        let map = room.state.values().map(|entry| (entry.key_nid, entry.event.nid));
        let hash = crate::room::state_group::ContentHash::of(&crate::room::state_group::FullMap::from_entries(map));
        assert_eq!(hash, room.state_chain.hash);
    }
}

pub(super) fn text(sender: &OwnedUserId, body: &str, txn: Option<&str>) -> Draft {
    let txn = txn.map(|txn| ("DEV".to_owned(), txn.to_owned()));
    Draft::message(
        sender.clone(),
        "m.room.message",
        raw(&json!({"msgtype": "m.text", "body": body})),
        txn,
    )
}

pub(super) fn topic(sender: &OwnedUserId, topic: &str) -> Draft {
    Draft::state(sender.clone(), "m.room.topic", "", raw(&json!({ "topic": topic })))
}

pub(super) fn errcode<T: std::fmt::Debug>(outcome: Outcome<T>) -> String {
    match outcome.expect_err("a refusal") {
        DomainError::Matrix { errcode, .. } => errcode.into_owned(),
        other => other.to_string(),
    }
}
