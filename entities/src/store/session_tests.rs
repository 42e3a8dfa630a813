//! Users, devices and tokens, on both databases.

use super::{
    Store,
    read_tests::put,
    rows::Rows,
    session::{KeyCount, NewLogin, Seen},
};
use crate::{
    access_token, device, error::StoreError, fallback_key, membership, one_time_key, profile_field, refresh_token,
    registration_token, short_token, testing::each_backend, user,
};

const ALICE: &str = "@alice:hs";

fn account(user_id: &str) -> user::Model {
    user::Model {
        user_id: user_id.to_owned(),
        password_hash: Some("hash".to_owned()),
        is_admin: false,
        is_guest: false,
        deactivated: false,
        erased: false,
        locked: false,
        suspended: false,
        created_ts: 1,
    }
}

fn phone(id: &str) -> device::Model {
    device::Model {
        user_id: ALICE.to_owned(),
        device_id: id.to_owned(),
        display_name: Some("Phone".to_owned()),
        last_seen_ts: 5,
        last_seen_ip: None,
        user_agent: None,
        created_ts: 5,
    }
}

fn access(hash: u8, refresh: Option<u8>) -> access_token::Model {
    access_token::Model {
        token_hash: vec![hash; 32],
        user_id: ALICE.to_owned(),
        device_id: "A".to_owned(),
        expires_ts: None,
        authed_ts: 0,
        refresh_hash: refresh.map(|hash| vec![hash; 32]),
    }
}

fn refresh(hash: u8) -> refresh_token::Model {
    refresh_token::Model {
        token_hash: vec![hash; 32],
        user_id: ALICE.to_owned(),
        device_id: "A".to_owned(),
        next_hash: None,
        expires_ts: None,
    }
}

/// Alice with device A, access token 1 and refresh token 2.
async fn alice(store: &Store) {
    let name = profile_field::Model {
        user_id: ALICE.to_owned(),
        name: "displayname".to_owned(),
        value: "\"Alice\"".to_owned(),
    };
    let login = NewLogin {
        device: phone("A"),
        access: access(1, Some(2)),
        refresh: Some(refresh(2)),
    };
    store
        .create_user(&account(ALICE), &[name], Some(&login))
        .await
        .expect("a new user");
}

async fn has_access(store: &Store, hash: u8) -> bool {
    store.access_token(&[hash; 32]).await.expect("a read").is_some()
}

macro_rules! on_each_backend {
    ($(async fn $name:ident($store:ident) $body:block)*) => {
        $(#[tokio::test]
        async fn $name() {
            each_backend(|db| async move {
                let $store = db.store().await;
                $body
            })
            .await;
        })*
    };
}

