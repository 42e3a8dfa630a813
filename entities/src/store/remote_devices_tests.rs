use super::*;
use crate::testing::each_backend;

fn list(user: &str, devices: &[&str]) -> RemoteList {
    let device = |id: &&str| remote_device::Model {
        user_id: user.to_owned(),
        device_id: (*id).to_owned(),
        json: Some("{}".to_owned()),
        display_name: None,
    };
    RemoteList {
        devices: devices.iter().map(device).collect(),
        keys: Vec::new(),
    }
}

async fn is_stale(store: &Store, user: &str) -> bool {
    let lists = store.remote_device_lists(&[user]).await.expect("it can be read");
    lists.first().is_none_or(|list| list.stale)
}

#[tokio::test]
async fn a_list_is_replaced_whole() {
    each_backend(|db| async move {
        let store = db.store().await;
        let user = "@a:far";
        for devices in [&["A", "B"][..], &["B", "C"][..]] {
            store
                .keep_remote_list(user, 0, 5, 1, &list(user, devices))
                .await
                .expect("kept");
        }
        let known = store.remote_devices(&[user]).await.expect("it can be read");
        let mut ids: Vec<_> = known.devices.iter().map(|device| device.device_id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["B", "C"]);
        assert!(!is_stale(&store, user).await);
        store.close().await.expect("nothing is in use");
    })
    .await;
}

#[tokio::test]
async fn a_change_while_a_list_is_asked_for_makes_it_old_at_once() {
    each_backend(|db| async move {
        let store = db.store().await;
        let user = "@a:far";
        // Nothing was known when the list was asked for; a change is told of before the answer comes.
        store.mark_remote_lists_stale(&[user.to_owned()]).await.expect("marked");
        store
            .keep_remote_list(user, 0, 5, 1, &list(user, &["A"]))
            .await
            .expect("kept");
        assert!(is_stale(&store, user).await, "the answer may be older than the change");

        let asked_at = store.remote_device_lists(&[user]).await.expect("it can be read")[0].stream_id;
        store
            .keep_remote_list(user, asked_at, 6, 1, &list(user, &["A"]))
            .await
            .expect("kept");
        assert!(!is_stale(&store, user).await);
        store.mark_all_remote_lists_stale().await.expect("marked");
        assert!(is_stale(&store, user).await);
        store.close().await.expect("nothing is in use");
    })
    .await;
}

#[tokio::test]
async fn an_update_that_follows_is_put_in_its_place() {
    each_backend(|db| async move {
        let store = db.store().await;
        let user = "@a:far";
        store
            .keep_remote_list(user, 0, 5, 7, &list(user, &["A", "B"]))
            .await
            .expect("kept");
        let new = &list(user, &["C"]).devices[0];
        let put = async |known, update, id: &str, device| {
            let done = store.update_remote_device((user, id), (known, update), device).await;
            done.expect("it answers")
        };
        assert!(put(7, 9, "C", Some(new)).await);
        assert!(!put(7, 10, "A", None).await, "one is missing in between");
        assert!(put(9, 10, "A", None).await);
        let known = store.remote_devices(&[user]).await.expect("it can be read");
        let mut ids: Vec<_> = known.devices.iter().map(|device| device.device_id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["B", "C"]);
        // An answer that was asked for before the updates is older than what is here.
        store
            .keep_remote_list(user, 0, 6, 7, &list(user, &["A", "B"]))
            .await
            .expect("kept");
        assert!(is_stale(&store, user).await);
        assert!(!put(7, 11, "B", None).await, "old lists are asked for");
        store.close().await.expect("nothing is in use");
    })
    .await;
}
