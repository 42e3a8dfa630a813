//! Local users: accounts, profiles, filters, devices. Their tokens are in `token.rs`.

use sea_orm::FromQueryResult;

use super::{
    Run, Store,
    backend::{Cells, Kind},
    params,
};
use crate::{
    access_token, account_data, device, error::StoreError, fallback_key, filter, profile_field, refresh_token, user,
};

/// Everything a user's view is made of.
#[derive(Clone, Debug)]
pub struct UserRows {
    /// The account.
    pub user: user::Model,
    /// All profile fields.
    pub profile: Vec<profile_field::Model>,
    /// Global account data of the types asked for.
    pub account_data: Vec<account_data::Model>,
    /// All devices.
    pub devices: Vec<device::Model>,
    /// How many one-time keys there are.
    pub one_time_keys: Vec<KeyCount>,
    /// `(device_id, algorithm)` of fallback keys not used yet.
    pub unused_fallback_keys: Vec<(String, String)>,
}

/// How many one-time keys of one algorithm a device has.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub struct KeyCount {
    /// The device.
    pub device_id: String,
    /// The algorithm.
    pub algorithm: String,
    /// How many.
    pub count: i64,
}

/// A device that logs in with its tokens.
#[derive(Clone, Debug)]
pub struct NewLogin {
    /// The device; one that exists already keeps what is stored.
    pub device: device::Model,
    /// Its access token.
    pub access: access_token::Model,
    /// Its refresh token.
    pub refresh: Option<refresh_token::Model>,
}

/// A device that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whose.
    pub user_id: String,
    /// Which.
    pub device_id: String,
    /// When, Unix milliseconds.
    pub ts: i64,
    /// From where.
    pub ip: String,
    /// With what; empty when the client does not say.
    pub user_agent: String,
}

impl Store {
    /// An account.
    pub async fn user(&self, user_id: &str) -> Result<Option<user::Model>, StoreError> {
        let sql = "SELECT * FROM \"user\" WHERE user_id = $1";
        self.reader().one(sql, params![user_id]).await
    }

    /// An account with all that its view shows; `account_data_types` names the global account data wanted.
    pub async fn user_rows(&self, user_id: &str, account_data_types: &[&str]) -> Result<Option<UserRows>, StoreError> {
        let Some(user) = self.user(user_id).await? else {
            return Ok(None);
        };
        let db = self.reader();
        let profile = "SELECT * FROM profile_field WHERE user_id = $1";
        let data = format!(
            "SELECT * FROM account_data WHERE user_id = $1 AND room_id = '' AND type {}",
            self.backend().any(2)
        );
        let types = self.backend().texts(account_data_types);
        let keys = "SELECT device_id, algorithm, COUNT(*) AS count FROM one_time_key WHERE user_id = $1 \
                    GROUP BY device_id, algorithm";
        Ok(Some(UserRows {
            user,
            profile: db.all(profile, params![user_id]).await?,
            account_data: db.all(&data, params![user_id, types]).await?,
            devices: self.devices(user_id).await?,
            one_time_keys: db.all(keys, params![user_id]).await?,
            unused_fallback_keys: self.unused_fallback_keys(user_id).await?,
        }))
    }

    async fn unused_fallback_keys(&self, user_id: &str) -> Result<Vec<(String, String)>, StoreError> {
        let sql = "SELECT * FROM fallback_key WHERE user_id = $1 AND used = FALSE";
        let keys: Vec<fallback_key::Model> = self.reader().all(sql, params![user_id]).await?;
        Ok(keys.into_iter().map(|key| (key.device_id, key.algorithm)).collect())
    }

