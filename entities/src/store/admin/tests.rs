//! The texts of the administrators' statements, on both databases.

use super::Slice;
use super::media::MediaOrder;
use super::rooms::{RoomFilter, RoomOrder};
use super::stats::MediaUseOrder;
use super::users::{UserFilter, UserOrder};
use crate::store::read_tests::message;
use crate::store::rows::Rows;
use crate::store::{Run, Store, params};
use crate::testing::each_backend;
use crate::{admin_task, current_state, event, membership, public_room, room, room_head, security_event, user};

const ALL: Slice = Slice {
    from: 0,
    limit: 100,
    backwards: false,
};

fn account(user_id: &str, is_admin: bool) -> user::Model {
    user::Model {
        user_id: user_id.to_owned(),
        password_hash: None,
        is_admin,
        is_guest: false,
        deactivated: false,
        erased: false,
        locked: false,
        suspended: false,
        created_ts: 5,
    }
}

fn an_event(nid: i64, room_nid: i64, kind: &str, state_key: Option<&str>, content: &str) -> event::Model {
    event::Model {
        nid,
        r#type: kind.to_owned(),
        state_key: state_key.map(str::to_owned),
        sender: if nid % 2 == 0 { "@a:hs" } else { "@b:else" }.to_owned(),
        json: format!("{{\"content\":{content}}}"),
        ..message(room_nid, nid)
    }
}

/// Two rooms: one called B and public, one without a name, with messages 10 to 19 in the first.
async fn furnish(store: &Store) {
    let mut rows = Rows::default();
    for nid in [1, 2] {
        rows.rooms.push(room::Model {
            nid,
            room_id: format!("!r{nid}:hs"),
            version: "11".to_owned(),
            creator: "@a:hs".to_owned(),
            created_ts: 0,
        });
        rows.room_heads.push(room_head::Model {
            room_nid: nid,
            extremities: "[]".to_owned(),
            state_group: 0,
            pos: 19,
        });
        rows.memberships.push(membership::Model {
            room_nid: nid,
            user_id: "@a:hs".to_owned(),
            membership: if nid == 1 { "join" } else { "leave" }.to_owned(),
            sender: "@a:hs".to_owned(),
            event_nid: 4,
            pos: 4,
            forgotten: false,
        });
    }
    rows.events
        .push(an_event(3, 1, "m.room.name", Some(""), "{\"name\":\"B\"}"));
    rows.events
        .push(an_event(5, 2, "m.room.topic", Some(""), "{\"topic\":\"\\u0000\"}"));
    rows.events.push(an_event(
        4,
        1,
        "m.room.member",
        Some("@a:hs"),
        "{\"membership\":\"join\"}",
    ));
    rows.events
        .extend((10..20).map(|nid| an_event(nid, 1, "m.room.message", None, "{\"url\":\"mxc://hs/x\"}")));
    for (nid, kind, key) in [(3, "m.room.name", ""), (4, "m.room.member", "@a:hs")] {
        rows.current_state.push(current_state::Model {
            room_nid: 1,
            r#type: kind.to_owned(),
            state_key: key.to_owned(),
            event_nid: nid,
        });
    }
    rows.published.push(public_room::Model {
        room_id: "!r1:hs".to_owned(),
    });
    store.import(&rows).await.expect("rows are written");
}

#[tokio::test]
async fn lists_can_be_ordered_by_everything() {
    each_backend(|db| async move {
        let store = &db.store().await;
        for (name, admin) in [("@a:hs", true), ("@b:hs", false)] {
            store.create_user(&account(name, admin), &[], None).await.expect("made");
        }
        furnish(store).await;
        for order in [
            UserOrder::Name,
            UserOrder::Displayname,
            UserOrder::Guest,
            UserOrder::Admin,
            UserOrder::UserType,
            UserOrder::Deactivated,
            UserOrder::ShadowBanned,
            UserOrder::AvatarUrl,
            UserOrder::Created,
            UserOrder::LastSeen,
            UserOrder::Locked,
        ] {
            let (users, total) = store
                .list_users(&UserFilter::default(), order, ALL)
                .await
                .unwrap_or_else(|e| panic!("{order:?}: {e}"));
            assert_eq!((users.len(), total), (2, 2), "{order:?}");
        }
        let filter = UserFilter {
            name: Some("A:"),
            admins: Some(true),
            ..UserFilter::default()
        };
        let (users, _) = store.list_users(&filter, UserOrder::Name, ALL).await.expect("read");
        assert_eq!(
            users.iter().map(|user| user.user_id.as_str()).collect::<Vec<_>>(),
            ["@a:hs"]
        );

        for order in [
            RoomOrder::Name,
            RoomOrder::CanonicalAlias,
            RoomOrder::JoinedMembers,
            RoomOrder::JoinedLocalMembers,
            RoomOrder::Version,
            RoomOrder::Creator,
            RoomOrder::Encryption,
            RoomOrder::Federatable,
            RoomOrder::Public,
            RoomOrder::JoinRules,
            RoomOrder::GuestAccess,
            RoomOrder::HistoryVisibility,
            RoomOrder::StateEvents,
        ] {
            let (rooms, total) = store
                .list_rooms("hs", &RoomFilter::default(), order, ALL)
                .await
                .unwrap_or_else(|e| panic!("{order:?}: {e}"));
            assert_eq!((rooms.len(), total), (2, 2), "{order:?}");
        }
        let only = |public, empty, term| RoomFilter { term, public, empty };
        for (filter, expected) in [
            (only(Some(true), None, None), "!r1:hs"),
            (only(None, Some(true), None), "!r2:hs"),
            (only(None, None, Some("b")), "!r1:hs"),
        ] {
            let (rooms, total) = store
                .list_rooms("hs", &filter, RoomOrder::Name, ALL)
                .await
                .expect("read");
            assert_eq!((rooms[0].room_id.as_str(), total), (expected, 1), "{filter:?}");
        }
        for order in [
            MediaOrder::Id,
            MediaOrder::UploadName,
            MediaOrder::Created,
            MediaOrder::LastAccess,
        ] {
            store.media_of_user("@a:hs", order, ALL).await.expect("read");
        }
        for order in [
            MediaOrder::Length,
            MediaOrder::Type,
            MediaOrder::Quarantined,
            MediaOrder::Safe,
        ] {
            store.media_of_user("@a:hs", order, ALL).await.expect("read");
        }
        for order in [
            MediaUseOrder::User,
            MediaUseOrder::Displayname,
            MediaUseOrder::Count,
            MediaUseOrder::Length,
        ] {
            store.media_use(None, (0, 9), order, ALL).await.expect("read");
        }
        assert_eq!(store.count_membership_changes("@a:hs", "join", 0, false).await, Ok(1));
        assert_eq!(store.largest_rooms(1).await.expect("read")[0].0, "!r1:hs");
        store.old_local_media("hs", 9, 0, true, 9).await.expect("read");
    })
    .await;
}