on_each_backend! {
    async fn a_user_is_made_once_and_with_everything(store) {
        alice(&store).await;
        let again = store.create_user(&account(ALICE), &[], None).await;
        assert_eq!(again, Err(StoreError::Duplicate("user".to_owned())));
        let keys = |n: u8| one_time_key::Model {
            user_id: ALICE.to_owned(),
            device_id: "A".to_owned(),
            algorithm: "signed_curve25519".to_owned(),
            key_id: n.to_string(),
            json: "{}".to_owned(),
            seq: i64::from(n),
        };
        let fallback = |algorithm: &str, used| fallback_key::Model {
            user_id: ALICE.to_owned(),
            device_id: "A".to_owned(),
            algorithm: algorithm.to_owned(),
            key_id: "k".to_owned(),
            json: "{}".to_owned(),
            used,
        };
        {
            use super::Run;
            let db = store.writer();
            db.insert::<one_time_key::Entity>(&[keys(1), keys(2)]).await.expect("new keys");
            let both = [fallback("signed_curve25519", false), fallback("other", true)];
            db.insert::<fallback_key::Entity>(&both).await.expect("new keys");
        }
        let rows = store.user_rows(ALICE, &["m.push_rules"]).await.expect("a read").expect("alice");
        assert_eq!(rows.user, account(ALICE));
        assert_eq!(rows.devices, [phone("A")]);
        assert_eq!(rows.profile.len(), 1);
        let count = KeyCount { device_id: "A".to_owned(), algorithm: "signed_curve25519".to_owned(), count: 2 };
        assert_eq!(rows.one_time_keys, [count]);
        assert_eq!(rows.unused_fallback_keys, [("A".to_owned(), "signed_curve25519".to_owned())]);
        assert!(store.user_rows("@nobody:hs", &[]).await.expect("a read").is_none());
    }

    async fn a_login_replaces_the_tokens_of_its_device(store) {
        alice(&store).await;
        let gone = store.replace_tokens(&access(3, None), None).await.expect("a write");
        assert_eq!(gone, [vec![1; 32]]);
        assert!(!has_access(&store, 1).await && has_access(&store, 3).await);
        assert!(store.refresh_token(&[2; 32]).await.expect("a read").is_none());
        let hashes = store.access_token_hashes(ALICE, Some(&["A".to_owned()])).await.expect("a read");
        assert_eq!(hashes, [vec![3; 32]]);
    }

    async fn the_old_pair_ends_with_the_first_use_of_the_new_one(store) {
        alice(&store).await;
        let gone = store.exchange_refresh(&[2; 32], &access(3, Some(4)), &refresh(4)).await.expect("a write");
        assert_eq!(gone, Some(vec![]));
        assert!(has_access(&store, 1).await && has_access(&store, 3).await);
        assert!(store.has_refresh_predecessor(ALICE, "A", &[4; 32]).await.expect("a read"));

        // The answer was lost: the same refresh token again.
        let gone = store.exchange_refresh(&[2; 32], &access(5, Some(6)), &refresh(6)).await.expect("a write");
        assert_eq!(gone, Some(vec![vec![3; 32]]));
        assert!(!has_access(&store, 3).await);
        assert!(store.refresh_token(&[4; 32]).await.expect("a read").is_none());

        let gone = store.confirm_refresh(ALICE, "A", &[6; 32]).await.expect("a write");
        assert_eq!(gone, [vec![1; 32]]);
        assert!(!store.has_refresh_predecessor(ALICE, "A", &[6; 32]).await.expect("a read"));
        let gone = store.exchange_refresh(&[2; 32], &access(7, Some(8)), &refresh(8)).await.expect("a write");
        assert_eq!(gone, None);
        assert!(has_access(&store, 5).await && !has_access(&store, 7).await);

        // Using the new refresh token counts as well.
        store.exchange_refresh(&[6; 32], &access(9, Some(10)), &refresh(10)).await.expect("a write");
        let gone = store.exchange_refresh(&[10; 32], &access(11, Some(12)), &refresh(12)).await.expect("a write");
        assert_eq!(gone, Some(vec![vec![5; 32]]));
    }

    async fn devices_are_renamed_and_seen(store) {
        alice(&store).await;
        store.rename_device(ALICE, "A", None).await.expect("a write");
        let seen = |device: &str, ts, agent: &str| Seen {
            user_id: ALICE.to_owned(),
            device_id: device.to_owned(),
            ts,
            ip: "127.0.0.1".to_owned(),
            user_agent: agent.to_owned(),
        };
        store.note_seen(&[seen("A", 9, ""), seen("unknown", 9, "x")]).await.expect("a write");
        store.note_seen(&[seen("A", 8, "older")]).await.expect("a write");
        let device = store.device(ALICE, "A").await.expect("a read").expect("device A");
        assert_eq!(device.display_name, None);
        assert_eq!((device.last_seen_ts, device.user_agent), (9, None));
        assert_eq!(device.last_seen_ip.as_deref(), Some("127.0.0.1"));
    }

    async fn a_deactivated_user_keeps_nothing_private(store) {
        alice(&store).await;
        store.set_user_flags(ALICE, true, false, true).await.expect("a write");
        assert!(store.has_admin().await.expect("a read"));
        store.create_filter(ALICE, "{}", 9).await.expect("a write");
        store.deactivate_user(ALICE, false).await.expect("a write");
        let user = store.user(ALICE).await.expect("a read").expect("alice");
        assert!(user.deactivated && !user.erased && !user.is_admin && user.suspended);
        assert_eq!(user.password_hash, None);
        assert_eq!(store.filter(ALICE, 0).await.expect("a read"), None);
        store.deactivate_user(ALICE, true).await.expect("a write");
        let rows = store.user_rows(ALICE, &[]).await.expect("a read").expect("alice");
        assert!(rows.user.erased && rows.profile.is_empty());
        assert!(store.deactivate_user("@nobody:hs", false).await.is_err());
    }

    async fn users_who_share_a_room_are_found(store) {
        alice(&store).await;
        store.create_user(&account("@bob:hs"), &[], None).await.expect("a new user");
        store.create_user(&account("@carol:hs"), &[], None).await.expect("a new user");
        let member = |room, user: &str, membership: &str| membership::Model {
            room_nid: room,
            user_id: user.to_owned(),
            membership: membership.to_owned(),
            sender: user.to_owned(),
            event_nid: 0,
            pos: 1,
            forgotten: false,
        };
        let memberships = vec![
            member(1, ALICE, "join"),
            member(1, "@bob:hs", "join"),
            member(1, "@remote:elsewhere", "join"),
            member(1, "@carol:hs", "leave"),
            member(2, "@carol:hs", "join"),
        ];
        put(&store, Rows { memberships, ..Rows::default() }).await;
        let mut found = store.local_users_sharing_rooms(ALICE).await.expect("a read");
        found.sort();
        assert_eq!(found, [ALICE, "@bob:hs"]);
    }

    async fn equal_filters_share_a_number(store) {
        let (first, _) = store.create_filter(ALICE, "{\"room\":{}}", 9).await.expect("a write");
        let (second, _) = store.create_filter(ALICE, "{}", 9).await.expect("a write");
        assert_ne!(first, second);
        assert_eq!(store.create_filter(ALICE, "{\"room\":{}}", 9).await, Ok((first, vec![])));
        assert_eq!(store.filter(ALICE, second).await, Ok(Some("{}".to_owned())));
        assert_eq!(store.filter("@bob:hs", second).await, Ok(None));
    }

    async fn the_oldest_filters_give_way(store) {
        let create = async |user: &str, json: &str| store.create_filter(user, json, 2).await.expect("a write");
        let (first, _) = create(ALICE, "{\"n\":1}").await;
        let (others, _) = create("@bob:hs", "{\"n\":1}").await;
        assert_eq!(create(ALICE, "{\"n\":2}").await.1, [0_i64; 0]);
        assert_eq!(create(ALICE, "{\"n\":1}").await, (first, vec![]), "an equal one takes no place");
        let (third, gone) = create(ALICE, "{\"n\":3}").await;
        assert_eq!(gone, [first]);
        assert_eq!(store.filter(ALICE, first).await, Ok(None));
        assert!(store.filter("@bob:hs", others).await.is_ok_and(|json| json.is_some()));
        let (again, _) = create(ALICE, "{\"n\":1}").await;
        assert!(again > third, "a number is not used again");
    }

    async fn short_tokens_serve_once(store) {
        let token = |hash: u8, expires_ts| short_token::Model {
            token_hash: vec![hash; 32],
            kind: "login".to_owned(),
            user_id: ALICE.to_owned(),
            expires_ts,
        };
        store.create_short_token(&token(1, 10), 0).await.expect("a write");
        store.create_short_token(&token(2, 30), 20).await.expect("a write");
        assert_eq!(store.short_token(&[1; 32], "login").await, Ok(None));
        assert_eq!(store.take_short_token(&[2; 32], "openid").await, Ok(None));
        assert_eq!(store.take_short_token(&[2; 32], "login").await, Ok(Some(token(2, 30))));
        assert_eq!(store.take_short_token(&[2; 32], "login").await, Ok(None));
    }

    async fn registration_tokens_count_their_uses(store) {
        let row = registration_token::Model {
            token: "tea".to_owned(),
            uses_allowed: Some(1),
            pending: 0,
            completed: 0,
            expires_ts: Some(100),
        };
        store.create_registration_token(&row).await.expect("a write");
        assert!(store.create_registration_token(&row).await.is_err());
        assert_eq!(store.use_registration_token("tea", 100).await, Ok(false));
        assert_eq!(store.use_registration_token("tea", 99).await, Ok(true));
        assert_eq!(store.use_registration_token("tea", 99).await, Ok(false));
        store.release_registration_token("tea").await.expect("a write");
        assert_eq!(store.use_registration_token("tea", 99).await, Ok(true));
        assert_eq!(store.update_registration_token("tea", None, None).await, Ok(true));
        assert_eq!(store.use_registration_token("tea", 999).await, Ok(true));
        assert_eq!(store.delete_registration_token("tea").await, Ok(true));
        assert_eq!(store.registration_tokens().await, Ok(vec![]));
    }
}
