//! Reads of rooms, events and state, on both databases.

use super::{
    Store,
    event::RelationQuery,
    event::Txn,
    journal::Head,
    relation::{RelationCount, Targets},
    rows::Rows,
};
use crate::{current_state, event, membership, room, state_group, state_key, stripped_state, testing::each_backend};

/// An accepted message in `room` whose number is its position.
pub(super) fn message(room: i64, pos: i64) -> event::Model {
    event::Model {
        nid: 1_000 + pos,
        room_nid: room,
        event_id: format!("$e{pos}"),
        pos: Some(pos),
        depth: pos,
        r#type: "m.room.message".to_owned(),
        state_key: None,
        sender: "@a:hs".to_owned(),
        origin_server_ts: pos * 10,
        state_group: None,
        status: 0,
        redacted_by: None,
        device_id: None,
        txn_id: None,
        relates_to: None,
        rel_type: None,
        unsigned: None,
        json: "{}".to_owned(),
    }
}

fn state(room: i64, pos: i64, kind: &str, key: &str) -> event::Model {
    event::Model {
        r#type: kind.to_owned(),
        state_key: Some(key.to_owned()),
        ..message(room, pos)
    }
}

fn relation(pos: i64, to: &str, rel_type: &str) -> event::Model {
    event::Model {
        relates_to: Some(to.to_owned()),
        rel_type: Some(rel_type.to_owned()),
        ..message(1, pos)
    }
}

fn room(nid: i64) -> room::Model {
    room::Model {
        nid,
        room_id: format!("!{nid}:hs"),
        version: "11".to_owned(),
        creator: "@a:hs".to_owned(),
        created_ts: 0,
    }
}

fn member(room: i64, user: &str, membership: &str) -> membership::Model {
    membership::Model {
        room_nid: room,
        user_id: user.to_owned(),
        membership: membership.to_owned(),
        sender: user.to_owned(),
        event_nid: 0,
        pos: 1,
        forgotten: false,
    }
}

pub(super) async fn put(store: &Store, rows: Rows) {
    let head = store.read_head().await.expect("a head");
    store
        .commit_batch(
            Head {
                batch: head.batch + 1,
                ..head
            },
            &rows,
            None,
        )
        .await
        .expect("the rows are good");
}

fn positions(events: &[event::Model]) -> Vec<i64> {
    events
        .iter()
        .map(|e| e.pos.expect("a timeline has positions"))
        .collect()
}

/// Room 1: history at -2, -1; 1, 2, 4 … 10; soft-failed at 5, an outlier. Room 2: 3 and 12.
async fn timeline(store: &Store) {
    let mut events: Vec<_> = [-2, -1, 1, 2, 4, 6, 7, 8, 9, 10].map(|pos| message(1, pos)).to_vec();
    events.push(event::Model {
        status: 1,
        ..message(1, 5)
    });
    events.push(event::Model {
        pos: None,
        status: 3,
        nid: 99,
        event_id: "$outlier".to_owned(),
        ..message(1, 50)
    });
    events.extend([message(2, 3), message(2, 12)]);
    put(
        store,
        Rows {
            events,
            rooms: vec![room(1), room(2)],
            ..Rows::default()
        },
    )
    .await;
}

#[tokio::test]
async fn a_page_of_a_timeline_lies_between_its_tokens() {
    each_backend(|db| async move {
        let store = &db.store().await;
        timeline(store).await;
        let page = async |from, to, backwards, limit| {
            positions(
                &store
                    .timeline_page(1, from, to, backwards, limit)
                    .await
                    .expect("a page"),
            )
        };
        assert_eq!(page(None, None, true, 3).await, [10, 9, 8]);
        assert_eq!(
            page(Some(8), None, true, 2).await,
            [8, 7],
            "backwards begins with the token's event"
        );
        assert_eq!(
            page(Some(4), Some(-2), true, 10).await,
            [4, 2, 1, -1],
            "and ends before the other one's"
        );
        assert_eq!(page(None, None, false, 3).await, [-2, -1, 1]);
        assert_eq!(
            page(Some(2), None, false, 2).await,
            [4, 6],
            "forwards begins after the token's event"
        );
        assert_eq!(
            page(Some(2), Some(7), false, 10).await,
            [4, 6, 7],
            "and ends with the other one's"
        );
        assert_eq!(page(Some(2), Some(2), false, 10).await, [] as [i64; 0]);
    })
    .await;
}

