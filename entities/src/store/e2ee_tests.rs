//! Keys, on both databases.

use super::{KeyStock, KeyUpload, PreKey, Sight};
use crate::store::{Store, read_tests::put, rows::Rows};
use crate::{
    cross_signing_key, device, device_key, device_list_change, key_signature, membership, testing::each_backend,
    to_device, to_device_txn,
};

const ALGORITHM: &str = "signed_curve25519";

fn key(id: &str, json: &str) -> PreKey {
    PreKey {
        algorithm: ALGORITHM.to_owned(),
        key_id: id.to_owned(),
        json: json.to_owned(),
    }
}

async fn upload(store: &Store, one_time: &[PreKey], fallback: &[PreKey]) -> KeyUpload {
    let done = store.upload_keys("@a:hs", "D", one_time, fallback).await;
    done.expect("the database answers")
}

async fn claim(store: &Store) -> Option<String> {
    let wanted = [("D".to_owned(), ALGORITHM.to_owned())];
    let claimed = store.claim_keys("@a:hs", &wanted).await.expect("the database answers");
    claimed.into_iter().next().map(|claimed| claimed.key.key_id)
}

fn stock(count: i64, unused: bool) -> KeyStock {
    KeyStock {
        one_time: (count > 0).then(|| (ALGORITHM.to_owned(), count)).into_iter().collect(),
        unused_fallback: unused.then(|| ALGORITHM.to_owned()).into_iter().collect(),
    }
}

#[tokio::test]
async fn the_oldest_upload_is_claimed_first_and_the_fallback_key_last() {
    each_backend(|db| async move {
        let store = &db.store().await;
        assert_eq!(claim(store).await, None);
        let stored = upload(store, &[key("Z", "{}")], &[key("F", "{}")]).await;
        assert_eq!(stored, KeyUpload::Stored(stock(1, true)));
        let stored = upload(store, &[key("A", "{}")], &[]).await;
        assert_eq!(stored, KeyUpload::Stored(stock(2, true)));
        assert_eq!(claim(store).await.as_deref(), Some("Z"));
        upload(store, &[key("B", "{}")], &[]).await;
        assert_eq!(claim(store).await.as_deref(), Some("A"));
        assert_eq!(claim(store).await.as_deref(), Some("B"));
        assert_eq!(store.key_stock("@a:hs", "D").await, Ok(stock(0, true)));
        assert_eq!(claim(store).await.as_deref(), Some("F"));
        assert_eq!(claim(store).await.as_deref(), Some("F"));
        assert_eq!(store.key_stock("@a:hs", "D").await, Ok(stock(0, false)));
    })
    .await;
}

#[tokio::test]
async fn several_keys_come_with_the_fallback_key() {
    each_backend(|db| async move {
        let store = &db.store().await;
        upload(
            store,
            &[key("A", "{}"), key("B", "{}"), key("C", "{}")],
            &[key("F", "{}")],
        )
        .await;
        let several = async |number| {
            let wanted = [("D".to_owned(), ALGORITHM.to_owned(), number)];
            let keys = store
                .claim_several("@a:hs", &wanted)
                .await
                .expect("the database answers");
            let ids = |keys: Vec<super::ClaimedKey>| keys.into_iter().map(|key| key.key.key_id).collect::<String>();
            (ids(keys.claimed), ids(keys.beside))
        };
        assert_eq!(several(2).await, ("AB".to_owned(), "F".to_owned()));
        assert_eq!(
            store.key_stock("@a:hs", "D").await,
            Ok(stock(1, true)),
            "the fallback key is not used yet"
        );
        assert_eq!(several(2).await, ("C".to_owned(), "F".to_owned()));
        assert_eq!(
            several(2).await,
            ("F".to_owned(), String::new()),
            "once, as nothing else is left"
        );
        assert_eq!(store.key_stock("@a:hs", "D").await, Ok(stock(0, false)));
    })
    .await;
}

#[tokio::test]
async fn a_key_is_never_claimed_twice() {
    each_backend(|db| async move {
        let store = db.store().await;
        let keys: Vec<PreKey> = (0..20).map(|i| key(&format!("K{i}"), "{}")).collect();
        upload(&store, &keys, &[]).await;
        let claims: Vec<_> = (0..20)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { claim(&store).await })
            })
            .collect();
        let mut got = Vec::new();
        for claim in claims {
            got.extend(claim.await.expect("no panic"));
        }
        let all = got.len();
        got.sort_unstable();
        got.dedup();
        assert_eq!(got.len(), all);
    })
    .await;
}

