//! Work of several commits that goes on after a death: new profiles that rooms are to show, upgrades of rooms.

use super::{Run, Store, Tx, params};
use crate::{error::StoreError, profile_field, profile_spread, room_upgrade};

impl Store {
    /// Sets one profile field; `value` is JSON text. Notes with `spread` that rooms are to show it.
    pub async fn set_profile_field(&self, field: &profile_field::Model, spread: bool) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        tx.upsert::<profile_field::Entity>(std::slice::from_ref(field)).await?;
        note_spread(&tx, &field.user_id, spread).await?;
        tx.commit().await
    }

    /// Deletes one profile field. Notes with `spread` that rooms are to show that.
    pub async fn delete_profile_field(&self, user_id: &str, name: &str, spread: bool) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let sql = "DELETE FROM profile_field WHERE user_id = $1 AND name = $2";
        tx.exec(sql, params![user_id, name]).await?;
        note_spread(&tx, user_id, spread).await?;
        tx.commit().await
    }

    /// The newest change of the user's profile that rooms may not show yet.
    pub async fn profile_spread(&self, user_id: &str) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT change FROM profile_spread WHERE user_id = $1";
        self.reader().scalar(sql, params![user_id]).await
    }

    /// All users with such a change.
    pub async fn profile_spreads(&self) -> Result<Vec<profile_spread::Model>, StoreError> {
        let sql = "SELECT * FROM profile_spread ORDER BY user_id";
        self.reader().all(sql, params![]).await
    }

    /// All rooms show this change, though perhaps not a later one.
    pub async fn end_profile_spread(&self, user_id: &str, change: i64) -> Result<(), StoreError> {
        let sql = "DELETE FROM profile_spread WHERE user_id = $1 AND change = $2";
        self.writer().exec(sql, params![user_id, change]).await.map(|_| ())
    }

    /// The upgrade of a room that is under way.
    pub async fn room_upgrade(&self, old_room_id: &str) -> Result<Option<room_upgrade::Model>, StoreError> {
        let sql = "SELECT * FROM room_upgrade WHERE old_room_id = $1";
        self.reader().one(sql, params![old_room_id]).await
    }

    /// All upgrades under way.
    pub async fn room_upgrades(&self) -> Result<Vec<room_upgrade::Model>, StoreError> {
        let sql = "SELECT * FROM room_upgrade ORDER BY old_room_id";
        self.reader().all(sql, params![]).await
    }

    /// An upgrade begins; one of the same room that had begun is forgotten.
    pub async fn begin_room_upgrade(&self, upgrade: &room_upgrade::Model) -> Result<(), StoreError> {
        self.writer()
            .upsert::<room_upgrade::Entity>(std::slice::from_ref(upgrade))
            .await
            .map(|_| ())
    }

    /// Nothing is left to be done of the upgrade.
    pub async fn end_room_upgrade(&self, old_room_id: &str) -> Result<(), StoreError> {
        let sql = "DELETE FROM room_upgrade WHERE old_room_id = $1";
        self.writer().exec(sql, params![old_room_id]).await.map(|_| ())
    }
}

async fn note_spread(tx: &Tx, user_id: &str, spread: bool) -> Result<(), StoreError> {
    if !spread {
        return Ok(());
    }
    let sql = "INSERT INTO profile_spread (user_id, change) VALUES ($1, 1) \
               ON CONFLICT (user_id) DO UPDATE SET change = profile_spread.change + 1";
    tx.exec(sql, params![user_id]).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_backend;

    #[tokio::test]
    async fn a_later_change_stays_noted() {
        each_backend(|db| async move {
            let store = db.store().await;
            let field = profile_field::Model {
                user_id: "@a:hs".to_owned(),
                name: "displayname".to_owned(),
                value: "\"A\"".to_owned(),
            };
            store.set_profile_field(&field, false).await.expect("a write");
            assert_eq!(store.profile_spread("@a:hs").await, Ok(None));
            store.set_profile_field(&field, true).await.expect("a write");
            let first = store.profile_spread("@a:hs").await.expect("a read").expect("noted");
            let delete = store.delete_profile_field("@a:hs", "displayname", true);
            delete.await.expect("a write");
            store.end_profile_spread("@a:hs", first).await.expect("a write");
            let open = store.profile_spreads().await.expect("a read");
            assert_eq!(open.len(), 1);
            assert!(open[0].change > first);
            store
                .end_profile_spread("@a:hs", open[0].change)
                .await
                .expect("a write");
            assert_eq!(store.profile_spreads().await, Ok(vec![]));
        })
        .await;
    }

    #[tokio::test]
    async fn a_room_has_one_upgrade_at_a_time() {
        each_backend(|db| async move {
            let store = db.store().await;
            let to = |new: &str| room_upgrade::Model {
                old_room_id: "!old:hs".to_owned(),
                new_room_id: new.to_owned(),
                user_id: "@a:hs".to_owned(),
            };
            store.begin_room_upgrade(&to("!one:hs")).await.expect("a write");
            store.begin_room_upgrade(&to("!two:hs")).await.expect("a write");
            assert_eq!(store.room_upgrades().await, Ok(vec![to("!two:hs")]));
            assert_eq!(store.room_upgrade("!old:hs").await, Ok(Some(to("!two:hs"))));
            store.end_room_upgrade("!old:hs").await.expect("a write");
            assert_eq!(store.room_upgrade("!old:hs").await, Ok(None));
        })
        .await;
    }
}