#[tokio::test]
async fn tails_of_many_rooms_come_at_once() {
    each_backend(|db| async move {
        let store = &db.store().await;
        timeline(store).await;
        let tail = |events: &[event::Model], room| {
            let of_room: Vec<_> = events.iter().filter(|e| e.room_nid == room).cloned().collect();
            positions(&of_room)
        };
        let events = store.timelines_tail(&[1, 2, 7], 9, 3).await.expect("tails");
        assert_eq!((tail(&events, 1), tail(&events, 2)), (vec![7, 8, 9], vec![3]));
        let events = store.timelines_between(&[2, 1], 7, 12, 10).await.expect("tails");
        assert_eq!((tail(&events, 1), tail(&events, 2)), (vec![8, 9, 10], vec![12]));
        assert!(store.timelines_tail(&[], 9, 3).await.expect("nothing").is_empty());
        let mut changed = store.rooms_changed_since(&[1, 2, 3], 4, 11).await.expect("rooms");
        changed.sort_unstable();
        assert_eq!(changed, [(1, 10)]);
        assert_eq!(
            positions(&store.events_in_range(2, 8, 3).await.expect("events")),
            [3, 4, 6]
        );
        assert_eq!(store.earliest_event_pos(1).await, Ok(Some(-2)));
        assert_eq!(store.latest_event_pos(1, 5).await, Ok(Some(5)));
        assert_eq!(
            (store.earliest_event_pos(9).await, store.latest_event_pos(9, 5).await),
            (Ok(None), Ok(None))
        );
    })
    .await;
}

#[tokio::test]
async fn events_are_found_by_what_identifies_them() {
    each_backend(|db| async move {
        let store = &db.store().await;
        timeline(store).await;
        let sent = event::Model {
            device_id: Some("D".to_owned()),
            txn_id: Some("t1".to_owned()),
            ..message(1, 20)
        };
        put(
            store,
            Rows {
                events: vec![sent.clone()],
                ..Rows::default()
            },
        )
        .await;
        let txn = |room_nid, device: &str, kind: &str| Txn {
            room_nid,
            sender: "@a:hs".to_owned(),
            device_id: device.to_owned(),
            txn_id: "t1".to_owned(),
            kind: kind.to_owned(),
        };
        let asked = [
            txn(1, "E", "m.room.message"),
            txn(1, "D", "m.room.message"),
            txn(2, "D", "m.room.message"),
            txn(1, "D", "m.room.encrypted"),
            txn(1, "D", "m.room.message"),
        ];
        let found = Some(sent.event_id.clone());
        assert_eq!(
            store.events_by_txn(&asked).await,
            Ok(vec![None, found.clone(), None, None, found])
        );
        assert_eq!(store.events_by_txn(&[]).await, Ok(vec![]));
        let outlier = store.event_by_id("$outlier").await.expect("read").expect("there");
        assert_eq!((outlier.nid, outlier.pos), (99, None));
        assert_eq!(
            store
                .events_by_id(&["$e1", "$none", "$outlier"])
                .await
                .expect("read")
                .len(),
            2
        );
        assert_eq!(store.events_by_nid(&[99, 1_001, 5]).await.expect("read").len(), 2);
        let near = async |ts, backwards| {
            store
                .event_near_ts(1, ts, backwards, 8)
                .await
                .expect("read")
                .and_then(|e| e.pos)
        };
        assert_eq!(
            (near(45, false).await, near(45, true).await, near(80, true).await),
            (Some(6), Some(4), Some(8))
        );
        assert_eq!((near(81, false).await, near(-99, true).await), (None, None));
    })
    .await;
}

