use super::*;
use crate::{
    store::rows::{EventUpdate, RedactedEvent},
    testing::each_backend,
};

fn event(nid: i64) -> event::Model {
    event::Model {
        nid,
        room_nid: 1,
        event_id: format!("$event{nid}"),
        pos: (nid % 3 != 0).then_some(nid),
        depth: nid,
        r#type: "m.room.message".to_owned(),
        state_key: (nid % 2 == 0).then(String::new),
        sender: "@a:hs".to_owned(),
        origin_server_ts: 1_000 + nid,
        state_group: (nid % 5 != 0).then_some(nid),
        status: i16::from(nid % 3 == 0),
        redacted_by: None,
        device_id: (nid % 4 == 0).then(|| "DEV".to_owned()),
        txn_id: (nid % 4 == 0).then(|| format!("txn{nid}")),
        relates_to: None,
        rel_type: None,
        unsigned: None,
        json: format!("{{\"n\":{nid},\"text\":\"ünïcode \\u0000 😀\"}}"),
    }
}

fn membership(user: &str, pos: i64) -> membership::Model {
    membership::Model {
        room_nid: 1,
        user_id: user.to_owned(),
        membership: "join".to_owned(),
        sender: user.to_owned(),
        event_nid: pos,
        pos,
        forgotten: false,
    }
}

fn device(user: &str, id: &str) -> device::Model {
    device::Model {
        user_id: user.to_owned(),
        device_id: id.to_owned(),
        display_name: None,
        last_seen_ts: 0,
        last_seen_ip: None,
        user_agent: None,
        created_ts: 1,
    }
}

fn token(hash: u8, user: &str, device: &str) -> access_token::Model {
    access_token::Model {
        token_hash: vec![hash, 0, 255],
        user_id: user.to_owned(),
        device_id: device.to_owned(),
        expires_ts: None,
        authed_ts: 0,
        refresh_hash: (hash > 1).then(|| vec![hash]),
    }
}

async fn commit(store: &Store, rows: &Rows) -> Result<(), StoreError> {
    let head = store.read_head().await.expect("there is a head");
    store
        .commit_batch(
            Head {
                batch: head.batch + 1,
                ..head
            },
            rows,
            None,
        )
        .await
}

async fn count(store: &Store, table: &str) -> i64 {
    let sql = format!("SELECT COUNT(*) FROM {table}");
    store
        .reader()
        .scalar(&sql, params![])
        .await
        .expect("a count")
        .expect("one row")
}

