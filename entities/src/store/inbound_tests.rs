//! Staging, on both databases.

use crate::inbound_pdu::Model as Pdu;
use crate::inbound_txn::Model as Txn;
use crate::testing::each_backend;

fn txn(id: &str, response: &str) -> Txn {
    Txn {
        origin: "y".to_owned(),
        txn_id: id.to_owned(),
        response: response.to_owned(),
        received_ts: 10,
    }
}

fn pdu(nid: i64, room: &str, event: &str) -> Pdu {
    Pdu {
        nid,
        origin: "y".to_owned(),
        room_id: room.to_owned(),
        event_id: event.to_owned(),
        json: format!(r#"{{"n":{nid},"text":"a \"quoted\" \\u0000 ß"}}"#),
        received_ts: 10,
    }
}

#[tokio::test]
async fn an_event_is_staged_once_and_an_answer_stays() {
    each_backend(|db| async move {
        let store = db.store().await;
        let first = [pdu(1, "!a:x", "$1"), pdu(2, "!a:x", "$2"), pdu(3, "!b:x", "$1")];
        store.stage(&txn("t", "one"), &first).await.expect("staged");
        store
            .stage(&txn("t", "two"), &[pdu(4, "!a:x", "$2"), pdu(5, "!a:x", "$3")])
            .await
            .expect("staged");
        store.stage(&txn("u", "none"), &[]).await.expect("noted");
        let (answer, staged) = store.inbound_standing("y", "t", 9).await.expect("readable");
        assert_eq!((answer.as_deref(), staged), (Some("one"), 4));
        let none = store.inbound_standing("z", "t", 9).await.expect("readable");
        assert_eq!(none, (None, 0));
        assert_eq!(store.staged_in("!a:x", 9).await.expect("readable"), [1, 2, 5]);
        assert_eq!(store.staged_in("!a:x", 2).await.expect("readable"), [1, 2]);
        let rows = store.staged(&[5, 99, 1]).await.expect("readable");
        assert_eq!(rows, [first[0].clone(), pdu(5, "!a:x", "$3")]);
        assert_eq!(store.staged_rooms().await.expect("readable"), ["!a:x", "!b:x"]);
    })
    .await;
}

#[tokio::test]
async fn counts_end_at_their_limit() {
    each_backend(|db| async move {
        let store = db.store().await;
        let rows: Vec<Pdu> = (1..=5).map(|n| pdu(n, "!a:x", &format!("${n}"))).collect();
        store.stage(&txn("t", ""), &rows).await.expect("staged");
        let count = async |most| store.inbound_standing("y", "?", most).await.expect("readable").1;
        assert_eq!((count(9).await, count(3).await), (5, 3));
        assert_eq!(store.discard_staged(&[1, 2, 99]).await.expect("deleted"), 2);
        assert_eq!(count(9).await, 3);
    })
    .await;
}

#[tokio::test]
async fn old_transactions_are_forgotten() {
    each_backend(|db| async move {
        let store = db.store().await;
        store.stage(&txn("t", ""), &[]).await.expect("noted");
        assert_eq!(store.prune_inbound_txns(10).await.expect("pruned"), 0);
        assert_eq!(store.prune_inbound_txns(11).await.expect("pruned"), 1);
        let (answer, _) = store.inbound_standing("y", "t", 9).await.expect("readable");
        assert!(answer.is_none());
    })
    .await;
}
