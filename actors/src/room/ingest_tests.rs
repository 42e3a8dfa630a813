use ruma::UserId;
use serde_json::json;

use super::*;
use crate::room::rules::rules_of;
use crate::room::testing::{Origin, create, event};

fn ids(names: &[&str]) -> Vec<OwnedEventId> {
    names
        .iter()
        .map(|name| EventId::parse(format!("${name}")).expect("valid"))
        .collect()
}

fn message(prev: &[&str]) -> Pdu {
    let rules = rules_of("11").expect("supported");
    let mut json = event(&rules, "m.room.message", "@a:one", None, json!({}), (&[], &[]), 1);
    json["room_id"] = json!("!r:one");
    json["prev_events"] = json!(ids(prev));
    Origin::new("one").pdu(&json, &rules)
}

#[test]
fn an_event_takes_the_place_of_those_it_follows() {
    let pdu = message(&["b", "c"]);
    let next = |old: &[&str], children| next_extremities(&ids(old), &pdu, |_| None, children);
    let with = |names: &[&str]| [ids(names), vec![pdu.event_id.clone()]].concat();
    assert_eq!(next(&["a", "b"], false), with(&["a"]));
    assert_eq!(next(&["b", "c"], false), with(&[]));
    assert_eq!(next(&["d"], false), with(&["d"]), "a fork");
    assert_eq!(next(&["d"], true), ids(&["d"]), "it came after its child");
}

#[test]
fn what_lies_behind_a_refused_event_is_followed_too() {
    let pdu = message(&["soft"]);
    let hidden = |id: &EventId| {
        (id.as_str() == "$soft")
            .then(|| ids(&["rejected"]))
            .or_else(|| (id.as_str() == "$rejected").then(|| ids(&["a"])))
    };
    assert_eq!(
        next_extremities(&ids(&["a", "b"]), &pdu, hidden, false),
        [ids(&["b"]), vec![pdu.event_id.clone()]].concat()
    );
}

#[test]
fn too_many_extremities_grow_fewer() {
    let many: Vec<i64> = (0..50).rev().collect();
    let chosen = choose_prev_events(&many, |depth| *depth);
    assert_eq!(chosen.len(), MAX_PREV_EVENTS);
    assert!(chosen.contains(&&0) && chosen.contains(&&49));
    assert_eq!(choose_prev_events(&many[..10], |depth| *depth).len(), 10);
}

#[test]
fn unknown_parents_are_named_once() {
    let pdu = message(&["b", "c"]);
    assert_eq!(missing(&pdu, |id| id.as_str() == "$b"), ids(&["c"]));
    assert!(missing(&pdu, |_| true).is_empty());
    let placed = place(
        &Scene {
            rules: &rules_of("11").expect("supported"),
            events: &EventMap::new(),
            given: None,
            after: &HashMap::new(),
            hidden: &HashMap::new(),
            extremities: &ids(&["a"]),
            current: &StateIds::new(),
            has_children: false,
        },
        &pdu,
    )
    .expect("nothing to resolve");
    assert_eq!(placed.verdict, Verdict::Missing(ids(&["b", "c"])));
    assert_eq!(placed.extremities, ids(&["a"]));
}

/// The same message by the state before it and by another current state.
#[test]
fn three_points_of_judgement() {
    for version in ["1", "6", "11", "12"] {
        let rules = rules_of(version).expect("supported");
        let origin = Origin::new("one");
        let create = Arc::new(create(&origin, &rules, version, "@a:one"));
        let named: Vec<&Pdu> = if create_event_id(&create, &rules).is_some() {
            vec![]
        } else {
            vec![&create]
        };
        let member = |prev: &Pdu, membership: &str, ts: i64| {
            let auth: Vec<&Pdu> = named
                .iter()
                .copied()
                .chain((prev.event_id != create.event_id).then_some(prev))
                .collect();
            let content = json!({ "membership": membership });
            let mut json = event(
                &rules,
                "m.room.member",
                "@a:one",
                Some("@a:one"),
                content,
                (&[prev], &auth),
                ts,
            );
            json["room_id"] = json!(create.room_id.as_str());
            Arc::new(origin.pdu(&json, &rules))
        };
        let join = member(&create, "join", 2);
        let leave = member(&join, "leave", 3);
        let auth: Vec<&Pdu> = named.iter().copied().chain([&*join]).collect();
        let mut json = event(
            &rules,
            "m.room.message",
            "@a:one",
            None,
            json!({}),
            (&[&join], &auth),
            4,
        );
        json["room_id"] = json!(create.room_id.as_str());
        let message = origin.pdu(&json, &rules);
        let events: EventMap = [&create, &join, &leave]
            .map(|event| (event.event_id.clone(), event.clone()))
            .into();
        let state = |member: &Arc<Pdu>| {
            let member = member.clone();
            let create = create.clone();
            move |kind: &str, key: &str| match kind {
                "m.room.create" => Some(create.clone()),
                "m.room.member" if <&UserId>::try_from(key).is_ok_and(|user| *user == *member.sender) => {
                    Some(member.clone())
                }
                _ => None,
            }
        };
        let known = |id: &EventId| events.get(id).cloned();
        let judged = |before, current| judge(&message, &rules, known, state(before), state(current));
        assert_eq!(judged(&join, &join), Verdict::Accepted);
        assert_eq!(judged(&join, &leave), Verdict::SoftFailed);
        assert!(matches!(judged(&leave, &join), Verdict::Rejected(_)));
        let left = |id: &EventId| {
            if *id == *join.event_id {
                Some(leave.clone())
            } else {
                known(id)
            }
        };
        assert!(
            check_by_auth_events(&message, &rules, left).is_err(),
            "by its auth events"
        );
    }
}