#[tokio::test]
async fn batches_of_any_size_are_stored_whole() {
    each_backend(|db| async move {
        let store = db.store().await;
        let mut next = 1;
        for size in [1, 2, 3, 7, 64, 65, 200] {
            let events: Vec<_> = (next..next + size).map(event).collect();
            next += size;
            let rows = Rows {
                events: events.clone(),
                ..Rows::default()
            };
            commit(&store, &rows).await.expect("the batch is committed");
            let nids: Vec<i64> = events.iter().map(|e| e.nid).collect();
            let mut stored = store.events_by_nid(&nids).await.expect("they are there");
            stored.sort_by_key(|e| e.nid);
            assert_eq!(stored, events, "a batch of {size}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_refused_batch_leaves_nothing() {
    each_backend(|db| async move {
        let store = db.store().await;
        commit(
            &store,
            &Rows {
                events: vec![event(1)],
                ..Rows::default()
            },
        )
        .await
        .expect("committed");
        let before = store.read_head().await.expect("a head");
        let rows = Rows {
            rooms: vec![room(5)],
            events: vec![event(2), event(1)],
            ..Rows::default()
        };
        assert_eq!(
            commit(&store, &rows).await,
            Err(StoreError::Duplicate("event".to_owned()))
        );
        let nul = event::Model {
            sender: "a\0b".to_owned(),
            ..event(3)
        };
        let rows = Rows {
            rooms: vec![room(5)],
            events: vec![nul],
            ..Rows::default()
        };
        assert_eq!(commit(&store, &rows).await, Err(StoreError::Nul));
        assert_eq!(store.read_head().await.expect("a head"), before);
        assert_eq!((count(&store, "room").await, count(&store, "event").await), (0, 1));
        assert_eq!(store.event_by_id("$\0").await, Err(StoreError::Nul));
    })
    .await;
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

#[tokio::test]
async fn a_former_process_is_fenced() {
    each_backend(|db| async move {
        let (old, new) = (db.store().await, db.store().await);
        let first = old.take_epoch().await.expect("an epoch");
        old.commit_batch(Head { batch: 7, ..first }, &Rows::default(), None)
            .await
            .expect("it may write");
        let second = new.take_epoch().await.expect("an epoch");
        assert_eq!(
            second,
            Head {
                epoch: first.epoch + 1,
                batch: 7
            }
        );
        let rows = Rows {
            events: vec![event(1)],
            ..Rows::default()
        };
        let late = old.commit_batch(Head { batch: 8, ..first }, &rows, Some(99_999)).await;
        assert_eq!(late, Err(StoreError::Fenced));
        assert_eq!(new.block_next("position").await, Ok(1));
        assert_eq!(count(&new, "event").await, 0);
        new.commit_batch(Head { batch: 8, ..second }, &rows, None)
            .await
            .expect("the new one may write");
        assert_eq!(old.read_head().await, Ok(Head { batch: 8, ..second }));
    })
    .await;
}

#[tokio::test]
async fn the_last_of_equal_keys_wins() {
    each_backend(|db| async move {
        let store = db.store().await;
        let mut memberships: Vec<_> = (0..100).map(|i| membership("@a:hs", i)).collect();
        memberships.push(membership("@b:hs", 1));
        commit(
            &store,
            &Rows {
                memberships,
                ..Rows::default()
            },
        )
        .await
        .expect("committed");
        let a = store.membership(1, "@a:hs").await.expect("read").expect("there");
        assert_eq!(a.pos, 99);
        commit(
            &store,
            &Rows {
                memberships: vec![membership("@a:hs", 200)],
                ..Rows::default()
            },
        )
        .await
        .expect("committed");
        assert_eq!(
            store.membership(1, "@a:hs").await.expect("read").expect("there").pos,
            200
        );
        assert_eq!(count(&store, "membership").await, 2);
    })
    .await;
}

#[tokio::test]
async fn an_interned_pair_keeps_its_number() {
    each_backend(|db| async move {
        let store = db.store().await;
        let key = |nid, key: &str| state_key::Model {
            nid,
            r#type: "m.x".to_owned(),
            state_key: key.to_owned(),
        };
        commit(
            &store,
            &Rows {
                state_keys: vec![key(1, "a")],
                ..Rows::default()
            },
        )
        .await
        .expect("committed");
        let again = Rows {
            state_keys: vec![key(1, "a"), key(2, "b"), key(2, "b")],
            ..Rows::default()
        };
        commit(&store, &again).await.expect("an equal pair is ignored");
        assert_eq!(count(&store, "state_key").await, 2);
        let other = Rows {
            state_keys: vec![key(3, "a")],
            ..Rows::default()
        };
        assert_eq!(
            commit(&store, &other).await,
            Err(StoreError::Duplicate("state_key".to_owned()))
        );
    })
    .await;
}

#[tokio::test]
async fn updates_and_redactions_reach_stored_events() {
    each_backend(|db| async move {
        let store = db.store().await;
        let related = event::Model {
            relates_to: Some("$event1".to_owned()),
            rel_type: Some("m.annotation".to_owned()),
            unsigned: Some("{}".to_owned()),
            ..event(2)
        };
        commit(
            &store,
            &Rows {
                events: vec![event(1), related, event(3), event(6)],
                ..Rows::default()
            },
        )
        .await
        .expect("committed");
        let rows = Rows {
            event_updates: vec![
                EventUpdate {
                    nid: 3,
                    pos: Some(30),
                    state_group: None,
                    status: 0,
                },
                EventUpdate {
                    nid: 6,
                    pos: None,
                    state_group: Some(60),
                    status: 1,
                },
            ],
            redactions: vec![RedactedEvent {
                nid: 2,
                redacted_by: "$r".to_owned(),
                json: "{}".to_owned(),
                unsigned: "{\"a\":1}".to_owned(),
            }],
            ..Rows::default()
        };
        commit(&store, &rows).await.expect("committed");
        let mut stored = store.events_by_nid(&[2, 3, 6]).await.expect("read");
        stored.sort_by_key(|e| e.nid);
        assert_eq!(
            (stored[1].pos, stored[1].state_group, stored[1].status),
            (Some(30), Some(3), 0)
        );
        assert_eq!(
            (stored[2].pos, stored[2].state_group, stored[2].status),
            (None, Some(60), 1)
        );
        let redacted = &stored[0];
        assert_eq!(
            (redacted.redacted_by.as_deref(), redacted.json.as_str()),
            (Some("$r"), "{}")
        );
        assert_eq!(
            (&redacted.relates_to, &redacted.unsigned),
            (&None, &Some("{\"a\":1}".to_owned()))
        );
        let lost = Rows {
            redactions: vec![RedactedEvent {
                nid: 77,
                ..rows.redactions[0].clone()
            }],
            ..Rows::default()
        };
        let expected = StoreError::RowsAffected {
            table: "event",
            expected: 1,
            actual: 0,
        };
        assert_eq!(commit(&store, &lost).await, Err(expected));
    })
    .await;
}

#[tokio::test]
async fn a_deleted_device_takes_all_it_had() {
    each_backend(|db| async move {
        let store = db.store().await;
        let message = |pos, device: &str| to_device::Model {
            pos,
            user_id: "@a:hs".to_owned(),
            device_id: device.to_owned(),
            json: "{}".to_owned(),
        };
        let rows = Rows {
            devices: vec![device("@a:hs", "D1"), device("@a:hs", "D2"), device("@b:hs", "D1")],
            access_tokens: vec![
                token(1, "@a:hs", "D1"),
                token(2, "@a:hs", "D2"),
                token(3, "@b:hs", "D1"),
            ],
            to_device: vec![message(1, "D1"), message(2, "D2")],
            ..Rows::default()
        };
        commit(&store, &rows).await.expect("committed");
        let deleted = vec![
            ("@a:hs".to_owned(), "D1".to_owned()),
            ("@x:hs".to_owned(), "D9".to_owned()),
        ];
        commit(
            &store,
            &Rows {
                devices_deleted: deleted,
                ..Rows::default()
            },
        )
        .await
        .expect("committed");
        let left: Vec<access_token::Model> = store
            .reader()
            .all("SELECT * FROM access_token ORDER BY token_hash", params![])
            .await
            .expect("read");
        assert_eq!(left, [token(2, "@a:hs", "D2"), token(3, "@b:hs", "D1")]);
        assert_eq!(
            (count(&store, "device").await, count(&store, "to_device").await),
            (2, 1)
        );
    })
    .await;
}

#[tokio::test]
async fn merged_submissions_have_the_effect_of_one_after_the_other() {
    each_backend(|db| async move {
        let store = db.store().await;
        let login = |hash| Rows {
            devices: vec![device("@a:hs", "D")],
            access_tokens: vec![token(hash, "@a:hs", "D")],
            ..Rows::default()
        };
        let logout = || Rows {
            devices_deleted: vec![("@a:hs".to_owned(), "D".to_owned())],
            ..Rows::default()
        };
        let state = |nid| current_state::Model {
            room_nid: 1,
            r#type: "m.x".to_owned(),
            state_key: String::new(),
            event_nid: nid,
        };
        let mut batch = Rows {
            current_state: vec![state(1)],
            ..login(1)
        };
        batch.merge(Rows {
            current_state_removed: vec![(1, "m.x".to_owned(), String::new())],
            ..logout()
        });
        commit(&store, &batch).await.expect("committed");
        assert_eq!(
            (count(&store, "device").await, count(&store, "access_token").await),
            (0, 0)
        );
        assert_eq!(count(&store, "current_state").await, 0);

        let mut batch = Rows {
            forgotten: vec![(1, "@a:hs".to_owned())],
            ..logout()
        };
        batch.merge(Rows {
            memberships: vec![membership("@a:hs", 5)],
            ..login(2)
        });
        commit(&store, &batch).await.expect("committed");
        assert_eq!(
            (count(&store, "device").await, count(&store, "access_token").await),
            (1, 1)
        );
        assert!(
            !store
                .membership(1, "@a:hs")
                .await
                .expect("read")
                .expect("there")
                .forgotten
        );

        commit(
            &store,
            &Rows {
                forgotten: vec![(1, "@a:hs".to_owned())],
                ..Rows::default()
            },
        )
        .await
        .expect("committed");
        assert!(
            store
                .membership(1, "@a:hs")
                .await
                .expect("read")
                .expect("there")
                .forgotten
        );
    })
    .await;
}