#[tokio::test]
async fn a_key_uploaded_again_must_be_the_same() {
    each_backend(|db| async move {
        let store = &db.store().await;
        upload(store, &[key("A", r#"{"key":"x","n":1}"#)], &[key("F", "{}")]).await;
        let again = upload(store, &[key("A", r#"{"n":1, "key":"x"}"#)], &[key("F", "{ }")]).await;
        assert_eq!(again, KeyUpload::Stored(stock(1, true)));
        let clash = upload(store, &[key("B", "{}"), key("A", "{}")], &[]).await;
        assert_eq!(clash, KeyUpload::Clash(format!("{ALGORITHM}:A")));
        assert_eq!(
            store.key_stock("@a:hs", "D").await,
            Ok(stock(1, true)),
            "nothing was stored"
        );
        claim(store).await;
        claim(store).await;
        let used = upload(store, &[], &[key("F", "{}")]).await;
        assert_eq!(used, KeyUpload::Stored(stock(0, false)), "the same key stays used");
        let fresh = upload(store, &[], &[key("G", "{}")]).await;
        assert_eq!(fresh, KeyUpload::Stored(stock(0, true)));
    })
    .await;
}

#[tokio::test]
async fn signatures_are_for_their_makers_and_owners() {
    each_backend(|db| async move {
        let store = &db.store().await;
        let signature = |target: &str, signer: &str| key_signature::Model {
            target_user: target.to_owned(),
            target_key: "K".to_owned(),
            signer_user: signer.to_owned(),
            signer_key: "ed25519:S".to_owned(),
            signature: "sig".to_owned(),
        };
        let device = device::Model {
            user_id: "@a:hs".to_owned(),
            device_id: "D".to_owned(),
            display_name: Some("Phone".to_owned()),
            last_seen_ts: 0,
            last_seen_ip: None,
            user_agent: None,
            created_ts: 0,
        };
        let identity = device_key::Model {
            user_id: "@a:hs".to_owned(),
            device_id: "D".to_owned(),
            json: "{}".to_owned(),
        };
        let master = cross_signing_key::Model {
            user_id: "@a:hs".to_owned(),
            usage: "master".to_owned(),
            json: "{}".to_owned(),
        };
        let own = signature("@a:hs", "@a:hs");
        let rows = Rows {
            key_signatures: vec![own.clone(), signature("@a:hs", "@b:hs")],
            devices: vec![device],
            device_keys: vec![identity],
            cross_signing_keys: vec![master.clone()],
            ..Rows::default()
        };
        put(store, rows).await;
        let seen = async |reader| store.key_signatures_for(&["@a:hs"], reader).await.expect("read");
        assert_eq!(seen("@b:hs").await.len(), 2);
        assert_eq!(seen("@c:hs").await, vec![own]);
        assert_eq!(store.cross_signing_keys_of(&["@a:hs", "@b:hs"]).await, Ok(vec![master]));
        let keys = store.device_keys_of(&["@a:hs"]).await.expect("read");
        assert_eq!(keys[0].display_name.as_deref(), Some("Phone"));
        assert_eq!(store.device_key("@a:hs", "D").await, Ok(Some("{}".to_owned())));
        assert_eq!(store.device_key("@a:hs", "E").await, Ok(None));
    })
    .await;
}

#[tokio::test]
async fn sight_changes_with_joins_and_departures() {
    each_backend(|db| async move {
        let store = &db.store().await;
        let member = |room, user: &str, membership: &str, pos| membership::Model {
            room_nid: room,
            user_id: user.to_owned(),
            membership: membership.to_owned(),
            sender: user.to_owned(),
            event_nid: 0,
            pos,
            forgotten: false,
        };
        let memberships = vec![
            member(1, "@me:hs", "join", 1),
            member(1, "@old:hs", "join", 2),
            member(1, "@new:hs", "join", 6),
            member(1, "@left:hs", "leave", 7),
            member(2, "@me:hs", "join", 8),
            member(2, "@there:hs", "join", 3),
            member(3, "@me:hs", "leave", 9),
            member(3, "@behind:hs", "join", 3),
        ];
        put(
            store,
            Rows {
                memberships,
                ..Rows::default()
            },
        )
        .await;
        let mut sight = store.sight_changes("@me:hs", 5, 9).await.expect("read");
        sight.arrived.sort_unstable();
        sight.gone.sort_unstable();
        assert_eq!(sight.arrived, ["@new:hs", "@there:hs"]);
        assert_eq!(sight.gone, ["@behind:hs", "@left:hs"]);
        assert_eq!(store.sight_changes("@me:hs", 9, 20).await, Ok(Sight::default()));
    })
    .await;
}

#[tokio::test]
async fn transactions_are_forgotten_by_age() {
    each_backend(|db| async move {
        let store = &db.store().await;
        let txn = |id: &str, ts| to_device_txn::Model {
            user_id: "@a:hs".to_owned(),
            device_id: "D".to_owned(),
            event_type: "m.x".to_owned(),
            txn_id: id.to_owned(),
            ts,
        };
        put(
            store,
            Rows {
                to_device_txns: vec![txn("1", 10), txn("2", 20)],
                ..Rows::default()
            },
        )
        .await;
        assert_eq!(store.prune_to_device_txns(15).await, Ok(1));
        assert_eq!(store.prune_to_device_txns(15).await, Ok(0));
    })
    .await;
}

#[tokio::test]
async fn inboxes_are_cut_at_their_old_end() {
    each_backend(|db| async move {
        let store = &db.store().await;
        let message = |pos, device: &str| to_device::Model {
            pos,
            user_id: "@a:hs".to_owned(),
            device_id: device.to_owned(),
            json: "{}".to_owned(),
        };
        let to_device = (1..=6)
            .map(|pos| message(pos, "D"))
            .chain((7..=9).map(|pos| message(pos, "E")));
        let rows = Rows {
            to_device: to_device.collect(),
            ..Rows::default()
        };
        put(store, rows).await;
        let full = store.full_inboxes(3).await;
        assert_eq!(full, Ok(vec![("@a:hs".to_owned(), "D".to_owned())]));
        assert_eq!(store.trim_inbox("@a:hs", "D", 4).await, Ok(2));
        assert_eq!(store.trim_inbox("@a:hs", "D", 4).await, Ok(0));
        assert_eq!(store.trim_inbox("@a:hs", "E", 3).await, Ok(0));
        let left = async |device| {
            let page = store.to_device_page("@a:hs", device, 0, 99, 99).await.expect("read");
            page.iter().map(|message| message.pos).collect::<Vec<_>>()
        };
        assert_eq!(left("D").await, [3, 4, 5, 6]);
        assert_eq!(left("E").await, [7, 8, 9]);
        assert_eq!(store.full_inboxes(4).await, Ok(vec![]));
    })
    .await;
}

#[tokio::test]
async fn changes_that_later_ones_hide_are_forgotten() {
    each_backend(|db| async move {
        let store = &db.store().await;
        let users = ["@a:hs", "@b:hs", "@c:hs"];
        let change = |pos, user: usize| device_list_change::Model {
            pos,
            user_id: users[user].to_owned(),
        };
        let changes = [(1, 0), (2, 1), (3, 0), (4, 0), (5, 2), (6, 0), (7, 1), (9, 2), (12, 0)];
        let rows = Rows {
            device_list_changes: changes.map(|(pos, user)| change(pos, user)).to_vec(),
            ..Rows::default()
        };
        put(store, rows).await;
        let horizon = 8;
        let read = async || {
            let mut answers = Vec::new();
            for since in 0..=12 {
                for upto in horizon..=13 {
                    let found = store.device_list_changes(&users, since, upto).await.expect("read");
                    let mut found: Vec<String> = found.into_iter().map(|change| change.user_id).collect();
                    found.sort_unstable();
                    answers.push(found);
                }
            }
            answers
        };
        let before = read().await;
        assert_eq!(store.prune_device_list_changes(horizon, 3).await, Ok(3));
        assert_eq!(store.prune_device_list_changes(horizon, 3).await, Ok(1));
        assert_eq!(store.prune_device_list_changes(horizon, 3).await, Ok(0));
        assert_eq!(
            read().await,
            before,
            "who reads up to the horizon or further sees the same users"
        );
        let left = store.device_list_changes(&users, 0, 6).await.expect("read");
        let left: Vec<i64> = left.iter().map(|change| change.pos).collect();
        assert_eq!(left, [5, 6]);
    })
    .await;
}
