//! Rooms of every version, planned in memory.

mod world;

use std::sync::Arc;

use ruma::{OwnedEventId, OwnedUserId};
use serde_json::{Value, json};

use super::*;
use crate::room::commands::{Append, Draft};
use crate::room::membership::{self, Action};
use crate::room::parse;
use crate::room::snapshot::{Extremity, TIMELINE_TAIL};
use world::*;

const VERSIONS: [&str; 12] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];

#[test]
fn rooms_of_every_version_can_be_used() {
    for version in VERSIONS {
        let mut world = World::new(version, json!({ "preset": "public_chat", "name": "N" }));
        assert!(world.room.is_joined(&alice()), "{version}");
        world
            .member(&bob(), &bob(), Action::Join { allowed: false })
            .expect("public");
        let first = world.send(text(&bob(), "hello", None)).expect("joined");
        let second = world.send(text(&alice(), "hi", None)).expect("joined");
        assert_ne!(first, second);
        assert_eq!(world.room.joined_count, 2, "{version}");
        let newest = world.room.timeline.last().expect("events").clone();
        assert_eq!(newest.pdu.prev_events, [first], "{version}");
        // What was made passes the checks that a peer would make.
        let parsed = parse::parse_pdu(&newest.pdu.json, &world.room.rules, None).expect("well-formed");
        assert_eq!(parsed.event_id, second, "{version}");
        assert_eq!(parsed.auth_events, newest.pdu.auth_events, "{version}");
        let create = world.room.state_event("m.room.create", "").expect("there").pdu.clone();
        let named = newest.pdu.auth_events.contains(&create.event_id);
        assert_eq!(named, version != "12", "{version}");
        assert_eq!(
            world.room.room_id.as_str()[1..] == create.event_id.as_str()[1..],
            version == "12"
        );
    }
}

#[test]
fn creators_of_version_12_are_not_in_the_power_levels() {
    let invite = json!({ "preset": "trusted_private_chat", "invite": ["@bob:x"] });
    let world = World::new("12", invite.clone());
    assert_eq!(world.state("m.room.power_levels")["users"], json!({}));
    assert_eq!(world.state("m.room.power_levels")["events"]["m.room.tombstone"], 150);
    assert_eq!(world.state("m.room.create")["additional_creators"], json!(["@bob:x"]));
    let world = World::new("11", invite);
    assert_eq!(
        world.state("m.room.power_levels")["users"],
        json!({ "@alice:x": 100, "@bob:x": 100 })
    );
    assert!(world.state("m.room.create").get("additional_creators").is_none());
    assert!(world.state("m.room.create").get("creator").is_none());
    assert_eq!(
        World::new("10", json!({})).state("m.room.create")["creator"],
        "@alice:x"
    );
}

#[test]
fn the_events_of_a_new_room_come_in_the_order_of_the_specification() {
    let wish = json!({ "preset": "private_chat", "name": "N", "topic": "T", "invite": ["@bob:x"], "is_direct": true });
    let world = World::new("11", wish);
    let kinds: Vec<_> = world
        .room
        .timeline
        .iter()
        .map(|event| event.pdu.kind.to_string())
        .collect();
    let expected = [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.history_visibility",
        "m.room.guest_access",
        "m.room.name",
        "m.room.topic",
        "m.room.member",
    ];
    assert_eq!(kinds, expected);
    assert!(world.room.timeline_complete);
    let invite: Value = world
        .room
        .timeline
        .last()
        .expect("there")
        .pdu
        .content_as()
        .expect("an object");
    assert_eq!(invite, json!({ "membership": "invite", "is_direct": true }));
    assert_eq!(world.room.invited_count, 1);
    let facts = &world.last.as_ref().expect("committed").facts;
    assert_eq!(*facts.last().expect("facts").users, [alice(), bob()]);
    assert_eq!(*facts[1].users, [alice()]);
}

#[test]
fn a_room_whose_creator_may_not_name_it_is_refused() {
    let wish = json!({ "name": "N", "power_level_content_override": { "events": { "m.room.name": 101 } } });
    let refused = World::create(built(&request("11", wish)).expect("buildable"));
    assert_eq!(errcode(refused.map(|_| ())), "M_FORBIDDEN");
}