    /// Makes an account, logged in or not. [`StoreError::Duplicate`] of `user` when the name is taken.
    pub async fn create_user(
        &self,
        user: &user::Model,
        profile: &[profile_field::Model],
        login: Option<&NewLogin>,
    ) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        tx.insert::<user::Entity>(std::slice::from_ref(user)).await?;
        tx.upsert::<profile_field::Entity>(profile).await?;
        if let Some(NewLogin {
            device,
            access,
            refresh,
        }) = login
        {
            tx.insert_new::<device::Entity>(std::slice::from_ref(device)).await?;
            tx.insert::<access_token::Entity>(std::slice::from_ref(access)).await?;
            if let Some(refresh) = refresh {
                tx.insert::<refresh_token::Entity>(std::slice::from_ref(refresh))
                    .await?;
            }
        }
        tx.commit().await
    }

    /// A new password, `None` for none.
    pub async fn set_password(&self, user_id: &str, hash: Option<&str>) -> Result<(), StoreError> {
        let sql = "UPDATE \"user\" SET password_hash = $2 WHERE user_id = $1";
        self.one_user(
            self.writer()
                .exec(sql, params![user_id, hash.map(str::to_owned)])
                .await?,
        )
    }

    /// What an administrator may set.
    pub async fn set_user_flags(
        &self,
        user_id: &str,
        is_admin: bool,
        locked: bool,
        suspended: bool,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE \"user\" SET is_admin = $2, locked = $3, suspended = $4 WHERE user_id = $1";
        let values = params![user_id, is_admin, locked, suspended];
        self.one_user(self.writer().exec(sql, values).await?)
    }

    fn one_user(&self, actual: u64) -> Result<(), StoreError> {
        match actual {
            1 => Ok(()),
            _ => Err(StoreError::RowsAffected {
                table: "user",
                expected: 1,
                actual,
            }),
        }
    }

    /// Marks an account as deactivated and deletes its password, account data, filters, pushers and short-lived tokens;
    /// with `erase` its profile too. Devices are deleted through the journal.
    pub async fn deactivate_user(&self, user_id: &str, erase: bool) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let sql = "UPDATE \"user\" SET deactivated = TRUE, is_admin = FALSE, password_hash = NULL, \
                   erased = (erased OR $2) WHERE user_id = $1";
        let marked = tx.exec(sql, params![user_id, erase]).await?;
        for table in [
            "account_data",
            "filter",
            "pusher",
            "short_token",
            "key_backup_session",
            "key_backup",
            "cross_signing_key",
            "user_email",
            "thread_subscription",
            "delayed_event",
        ] {
            let sql = format!("DELETE FROM {table} WHERE user_id = $1");
            tx.exec(&sql, params![user_id]).await?;
        }
        if erase {
            tx.exec("DELETE FROM profile_field WHERE user_id = $1", params![user_id])
                .await?;
        }
        self.one_user(marked)?;
        tx.commit().await
    }

    /// Gives a deactivated account back to its user.
    pub async fn reactivate_user(&self, user_id: &str, hash: Option<&str>) -> Result<(), StoreError> {
        let sql = "UPDATE \"user\" SET deactivated = FALSE, erased = FALSE, password_hash = $2 WHERE user_id = $1";
        let values = params![user_id, hash.map(str::to_owned)];
        self.one_user(self.writer().exec(sql, values).await?)
    }

    /// Deactivated users that are still in rooms, invited or knocking: `(user_id, room_id)`.
    pub async fn rooms_to_leave(&self) -> Result<Vec<(String, String)>, StoreError> {
        let sql = "SELECT m.user_id, r.room_id FROM \"user\" u JOIN membership m ON m.user_id = u.user_id \
                   JOIN room r ON r.nid = m.room_nid \
                   WHERE u.deactivated = TRUE AND m.membership IN ('join', 'invite', 'knock')";
        pairs(self.reader().rows(sql, params![]).await?)
    }

    /// The rooms a user is in, invited to or knocking at.
    pub async fn rooms_to_leave_of(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT r.room_id FROM membership m JOIN room r ON r.nid = m.room_nid \
                   WHERE m.user_id = $1 AND m.membership IN ('join', 'invite', 'knock')";
        self.reader().column(sql, params![user_id]).await
    }

    /// The local users that share a joined room with this one.
    pub async fn local_users_sharing_rooms(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT DISTINCT b.user_id FROM membership a \
                   JOIN membership b ON b.room_nid = a.room_nid AND b.membership = 'join' \
                   JOIN \"user\" u ON u.user_id = b.user_id WHERE a.user_id = $1 AND a.membership = 'join'";
        self.reader().column(sql, params![user_id]).await
    }

    /// Whether any account has administrator's rights.
    pub async fn has_admin(&self) -> Result<bool, StoreError> {
        let sql = "SELECT user_id FROM \"user\" WHERE is_admin = TRUE AND deactivated = FALSE LIMIT 1";
        let found: Option<String> = self.reader().scalar(sql, params![]).await?;
        Ok(found.is_some())
    }

    /// A stored filter's JSON.
    pub async fn filter(&self, user_id: &str, filter_id: i64) -> Result<Option<String>, StoreError> {
        let sql = "SELECT json FROM filter WHERE user_id = $1 AND filter_id = $2";
        self.reader().scalar(sql, params![user_id, filter_id]).await
    }

    /// Stores a filter and answers its number; an equal one keeps its own. Of more than `keep` the oldest are deleted: their
    /// numbers come with the answer.
    pub async fn create_filter(&self, user_id: &str, json: &str, keep: u32) -> Result<(i64, Vec<i64>), StoreError> {
        let tx = self.begin().await?;
        let equal = "SELECT filter_id FROM filter WHERE user_id = $1 AND json = $2";
        let (id, gone) = match tx.scalar(equal, params![user_id, json]).await? {
            Some(id) => (id, Vec::new()),
            None => {
                let last = "SELECT MAX(filter_id) FROM filter WHERE user_id = $1";
                let last: Option<Option<i64>> = tx.scalar(last, params![user_id]).await?;
                let id = last.flatten().map_or(0, |last| last + 1);
                let row = filter::Model {
                    user_id: user_id.to_owned(),
                    filter_id: id,
                    json: json.to_owned(),
                };
                tx.insert::<filter::Entity>(&[row]).await?;
                let oldest = "DELETE FROM filter WHERE user_id = $1 AND filter_id <= (SELECT filter_id FROM filter \
                              WHERE user_id = $1 ORDER BY filter_id DESC LIMIT 1 OFFSET $2) RETURNING filter_id";
                (id, tx.column(oldest, params![user_id, i64::from(keep)]).await?)
            }
        };
        tx.commit().await?;
        Ok((id, gone))
    }

    /// A user's devices.
    pub async fn devices(&self, user_id: &str) -> Result<Vec<device::Model>, StoreError> {
        let sql = "SELECT * FROM device WHERE user_id = $1 ORDER BY device_id";
        self.reader().all(sql, params![user_id]).await
    }

    /// One device.
    pub async fn device(&self, user_id: &str, device_id: &str) -> Result<Option<device::Model>, StoreError> {
        let sql = "SELECT * FROM device WHERE user_id = $1 AND device_id = $2";
        self.reader().one(sql, params![user_id, device_id]).await
    }

    /// Gives a device another name, or none.
    pub async fn rename_device(&self, user_id: &str, device_id: &str, name: Option<&str>) -> Result<(), StoreError> {
        let sql = "UPDATE device SET display_name = $3 WHERE user_id = $1 AND device_id = $2";
        let values = params![user_id, device_id, name.map(str::to_owned)];
        self.writer().exec(sql, values).await.map(|_| ())
    }

    /// A user's cross-signing keys as JSON texts.
    pub async fn cross_signing_texts(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT json FROM cross_signing_key WHERE user_id = $1";
        self.reader().column(sql, params![user_id]).await
    }

    /// Notes when and from where devices were seen; unknown devices are ignored.
    pub async fn note_seen(&self, seen: &[Seen]) -> Result<(), StoreError> {
        if seen.is_empty() {
            return Ok(());
        }
        let db = self.backend();
        let table = db.tuples_table(
            1,
            &[
                ("u", Kind::Text),
                ("d", Kind::Text),
                ("ts", Kind::Int),
                ("ip", Kind::Text),
                ("agent", Kind::Text),
            ],
        );
        let sql = format!(
            "UPDATE device SET last_seen_ts = v.ts, last_seen_ip = NULLIF(v.ip, ''), user_agent = NULLIF(v.agent, '') \
             FROM {table} WHERE device.user_id = v.u AND device.device_id = v.d AND device.last_seen_ts <= v.ts"
        );
        let texts = |of: fn(&Seen) -> &String| Cells::Texts(seen.iter().map(|s| of(s).clone()).collect());
        let values = db.tuples(vec![
            texts(|s| &s.user_id),
            texts(|s| &s.device_id),
            Cells::Ints(seen.iter().map(|s| s.ts).collect()),
            texts(|s| &s.ip),
            texts(|s| &s.user_agent),
        ]);
        self.writer().exec(&sql, values).await.map(|_| ())
    }
}

fn pairs(rows: Vec<sea_orm::QueryResult>) -> Result<Vec<(String, String)>, StoreError> {
    rows.iter()
        .map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)))
        .collect()
}
