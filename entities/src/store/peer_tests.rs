//! What is stored about other servers, on both databases.

use super::super::{journal::Head, read_tests::message, rows::Rows};
use super::*;
use crate::{relayed_event, testing::each_backend};

fn destination(server: &str, last_sent_pos: i64) -> destination::Model {
    destination::Model {
        server_name: server.to_owned(),
        failing_since_ts: None,
        last_try_ts: 0,
        retry_interval_ms: 0,
        last_success_ts: 1,
        last_error: None,
        last_sent_pos,
    }
}

fn owed(server: &str, room_nid: i64, first_pos: i64) -> destination_room::Model {
    destination_room::Model {
        server_name: server.to_owned(),
        room_nid,
        first_pos,
        last_pos: first_pos,
    }
}

fn event(pos: i64, room_nid: i64, sender: &str) -> event::Model {
    event::Model {
        nid: pos,
        sender: sender.to_owned(),
        origin_server_ts: 0,
        ..message(room_nid, pos)
    }
}

fn edu(server: &str, pos: i64, edu_type: &str) -> outbound_edu::Model {
    outbound_edu::Model {
        pos,
        server_name: server.to_owned(),
        edu_type: edu_type.to_owned(),
        json: "{}".to_owned(),
    }
}

async fn put(store: &Store, rows: Rows) {
    let epoch = store.take_epoch().await.expect("it answers").epoch;
    let batch = store.read_head().await.expect("it answers").batch + 1;
    store
        .commit_batch(Head { epoch, batch }, &rows, None)
        .await
        .expect("it is written");
}

#[tokio::test]
async fn a_settlement_is_written_as_one() {
    each_backend(|db| async move {
        let store = &db.store().await;
        store.take_epoch().await.expect("it answers");
        assert_eq!(store.outbound_cursor().await, Ok(Some(0)));
        let first = Settlement {
            destinations: vec![destination("a", 5), destination("b", 0)],
            owed: vec![owed("a", 1, 3), owed("b", 1, 3), owed("b", 2, 4)],
            paid: Vec::new(),
            cursor: Some(7),
        };
        store.settle(&first).await.expect("it is written");
        assert_eq!(store.outbound_cursor().await, Ok(Some(7)));
        let second = Settlement {
            destinations: vec![destination("a", 9)],
            owed: vec![owed("b", 2, 8)],
            paid: vec![("a".to_owned(), 1), ("b".to_owned(), 1), ("c".to_owned(), 1)],
            cursor: None,
        };
        store.settle(&second).await.expect("it is written");
        assert_eq!(store.destinations(&["a", "z"]).await, Ok(vec![destination("a", 9)]));
        assert_eq!(store.destination_rooms(&["a", "b"]).await, Ok(vec![owed("b", 2, 8)]));
        assert_eq!(store.outbound_cursor().await, Ok(Some(7)));
        assert!(Settlement::default().is_empty() && !second.is_empty());
    })
    .await;
}

#[tokio::test]
async fn events_to_send_are_those_of_this_server_and_those_it_passes_on() {
    each_backend(|db| async move {
        let store = &db.store().await;
        let hidden = event::Model {
            status: 1,
            ..event(6, 1, "@a:hs")
        };
        let rows = Rows {
            events: vec![
                event(1, 1, "@a:hs"),
                event(2, 1, "@a:other.hs"),
                event(3, 2, "@b:hs"),
                event(4, 1, "@a:far"),
                event(5, 1, "@b:hs"),
                hidden,
            ],
            relayed_events: vec![relayed_event::Model { pos: 4 }],
            ..Rows::default()
        };
        put(store, rows).await;
        let positions = |rows: Vec<event::Model>| rows.iter().filter_map(|row| row.pos).collect::<Vec<_>>();
        let all = store.events_to_send("hs", 0, 9, 9).await.expect("read");
        assert_eq!(positions(all), [1, 3, 4, 5]);
        assert_eq!(
            (store.is_relayed(4).await, store.is_relayed(5).await),
            (Ok(true), Ok(false))
        );
        let some = store.events_to_send("hs", 1, 4, 2).await.expect("read");
        assert_eq!(positions(some), [3, 4]);
        let room = store
            .events_to_send_in_room("hs", 1, (1, 5), false, 2)
            .await
            .expect("read");
        assert_eq!(positions(room), [1, 4]);
        let newest = store
            .events_to_send_in_room("hs", 1, (1, 4), true, 9)
            .await
            .expect("read");
        assert_eq!(positions(newest), [4, 1]);
    })
    .await;
}