#[test]
fn the_rules_refuse_with_their_reason() {
    let mut world = World::new("11", json!({ "preset": "private_chat" }));
    assert_eq!(errcode(world.send(text(&bob(), "let me in", None))), "M_FORBIDDEN");
    assert_eq!(
        errcode(world.member(&bob(), &bob(), Action::Join { allowed: false })),
        "M_FORBIDDEN"
    );
    world
        .member(&alice(), &bob(), Action::Invite { is_direct: false })
        .expect("may invite");
    world
        .member(&bob(), &bob(), Action::Join { allowed: false })
        .expect("invited");
    assert_eq!(errcode(world.send(topic(&bob(), "mine"))), "M_FORBIDDEN");
    assert_eq!(errcode(world.member(&bob(), &alice(), Action::Kick)), "M_FORBIDDEN");
    world.member(&alice(), &bob(), Action::Ban).expect("may ban");
    assert_eq!(errcode(world.member(&alice(), &bob(), Action::Kick)), "M_FORBIDDEN");
    assert_eq!(
        errcode(world.member(&alice(), &bob(), Action::Invite { is_direct: false })),
        "M_FORBIDDEN"
    );
    world.member(&alice(), &bob(), Action::Unban).expect("may unban");
    assert_eq!(errcode(world.member(&alice(), &bob(), Action::Unban)), "M_FORBIDDEN");
    assert_eq!(world.room.membership(&bob()), "leave");
}

#[test]
fn one_refusal_refuses_its_append_and_no_other() {
    let mut world = World::new("11", json!({ "preset": "public_chat" }));
    let before = world.room.pos;
    let good = |body| Append {
        drafts: vec![text(&alice(), body, None)],
    };
    let bad = Append {
        drafts: vec![topic(&alice(), "T"), text(&bob(), "not in the room", None)],
    };
    let replies = world.batch(&[good("1"), bad, good("2")]);
    assert!(replies[0].is_ok() && replies[2].is_ok());
    assert_eq!(errcode(replies[1].clone()), "M_FORBIDDEN");
    assert!(world.room.state_event("m.room.topic", "").is_none());
    assert_eq!(world.room.pos.0, before.0 + 2);
    assert_eq!(world.room.extremities.len(), 1);
}

#[test]
fn a_transaction_is_answered_with_its_first_event() {
    let mut world = World::new("11", json!({}));
    let once = |txn| Append {
        drafts: vec![text(&alice(), "once", Some(txn))],
    };
    let replies = world.batch(&[once("1"), once("1"), once("2")]);
    let ids: Vec<_> = replies
        .into_iter()
        .map(|reply| reply.expect("allowed").event_ids.remove(0))
        .collect();
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], ids[2]);
    let key = (alice(), "DEV".to_owned(), "9".to_owned(), "m.room.message".to_owned());
    world.prefetched.txns.insert(key, ids[2].clone());
    let before = world.room.pos;
    assert_eq!(world.send(text(&alice(), "stored", Some("9"))).expect("known"), ids[2]);
    assert_eq!(world.room.pos, before);
}

#[test]
fn state_that_changes_nothing_is_no_event() {
    let mut world = World::new("11", json!({}));
    let first = world.send(topic(&alice(), "T")).expect("allowed");
    let before = world.room.pos;
    assert_eq!(world.send(topic(&alice(), "T")).expect("allowed"), first);
    assert_eq!(world.room.pos, before);
    let second = world.send(topic(&alice(), "U")).expect("allowed");
    assert_ne!(first, second);
    let newest = world.room.timeline.last().expect("there");
    let unsigned: Value = serde_json::from_str(newest.unsigned.as_deref().expect("replaces")).expect("JSON");
    assert_eq!(unsigned["prev_content"], json!({ "topic": "T" }));
    assert_eq!(unsigned["prev_sender"], "@alice:x");
    assert_eq!(unsigned["replaces_state"], first.as_str());
}

fn redaction(sender: &OwnedUserId, target: &OwnedEventId) -> Draft {
    let mut draft = Draft::message(
        sender.clone(),
        "m.room.redaction",
        raw(&json!({ "reason": "spam" })),
        None,
    );
    draft.redacts = Some(target.clone());
    draft
}

