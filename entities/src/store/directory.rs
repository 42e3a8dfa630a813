//! The room directory: local aliases and published rooms. Also the names and avatars that member events show.

use super::{Run, Store, params};
use crate::{error::StoreError, profile_field, public_room, room_alias};

impl Store {
    /// A local alias.
    pub async fn alias(&self, alias: &str) -> Result<Option<room_alias::Model>, StoreError> {
        self.reader()
            .one("SELECT * FROM room_alias WHERE alias = $1", params![alias])
            .await
    }

    /// The local aliases of a room, sorted.
    pub async fn aliases_of_room(&self, room_id: &str) -> Result<Vec<room_alias::Model>, StoreError> {
        self.reader()
            .all(
                "SELECT * FROM room_alias WHERE room_id = $1 ORDER BY alias",
                params![room_id],
            )
            .await
    }

    /// Makes an alias; [`StoreError::Duplicate`] if there is one of that name.
    pub async fn insert_alias(&self, alias: room_alias::Model) -> Result<(), StoreError> {
        self.writer().insert::<room_alias::Entity>(&[alias]).await.map(|_| ())
    }

    /// Deletes an alias. Tells whether there was one.
    pub async fn delete_alias(&self, alias: &str) -> Result<bool, StoreError> {
        let deleted = self
            .writer()
            .exec("DELETE FROM room_alias WHERE alias = $1", params![alias])
            .await?;
        Ok(deleted > 0)
    }

    /// Points all local aliases of a room to another.
    pub async fn move_aliases(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let sql = "UPDATE room_alias SET room_id = $2 WHERE room_id = $1";
        self.writer().exec(sql, params![from, to]).await.map(|_| ())
    }

    /// Lists a room in the directory, or takes it out.
    pub async fn set_published(&self, room_id: &str, published: bool) -> Result<(), StoreError> {
        if published {
            let row = public_room::Model {
                room_id: room_id.to_owned(),
            };
            return self.writer().upsert::<public_room::Entity>(&[row]).await.map(|_| ());
        }
        self.writer()
            .exec("DELETE FROM public_room WHERE room_id = $1", params![room_id])
            .await
            .map(|_| ())
    }

    /// Whether the directory lists the room.
    pub async fn is_published(&self, room_id: &str) -> Result<bool, StoreError> {
        let row: Option<public_room::Model> = self
            .reader()
            .one("SELECT * FROM public_room WHERE room_id = $1", params![room_id])
            .await?;
        Ok(row.is_some())
    }

    /// All rooms that the directory lists, sorted by id.
    pub async fn published_rooms(&self) -> Result<Vec<String>, StoreError> {
        self.reader()
            .column("SELECT room_id FROM public_room ORDER BY room_id", params![])
            .await
    }

    /// The guests who are joined to a room.
    pub async fn guests_in_room(&self, room_nid: i64) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT m.user_id FROM membership m JOIN \"user\" u ON u.user_id = m.user_id \
                   WHERE m.room_nid = $1 AND m.membership = 'join' AND u.is_guest ORDER BY m.user_id";
        self.reader().column(sql, params![room_nid]).await
    }

    /// `displayname` and `avatar_url` of the given users.
    pub async fn member_profiles<S: AsRef<str> + Sync>(
        &self,
        users: &[S],
    ) -> Result<Vec<profile_field::Model>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT * FROM profile_field WHERE user_id {} AND name IN ('displayname', 'avatar_url')",
            db.any(1)
        );
        self.reader().all(&sql, params![db.texts(users)]).await
    }
}
