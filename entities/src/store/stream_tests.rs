//! Blocks of numbers and reads of the rest of the stream, on both databases.

use super::{Run, journal::Head, params, read_tests::put, rows::Rows};
use crate::{
    account_data, device_list_change,
    error::StoreError,
    presence, receipt,
    testing::{TestDb, each_backend},
    to_device,
};

#[tokio::test]
async fn the_rest_of_the_stream_is_read_by_range() {
    each_backend(|db| async move {
        let store = &db.store().await;
        let receipt = |room, user: &str, pos| receipt::Model {
            room_nid: room,
            user_id: user.to_owned(),
            receipt_type: "m.read".to_owned(),
            thread_id: String::new(),
            event_id: "$e1".to_owned(),
            event_pos: 1,
            ts: 0,
            pos,
        };
        let data = |room: &str, kind: &str, pos| account_data::Model {
            user_id: "@a:hs".to_owned(),
            room_id: room.to_owned(),
            r#type: kind.to_owned(),
            content: "{}".to_owned(),
            pos,
        };
        let presence = |user: &str, pos| presence::Model {
            user_id: user.to_owned(),
            state: "online".to_owned(),
            status_msg: None,
            last_active_ts: 0,
            pos,
        };
        let inbox = |pos, device: &str| to_device::Model {
            pos,
            user_id: "@a:hs".to_owned(),
            device_id: device.to_owned(),
            json: "{}".to_owned(),
        };
        let list = |pos, user: &str| device_list_change::Model {
            pos,
            user_id: user.to_owned(),
        };
        put(
            store,
            Rows {
                receipts: vec![receipt(1, "@a:hs", 1), receipt(1, "@b:hs", 2), receipt(2, "@a:hs", 3)],
                account_data: vec![data("", "m.x", 4), data("!1:hs", "m.x", 5)],
                presence: vec![presence("@a:hs", 6), presence("@b:hs", 7)],
                to_device: vec![inbox(8, "D"), inbox(9, "D"), inbox(10, "E")],
                device_list_changes: vec![list(11, "@a:hs"), list(12, "@b:hs"), list(13, "@a:hs")],
                ..Rows::default()
            },
        )
        .await;
        assert_eq!(store.receipts_in_room(1, 1, 9).await, Ok(vec![receipt(1, "@b:hs", 2)]));
        assert_eq!(store.receipts_of_rooms(&[1, 2], 1, 9).await.expect("read").len(), 2);
        assert_eq!(store.receipts_of_user("@a:hs", &[1, 2]).await.expect("read").len(), 2);
        assert_eq!(
            store.account_data_since("@a:hs", 4, 5).await,
            Ok(vec![data("!1:hs", "m.x", 5)])
        );
        assert_eq!(
            store.account_data_one("@a:hs", "", "m.x").await,
            Ok(Some(data("", "m.x", 4)))
        );
        assert_eq!(store.account_data_all("@a:hs").await.expect("read").len(), 2);
        assert_eq!(
            store.presence_in_sight("@b:hs", 6, 99).await,
            Ok(vec![presence("@b:hs", 7)])
        );
        assert_eq!(
            store.presence_of(&["@a:hs", "@x:hs"]).await,
            Ok(vec![presence("@a:hs", 6)])
        );
        assert_eq!(
            store.to_device_page("@a:hs", "D", 0, 99, 1).await,
            Ok(vec![inbox(8, "D")])
        );
        assert_eq!(store.to_device_ack("@a:hs", "D", 8).await, Ok(1));
        assert_eq!(
            store.to_device_page("@a:hs", "D", 0, 99, 5).await,
            Ok(vec![inbox(9, "D")])
        );
        let changed = store.device_list_changes(&["@a:hs", "@b:hs"], 11, 99).await;
        assert_eq!(changed, Ok(vec![list(12, "@b:hs"), list(13, "@a:hs")]));
        assert_eq!(store.consumer_cursor("push").await, Ok(None));
        // What it counts from must stand before the first event does.
        assert_eq!(store.outbound_cursor().await, Ok(Some(0)));
        store.set_consumer_cursor("push", 5).await.expect("set");
        store.set_consumer_cursor("push", 6).await.expect("set");
        assert_eq!(store.consumer_cursor("push").await, Ok(Some(6)));
    })
    .await;
}

#[tokio::test]
async fn blocks_are_never_handed_out_twice() {
    each_backend(|db| async move {
        let store = db.store().await;
        assert_eq!(store.block_next("nid").await, Ok(1));
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.reserve_block("nid", 10).await.expect("a block") })
            })
            .collect();
        let mut blocks = Vec::new();
        for task in tasks {
            blocks.push(task.await.expect("no panic"));
        }
        blocks.sort_unstable();
        let expected: Vec<(i64, i64)> = (0..20).map(|i| (1 + i * 10, 11 + i * 10)).collect();
        assert_eq!(blocks, expected);
        assert_eq!(store.reserve_block("new", 5).await, Ok((1, 6)));
        let head = store.read_head().await.expect("a head");
        store
            .commit_batch(head, &Rows::default(), Some(5_000))
            .await
            .expect("committed");
        store
            .commit_batch(head, &Rows::default(), Some(4_000))
            .await
            .expect("committed");
        assert_eq!(
            store.block_next("position").await,
            Ok(5_000),
            "a block's end never falls"
        );
    })
    .await;
}

#[tokio::test]
async fn readers_cannot_write() {
    each_backend(|db| async move {
        let store = db.store().await;
        let refused = store
            .reader()
            .exec("UPDATE journal_head SET epoch = 9", params![])
            .await;
        assert!(matches!(refused, Err(StoreError::Driver(_))), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn a_restart_of_the_database_is_survived() {
    let Some(db) = TestDb::postgres().await else { return };
    let (store, other) = (db.store().await, db.store().await);
    let head = store.take_epoch().await.expect("an epoch");
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    for batch in 1..4 {
        // Several connections of each pool are open.
        let reads: Vec<_> = (0..4)
            .map(|_| {
                tokio::spawn({
                    let s = store.clone();
                    async move { s.ping().await }
                })
            })
            .collect();
        for read in reads {
            read.await.expect("no panic").expect("it answers");
        }
        other.writer().row(kill, params![]).await.expect("a superuser may");
        store.ping().await.expect("reads go on");
        let committed = store.commit_batch(Head { batch, ..head }, &Rows::default(), None).await;
        committed.expect("so do commits");
        store
            .begin()
            .await
            .expect("and other writes")
            .commit()
            .await
            .expect("an empty one");
    }
}