#[test]
fn redactions_prune_what_their_sender_may_prune() {
    for version in VERSIONS {
        let mut world = World::new(version, json!({ "preset": "public_chat" }));
        world
            .member(&bob(), &bob(), Action::Join { allowed: false })
            .expect("public");
        let of_bob = world.send(text(&bob(), "bob's", None)).expect("allowed");
        let of_alice = world.send(text(&alice(), "alice's", None)).expect("allowed");
        assert_eq!(
            errcode(world.send(redaction(&bob(), &of_alice))),
            "M_FORBIDDEN",
            "{version}"
        );
        let by = world.send(redaction(&bob(), &of_bob)).expect("own event");
        let pruned = find(&world.room, &of_bob).expect("still there").clone();
        assert_eq!(pruned.pdu.content.get(), "{}", "{version}");
        assert_eq!(pruned.redacted_by.as_ref(), Some(&by), "{version}");
        assert!(pruned.unsigned.as_deref().expect("set").contains("redacted_because"));
        assert_eq!(world.last.as_ref().expect("committed").pruned.len(), 1);
        world
            .send(redaction(&alice(), &of_bob))
            .expect("allowed, without effect");
        assert_eq!(
            find(&world.room, &of_bob).expect("there").redacted_by.as_ref(),
            Some(&by)
        );
        let create = world
            .room
            .state_event("m.room.create", "")
            .expect("there")
            .pdu
            .event_id
            .clone();
        assert_eq!(
            errcode(world.send(redaction(&alice(), &create))),
            "M_FORBIDDEN",
            "{version}"
        );
    }
}

#[test]
fn state_and_fresh_events_are_pruned_too() {
    let mut world = World::new("11", json!({}));
    let old = world.send(topic(&alice(), "secret")).expect("allowed");
    let content = raw(&json!({ "redacts": old }));
    world
        .send(Draft::message(alice(), "m.room.redaction", content, None))
        .expect("named by its content");
    assert_eq!(world.state("m.room.topic"), json!({}));
    assert_eq!(
        errcode(world.send(redaction(&alice(), &"$unknown".try_into().expect("an id")))),
        "M_NOT_FOUND"
    );
    let none = Draft::message(alice(), "m.room.redaction", raw(&json!({})), None);
    assert_eq!(errcode(world.send(none)), "M_BAD_JSON");
}

#[test]
fn what_is_redacted_is_not_told_by_its_successor() {
    let mut world = World::new("11", json!({}));
    let secret = world.send(topic(&alice(), "secret")).expect("allowed");
    let next = world.send(topic(&alice(), "next")).expect("allowed");
    world.send(redaction(&alice(), &secret)).expect("allowed");
    let event = find(&world.room, &next).expect("there").clone();
    let unsigned: Value = serde_json::from_str(event.unsigned.as_deref().expect("replaces")).expect("JSON");
    assert_eq!(unsigned["prev_content"], json!({}));
    assert_eq!(unsigned["replaces_state"], secret.as_str());
    // All in one batch, and once the events have left the snapshot.
    let (first, second) = (topic(&alice(), "one"), topic(&alice(), "two"));
    let ids = world
        .batch(&[Append {
            drafts: vec![first, second],
        }])
        .remove(0)
        .expect("allowed")
        .event_ids;
    let stored: Vec<_> = ids
        .iter()
        .map(|id| find(&world.room, id).expect("there").clone())
        .collect();
    let mut room = (*world.room).clone();
    room.timeline = room
        .timeline
        .iter()
        .rev()
        .take(1)
        .filter(|e| !ids.contains(&e.pdu.event_id))
        .cloned()
        .collect();
    world.room = Arc::new(room);
    world.prefetched.events.insert(ids[0].clone(), stored[0].clone());
    world.prefetched.successors = stored[1..].to_vec();
    let batch = [redaction(&alice(), &ids[0]), redaction(&alice(), &ids[0])].map(|d| Append { drafts: vec![d] });
    let by = world.batch(&batch).remove(0).expect("allowed").event_ids.remove(0);
    let event = world.room.state_event("m.room.topic", "").expect("there");
    let unsigned: Value = serde_json::from_str(event.unsigned.as_deref().expect("replaces")).expect("JSON");
    assert_eq!(unsigned["prev_content"], json!({}));
    let pruned = &world.last.as_ref().expect("committed").pruned;
    let target = pruned
        .iter()
        .find(|event| event.pdu.event_id == ids[0])
        .expect("pruned");
    assert_eq!(target.redacted_by.as_ref(), Some(&by), "the first redaction counts");
}