#[tokio::test]
async fn relations_are_paged_and_filtered() {
    each_backend(|db| async move {
        let store = &db.store().await;
        let mut events = vec![
            message(1, 1),
            relation(2, "$e1", "m.annotation"),
            relation(3, "$e1", "m.thread"),
        ];
        events.push(event::Model {
            r#type: "m.reaction".to_owned(),
            ..relation(4, "$e1", "m.annotation")
        });
        events.push(event::Model {
            room_nid: 2,
            ..relation(5, "$e1", "m.annotation")
        });
        events.push(relation(6, "$e2", "m.annotation"));
        put(
            store,
            Rows {
                events,
                ..Rows::default()
            },
        )
        .await;
        let first = ["$e1".to_owned()];
        let all = RelationQuery {
            room_nid: 1,
            event_ids: &first,
            rel_type: None,
            event_type: None,
            from: None,
            to: None,
            backwards: true,
            limit: 10,
        };
        let read = async |q: RelationQuery<'_>| positions(&store.relations(&q).await.expect("a page"));
        assert_eq!(read(all.clone()).await, [4, 3, 2]);
        assert_eq!(
            read(RelationQuery {
                backwards: false,
                limit: 2,
                ..all.clone()
            })
            .await,
            [2, 3]
        );
        assert_eq!(
            read(RelationQuery {
                from: Some(3),
                to: Some(2),
                ..all.clone()
            })
            .await,
            [3]
        );
        assert_eq!(
            read(RelationQuery {
                rel_type: Some("m.annotation"),
                ..all.clone()
            })
            .await,
            [4, 2]
        );
        let reactions = RelationQuery {
            rel_type: Some("m.annotation"),
            event_type: Some("m.reaction"),
            ..all
        };
        assert_eq!(read(reactions).await, [4]);
        let targets = Targets {
            room_nid: 1,
            event_ids: &["$e1".to_owned(), "$e2".to_owned()],
            upto: 3,
            ignored: &[],
        };
        let counts = store.relation_counts(&targets, "@a:hs").await.expect("read");
        let thread = RelationCount {
            relates_to: "$e1".to_owned(),
            rel_type: "m.thread".to_owned(),
            count: 1,
            newest: 3,
            own: true,
        };
        assert_eq!(counts, [thread]);
        let threads = store.threads(1, 9, 9, Some("@a:hs"), 5).await.expect("read");
        assert_eq!(threads, [("$e1".to_owned(), 3)]);
        assert_eq!(store.threads(1, 2, 9, None, 5).await.expect("read"), []);
        assert_eq!(positions(&store.events_at(&[3, 77]).await.expect("read")), [3]);
        let senders = [
            (1, "m.reaction".to_owned(), "@a:hs".to_owned()),
            (2, "m.x".to_owned(), "@a:hs".to_owned()),
        ];
        assert_eq!(
            positions(&store.events_of_senders(&senders, 5).await.expect("read")),
            [4]
        );
    })
    .await;
}

