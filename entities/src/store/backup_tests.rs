//! The room key backup, on both databases.

use super::{BackupPut, BackupScope, BackupState};
use crate::key_backup_session::Model;
use crate::testing::each_backend;

fn session(room: &str, id: &str, index: i64) -> Model {
    Model {
        user_id: "@a:hs".to_owned(),
        version: 1,
        room_id: room.to_owned(),
        session_id: id.to_owned(),
        first_message_index: index,
        forwarded_count: 0,
        is_verified: true,
        session_data: "{}".to_owned(),
    }
}

fn state(count: i64, etag: i64) -> Result<BackupState, crate::error::StoreError> {
    Ok(BackupState { count, etag })
}

#[tokio::test]
async fn versions_count_up_for_ever() {
    each_backend(|db| async move {
        let store = &db.store().await;
        assert_eq!(store.create_backup("@a:hs", "alg", "{}").await, Ok(1));
        assert_eq!(store.create_backup("@a:hs", "alg", "{}").await, Ok(2));
        assert_eq!(store.create_backup("@b:hs", "alg", "{}").await, Ok(1));
        store.delete_backup("@a:hs", 2).await.expect("deleted");
        let left = store.backups("@a:hs", 10).await.expect("read");
        assert_eq!(left.iter().map(|backup| backup.version).collect::<Vec<_>>(), [1]);
        let gone = store.backup("@a:hs", 2).await.expect("read").expect("it is remembered");
        assert!(gone.deleted);
        assert_eq!(store.create_backup("@a:hs", "alg", "{}").await, Ok(3));
        store.update_backup("@a:hs", 3, r#"{"k":1}"#).await.expect("updated");
        let updated = store.backup("@a:hs", 3).await.expect("read").expect("there");
        assert_eq!(updated.auth_data, r#"{"k":1}"#);
    })
    .await;
}

#[tokio::test]
async fn better_sessions_replace_and_the_etag_tells() {
    each_backend(|db| async move {
        let store = &db.store().await;
        store.create_backup("@a:hs", "alg", "{}").await.expect("created");
        let put = async |sessions: &[Model]| {
            let earlier = |old: &Model, new: &Model| new.first_message_index < old.first_message_index;
            let put = store.put_backup_sessions("@a:hs", 1, sessions, 1_000, earlier).await;
            put.map(|put| match put {
                BackupPut::Stored { state, .. } => state,
                BackupPut::NoRoom => panic!("there is room"),
            })
        };
        let first = [
            session("!r:hs", "A", 5),
            session("!r:hs", "B", 5),
            session("!s:hs", "A", 5),
        ];
        assert_eq!(put(&first).await, state(3, 1));
        assert_eq!(
            put(&[session("!r:hs", "A", 7)]).await,
            state(3, 1),
            "a worse one changes nothing"
        );
        assert_eq!(
            put(&[session("!r:hs", "A", 2), session("!r:hs", "C", 2)]).await,
            state(4, 2)
        );
        let one = store
            .backup_sessions("@a:hs", 1, BackupScope::Session("!r:hs", "A"))
            .await;
        assert_eq!(one, Ok(vec![session("!r:hs", "A", 2)]));
        let in_room = store.backup_sessions("@a:hs", 1, BackupScope::Room("!r:hs")).await;
        assert_eq!(in_room.expect("read").len(), 3);
        assert_eq!(store.backup_counts("@a:hs").await, Ok(vec![(1, 4)]));

        let delete = async |scope| store.delete_backup_sessions("@a:hs", 1, scope).await;
        assert_eq!(delete(BackupScope::Session("!r:hs", "A")).await, state(3, 3));
        assert_eq!(delete(BackupScope::Session("!r:hs", "A")).await, state(3, 3));
        assert_eq!(delete(BackupScope::Room("!r:hs")).await, state(1, 4));
        assert_eq!(delete(BackupScope::All).await, state(0, 5));
        let all = store.backup_sessions("@a:hs", 1, BackupScope::All).await;
        assert_eq!(all, Ok(Vec::new()));
    })
    .await;
}

#[tokio::test]
async fn growth_is_counted_and_bounded() {
    each_backend(|db| async move {
        let store = &db.store().await;
        store.create_backup("@a:hs", "alg", "{}").await.expect("created");
        store.create_backup("@b:hs", "alg", "{}").await.expect("created");
        let used = async || store.backup_use("@a:hs").await.expect("read");
        let empty = used().await;
        assert_eq!(empty, 5);
        let put = async |session: Model, room| {
            let always = |_: &Model, _: &Model| true;
            let put = store.put_backup_sessions("@a:hs", 1, &[session], room, always).await;
            match put.expect("a write") {
                BackupPut::Stored { growth, .. } => Some(growth),
                BackupPut::NoRoom => None,
            }
        };
        let mut key = session("!é:hs", "A", 1);
        let grown = i64::try_from("!é:hs".len() + "A".len() + "{}".len()).expect("small");
        assert_eq!(put(key.clone(), grown - 1).await, None);
        assert_eq!(used().await, empty, "nothing was written");
        assert_eq!(put(key.clone(), grown).await, Some(grown));
        assert_eq!(used().await, empty + grown);
        key.session_data = r#"{"a":1}"#.to_owned();
        assert_eq!(put(key.clone(), 4).await, None);
        assert_eq!(put(key.clone(), 5).await, Some(5), "what is replaced makes room");
        key.session_data = "{}".to_owned();
        assert_eq!(put(key, -7).await, Some(-5), "what shrinks always fits");
        assert_eq!(used().await, empty + grown);
        assert_eq!(store.backup_use("@b:hs").await, Ok(5));
    })
    .await;
}