#[tokio::test]
async fn durable_edus_are_read_in_order_and_bounded() {
    each_backend(|db| async move {
        let store = &db.store().await;
        let update = "m.device_list_update";
        let mut edus: Vec<_> = (1..=6).map(|pos| edu("a", pos, update)).collect();
        edus.extend([edu("a", 7, "m.direct_to_device"), edu("b", 7, "m.direct_to_device")]);
        edus[0].edu_type = "m.direct_to_device".to_owned();
        let rows = Rows {
            outbound_edus: edus,
            ..Rows::default()
        };
        put(store, rows).await;
        store
            .settle(&Settlement {
                owed: vec![owed("c", 1, 1)],
                ..Settlement::default()
            })
            .await
            .expect("it is written");
        let mut waiting = store.servers_waiting().await.expect("read");
        waiting.sort();
        assert_eq!(waiting, ["a", "b", "c"]);
        let page = store.outbound_edus("a", 2).await.expect("read");
        assert_eq!(page.iter().map(|row| row.pos).collect::<Vec<_>>(), [1, 2]);
        store.delete_outbound_edus("a", &[2, 7]).await.expect("it is written");
        assert_eq!(
            store.outbound_edus("b", 9).await.expect("read").len(),
            1,
            "another server's"
        );
        // 1 (a message), 3, 4, 5, 6 are left: the newest two stay, of the others the message.
        assert_eq!(store.trim_outbound_edus("a", 2).await, Ok((2, 0)));
        let left = store.outbound_edus("a", 9).await.expect("read");
        assert_eq!(left.iter().map(|row| row.pos).collect::<Vec<_>>(), [1, 5, 6]);
        assert_eq!(store.trim_outbound_edus("a", 1).await, Ok((1, 0)), "updates go first");
        assert_eq!(store.trim_outbound_edus("a", 0).await, Ok((1, 1)), "then anything");
    })
    .await;
}

#[tokio::test]
async fn servers_that_share_rooms() {
    each_backend(|db| async move {
        let store = &db.store().await;
        let member = |room_nid, user: &str, membership: &str| membership::Model {
            room_nid,
            user_id: user.to_owned(),
            membership: membership.to_owned(),
            sender: user.to_owned(),
            event_nid: 1,
            pos: room_nid,
            forgotten: false,
        };
        let memberships = vec![
            member(1, "@a:hs", "join"),
            member(1, "@b:far:8448", "join"),
            member(1, "@c:far:8448", "join"),
            member(1, "@d:gone", "leave"),
            member(2, "@a:hs", "leave"),
            member(2, "@e:elsewhere", "join"),
        ];
        let rows = Rows {
            memberships,
            ..Rows::default()
        };
        put(store, rows).await;
        let mut servers = store.servers_sharing_rooms("@a:hs").await.expect("read");
        servers.sort();
        assert_eq!(servers, ["far:8448", "hs"]);
        let moved = store.memberships_since(&[1, 2], 1).await.expect("read");
        assert!(moved.iter().all(|row| row.room_nid == 2) && moved.len() == 2);
    })
    .await;
}

#[tokio::test]
async fn destinations_are_listed_by_page() {
    each_backend(|db| async move {
        let store = &db.store().await;
        store.take_epoch().await.expect("it answers");
        let settlement = Settlement {
            destinations: vec![destination("c.hs", 1), destination("a.hs", 3), destination("b.far", 2)],
            ..Settlement::default()
        };
        store.settle(&settlement).await.expect("it is written");
        let names = |(rows, total): (Vec<destination::Model>, i64)| {
            (rows.into_iter().map(|row| row.server_name).collect::<Vec<_>>(), total)
        };
        let page = store
            .destinations_page("", DestinationOrder::Name, false, 1, 2)
            .await
            .expect("read");
        assert_eq!(names(page), (vec!["b.far".to_owned(), "c.hs".to_owned()], 3));
        let page = store
            .destinations_page(".hs", DestinationOrder::LastSent, true, 0, 9)
            .await
            .expect("read");
        assert_eq!(names(page), (vec!["a.hs".to_owned(), "c.hs".to_owned()], 2));
    })
    .await;
}