#[tokio::test]
async fn history_and_rooms_are_deleted_in_parts() {
    each_backend(|db| async move {
        let store = &db.store().await;
        furnish(store).await;
        let page = store
            .history_to_purge(1, (i64::MIN, 15), "hs", false)
            .await
            .expect("read");
        let deletable: Vec<i64> = page.iter().filter(|(.., gone)| *gone).map(|(_, nid, _)| *nid).collect();
        assert_eq!(deletable, [11, 13], "other servers' messages, no state");
        let page = store.history_to_purge(1, (12, 15), "hs", true).await.expect("read");
        assert_eq!(page, [(13, 13, true), (14, 14, true)]);
        assert_eq!(store.delete_events(&[11, 13]).await, Ok(2));
        assert_eq!(store.history_before_ts(1, 155).await, Ok(Some(16)));

        store.delete_room_standing(1, "!r1:hs").await.expect("deleted");
        assert!(store.room_heads(&[1]).await.expect("read").is_empty());
        while store.delete_room_rest(1).await.expect("deleted") {}
        let left: Option<i64> = store
            .reader()
            .scalar("SELECT COUNT(*) FROM event WHERE room_nid = 1", params![])
            .await
            .expect("read");
        assert_eq!(left, Some(0));
        assert_eq!(store.room_by_id("!r1:hs").await, Ok(None));
        assert!(store.room_by_id("!r2:hs").await.expect("read").is_some());
        assert!(
            !store.delete_room_rest(1).await.expect("deleted"),
            "repeating it is harmless"
        );
    })
    .await;
}

#[tokio::test]
async fn the_oldest_security_events_and_tasks_are_forgotten() {
    each_backend(|db| async move {
        let store = &db.store().await;
        let incident = |id, kind: &str| security_event::Model {
            id,
            kind: kind.to_owned(),
            user_id: None,
            ip: "192.0.2.1".to_owned(),
            user_agent: None,
            ts: id,
        };
        let rows: Vec<_> = (1..=5).map(|id| incident(id, "login_failed")).collect();
        store.note_security_events(&rows, 3).await.expect("written");
        let (events, total) = store.security_events("", "192.0.2.1", "", ALL).await.expect("read");
        assert_eq!(
            (events.iter().map(|row| row.id).collect::<Vec<_>>(), total),
            (vec![5, 4, 3], 3)
        );
        let record = store.address_record("192.0.2.1", 4).await.expect("read");
        assert_eq!(
            (record.login_attempts, record.failed_logins, record.last_seen),
            (2, 2, Some(5))
        );
        let record = store.address_record("192.0.2.2", 0).await.expect("read");
        assert_eq!((record.login_attempts, record.last_seen), (0, None));

        let mut task = admin_task::Model {
            id: "t".to_owned(),
            kind: "delete_room".to_owned(),
            subject: "!r:hs".to_owned(),
            status: "active".to_owned(),
            params: "{}".to_owned(),
            result: "{}".to_owned(),
            error: None,
            created_ts: 1,
            updated_ts: 1,
        };
        store.begin_admin_task(&task).await.expect("written");
        assert_eq!(store.prune_admin_tasks(9).await, Ok(0), "work under way stays");
        assert_eq!(store.unfinished_admin_tasks().await.expect("read").len(), 1);
        "complete".clone_into(&mut task.status);
        store.note_admin_task(&task).await.expect("written");
        assert_eq!(
            store
                .admin_tasks("", "!r:hs", "complete", ALL)
                .await
                .expect("read")
                .len(),
            1
        );
        assert_eq!(store.prune_admin_tasks(9).await, Ok(1));
    })
    .await;
}