#[test]
fn names_and_sizes_are_bounded() {
    let mut world = World::new("11", json!({}));
    assert_eq!(
        errcode(world.send(text(&alice(), &"a".repeat(66_000), None))),
        "M_TOO_LARGE"
    );
    let long = Draft::state(alice(), "m.x", &"k".repeat(256), raw(&json!({})));
    assert_eq!(errcode(world.send(long)), "M_TOO_LARGE");
    let float = Draft::message(alice(), "m.x", raw(&json!({ "a": 1.5 })), None);
    assert_eq!(errcode(world.send(float)), "M_BAD_JSON");
    let list = Draft::message(alice(), "m.x", raw(&json!([])), None);
    assert_eq!(errcode(world.send(list)), "M_BAD_JSON");
    let create = Draft::state(alice(), "m.room.create", "", raw(&json!({})));
    assert_eq!(errcode(world.send(create)), "M_FORBIDDEN");
}

#[test]
fn the_next_event_joins_the_branches() {
    let mut world = World::new("11", json!({}));
    world.send(text(&alice(), "a", None)).expect("allowed");
    let mut forked = (*world.room).clone();
    let heads: Vec<_> = forked.timeline.iter().rev().take(25).collect();
    assert_eq!(heads.len(), 7);
    let extremity = |(at, event): (usize, &Arc<StoredEvent>)| Extremity {
        nid: event.nid,
        event_id: event.pdu.event_id.clone(),
        depth: at as i64,
    };
    forked.extremities = heads.iter().copied().enumerate().map(extremity).collect();
    world.room = Arc::new(forked);
    world.send(text(&alice(), "merge", None)).expect("allowed");
    let merged = world.room.timeline.last().expect("there");
    assert_eq!(merged.pdu.prev_events.len(), 7);
    assert_eq!(merged.pdu.depth, 7);
    assert_eq!(world.room.extremities.len(), 1);
}

#[test]
fn restricted_rooms_let_in_who_is_vouched_for() {
    let mut world = World::new("10", json!({ "preset": "private_chat" }));
    let allow = json!([{ "type": "m.room_membership", "room_id": "!club:x" }]);
    let rules = json!({ "join_rule": "restricted", "allow": allow });
    world
        .send(Draft::state(alice(), "m.room.join_rules", "", raw(&rules)))
        .expect("allowed");
    assert_eq!(
        membership::allowing_rooms(&world.room).map(|rooms| rooms.len()),
        Some(1)
    );
    assert_eq!(
        errcode(world.member(&bob(), &bob(), Action::Join { allowed: false })),
        "M_FORBIDDEN"
    );
    world
        .member(&bob(), &bob(), Action::Join { allowed: true })
        .expect("vouched for");
    let member = world.room.state_event("m.room.member", "@bob:x").expect("joined");
    let content: Value = member.pdu.content_as().expect("an object");
    assert_eq!(content["join_authorised_via_users_server"], "@alice:x");
}

#[test]
fn departures_are_told_to_those_who_leave() {
    let mut world = World::new("11", json!({ "preset": "public_chat" }));
    world
        .member(&bob(), &bob(), Action::Join { allowed: false })
        .expect("public");
    world.member(&alice(), &bob(), Action::Kick).expect("may kick");
    let fact = world
        .last
        .as_ref()
        .expect("committed")
        .facts
        .last()
        .expect("a fact")
        .clone();
    assert_eq!(*fact.users, [alice(), bob()]);
    assert_eq!(*world.room.local_joined, [alice()]);
    assert_eq!(errcode(world.member(&bob(), &bob(), Action::Knock)), "M_FORBIDDEN");
    world.member(&bob(), &bob(), Action::Leave).expect("nothing to do");
    assert!(membership::check_forget(&world.room, &bob()).is_ok());
    assert!(membership::check_forget(&world.room, &alice()).is_err());
}

#[test]
fn a_long_timeline_keeps_its_newest_end() {
    let mut world = World::new("11", json!({}));
    for n in 0..3 {
        let batch: Vec<_> = (0..30)
            .map(|i| Append {
                drafts: vec![
                    text(&alice(), &format!("{n}/{i}"), None),
                    topic(&alice(), &format!("{n}/{i}")),
                ],
            })
            .collect();
        assert!(world.batch(&batch).iter().all(Result::is_ok));
    }
    assert_eq!(world.room.timeline.len(), TIMELINE_TAIL);
    assert!(!world.room.timeline_complete);
}