#[tokio::test]
async fn rooms_members_and_state_are_read() {
    each_backend(|db| async move {
        let store = &db.store().await;
        let current = |room, pos: i64, kind: &str, key: &str| current_state::Model {
            room_nid: room,
            r#type: kind.to_owned(),
            state_key: key.to_owned(),
            event_nid: 1_000 + pos,
        };
        let stripped = stripped_state::Model {
            room_nid: 2,
            user_id: "@b:hs".to_owned(),
            events: "[]".to_owned(),
        };
        put(
            store,
            Rows {
                rooms: vec![room(1), room(2)],
                events: vec![
                    state(1, 1, "m.room.name", ""),
                    state(1, 2, "m.room.member", "@b:hs"),
                    state(2, 3, "m.room.member", "@b:hs"),
                    message(1, 4),
                ],
                current_state: vec![
                    current(1, 1, "m.room.name", ""),
                    current(1, 2, "m.room.member", "@b:hs"),
                ],
                memberships: vec![
                    member(1, "@a:hs", "join"),
                    member(1, "@b:hs", "join"),
                    member(1, "@c:hs", "leave"),
                    member(2, "@b:hs", "invite"),
                ],
                stripped_states: vec![stripped.clone()],
                ..Rows::default()
            },
        )
        .await;
        assert_eq!(store.room_by_id("!2:hs").await, Ok(Some(room(2))));
        assert_eq!(store.room_by_id("!3:hs").await, Ok(None));
        assert_eq!(store.rooms_by_nid(&[2, 3]).await, Ok(vec![room(2)]));
        assert_eq!(store.rooms_by_id(&["!1:hs", "!9:hs"]).await, Ok(vec![room(1)]));
        assert_eq!(store.rooms_page(1, 5).await, Ok(vec![room(2)]));
        let mut state = positions(&store.current_state_events(1).await.expect("state"));
        state.sort_unstable();
        assert_eq!(state, [1, 2]);
        let names = store
            .current_state_of_types(&[1, 2], &["m.room.name", "m.room.member"])
            .await
            .expect("state");
        assert_eq!(positions(&names), [1]);
        assert_eq!(store.memberships_of_room(1).await.expect("members").len(), 3);
        let of_b = store.memberships_of_user("@b:hs", Some(&["invite", "knock"])).await;
        assert_eq!(of_b, Ok(vec![(member(2, "@b:hs", "invite"), room(2))]));
        assert_eq!(store.memberships_of_user("@b:hs", None).await.expect("all").len(), 2);
        let mut sharing = store.users_sharing_rooms("@a:hs").await.expect("users");
        sharing.sort();
        assert_eq!(sharing, ["@a:hs", "@b:hs"]);
        assert_eq!(store.joined_counts(&[1, 2]).await, Ok(vec![(1, 2)]));
        assert_eq!(store.stripped_state(2, "@b:hs").await, Ok(Some(stripped)));
        assert_eq!(
            positions(&store.member_changes_of_user("@b:hs", 1, 9).await.expect("changes")),
            [2, 3]
        );
        assert_eq!(positions(&store.state_changes(1, 1, 9).await.expect("changes")), [2]);
        assert_eq!(store.room_head(1).await, Ok(None));
    })
    .await;
}

#[tokio::test]
async fn a_state_group_comes_with_its_ancestors() {
    each_backend(|db| async move {
        let store = &db.store().await;
        let group = |id: i64, parent: Option<i64>| state_group::Model {
            id,
            room_nid: 1,
            parent,
            hops: id,
            hash: vec![7, u8::try_from(id % 2).expect("a bit")],
            delta: vec![0, 255, 1],
        };
        let key = |nid, kind: &str, key: &str| state_key::Model {
            nid,
            r#type: kind.to_owned(),
            state_key: key.to_owned(),
        };
        let keys = vec![key(1, "m.a", ""), key(2, "m.a", "[\"x\", 1]"), key(3, "m.b", "'5'")];
        let groups = vec![group(1, None), group(2, Some(1)), group(3, Some(2)), group(9, Some(8))];
        put(
            store,
            Rows {
                state_groups: groups,
                state_keys: keys.clone(),
                ..Rows::default()
            },
        )
        .await;
        let chain = store.state_group_chain(3).await.expect("a chain");
        assert_eq!(chain, [group(3, Some(2)), group(2, Some(1)), group(1, None)]);
        assert_eq!(store.state_group_chain(77).await, Ok(vec![]));
        assert!(store.state_group_chain(9).await.is_err(), "its parent is missing");
        assert_eq!(store.state_group(2).await, Ok(Some(group(2, Some(1)))));
        let equal = store.state_group_by_hash(1, &[7, 1]).await.expect("groups");
        assert_eq!(equal.iter().map(|g| g.id).collect::<Vec<_>>(), [1, 3, 9]);
        let pairs: Vec<_> = keys.iter().map(|k| (k.r#type.clone(), k.state_key.clone())).collect();
        let mut found = store.state_key_nids(&pairs).await.expect("keys");
        found.sort_by_key(|k| k.nid);
        assert_eq!(found, keys);
        assert_eq!(store.state_keys_by_nid(&[3, 4]).await, Ok(vec![keys[2].clone()]));
    })
    .await;
}
