//! End-to-end keys: what devices publish, what others claim, and who signed what.

use std::collections::HashMap;

use sea_orm::FromQueryResult;
use serde_json::Value;

use super::{Run, Store, Tx, params};
use crate::{cross_signing_key, dehydrated_device, error::StoreError, fallback_key, key_signature, one_time_key};

/// A device's identity keys, with the name its user gave it.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub struct NamedDeviceKey {
    /// Whose.
    pub user_id: String,
    /// Which.
    pub device_id: String,
    /// The keys as uploaded.
    pub json: String,
    /// Its name.
    pub display_name: Option<String>,
}

/// A one-time or fallback key to be stored or handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreKey {
    /// Such as `signed_curve25519`.
    pub algorithm: String,
    /// What follows the algorithm in the key's name.
    pub key_id: String,
    /// The key: an object, or a string for unsigned algorithms.
    pub json: String,
}

/// What a device has in stock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyStock {
    /// Unclaimed one-time keys by algorithm.
    pub one_time: Vec<(String, i64)>,
    /// Algorithms whose fallback key nobody got yet.
    pub unused_fallback: Vec<String>,
}

/// What became of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyUpload {
    /// Stored; this is the stock now.
    Stored(KeyStock),
    /// Nothing stored: another key has this name (`algorithm:key_id`) already.
    Clash(String),
}

/// A key that was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedKey {
    /// From which device.
    pub device_id: String,
    /// The key.
    pub key: PreKey,
    /// Whether it is the fallback key and can be handed out again.
    pub fallback: bool,
}

/// Keys that were handed out several at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeveralKeys {
    /// As with [`Store::claim_keys`].
    pub claimed: Vec<ClaimedKey>,
    /// Fallback keys that are shown beside them and stay as they are.
    pub beside: Vec<ClaimedKey>,
}

/// Who came into and out of sight of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Users in a room they or the user joined.
    pub arrived: Vec<String>,
    /// Users of rooms they or the user left; some may still be in sight elsewhere.
    pub gone: Vec<String>,
}

impl Store {
    /// The identity keys of all devices of the given users.
    pub async fn device_keys_of<S: AsRef<str> + Sync>(&self, users: &[S]) -> Result<Vec<NamedDeviceKey>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT k.user_id, k.device_id, k.json, d.display_name FROM device_key k \
             LEFT JOIN device d ON d.user_id = k.user_id AND d.device_id = k.device_id WHERE k.user_id {}",
            db.any(1)
        );
        self.reader().all(&sql, params![db.texts(users)]).await
    }

    /// A user's dehydrated device.
    pub async fn dehydrated_device(&self, user_id: &str) -> Result<Option<dehydrated_device::Model>, StoreError> {
        let sql = "SELECT * FROM dehydrated_device WHERE user_id = $1";
        self.reader().one(sql, params![user_id]).await
    }

    /// One device's identity keys.
    pub async fn device_key(&self, user_id: &str, device_id: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT json FROM device_key WHERE user_id = $1 AND device_id = $2";
        self.reader().scalar(sql, params![user_id, device_id]).await
    }

    /// The cross-signing keys of the given users.
    pub async fn cross_signing_keys_of<S: AsRef<str> + Sync>(
        &self,
        users: &[S],
    ) -> Result<Vec<cross_signing_key::Model>, StoreError> {
        let db = self.backend();
        let sql = format!("SELECT * FROM cross_signing_key WHERE user_id {}", db.any(1));
        self.reader().all(&sql, params![db.texts(users)]).await
    }

    /// The signatures on the given users' keys that `reader` may see: the users' own and the reader's.
    pub async fn key_signatures_for<S: AsRef<str> + Sync>(
        &self,
        users: &[S],
        reader: &str,
    ) -> Result<Vec<key_signature::Model>, StoreError> {
        let db = self.backend();
        let sql = format!(
            "SELECT * FROM key_signature WHERE target_user {} AND (signer_user = target_user OR signer_user = $2)",
            db.any(1)
        );
        self.reader().all(&sql, params![db.texts(users), reader]).await
    }

    /// Who came into or out of sight of a user by joining or leaving rooms, with `since < pos ≤ upto`.
    pub async fn sight_changes(&self, user_id: &str, since: i64, upto: i64) -> Result<Sight, StoreError> {
        let join = "SELECT DISTINCT b.user_id FROM membership a JOIN membership b ON b.room_nid = a.room_nid \
                    WHERE a.user_id = $1 AND b.user_id <> $1";
        let arrived = format!(
            "{join} AND a.membership = 'join' AND b.membership = 'join' \
             AND ((a.pos > $2 AND a.pos <= $3) OR (b.pos > $2 AND b.pos <= $3))"
        );
        let gone = format!(
            "{join} AND ((a.membership = 'join' AND b.membership IN ('leave', 'ban') AND b.pos > $2 AND b.pos <= $3) \
             OR (b.membership = 'join' AND a.membership IN ('leave', 'ban') AND a.pos > $2 AND a.pos <= $3))"
        );
        let values = || params![user_id, since, upto];
        Ok(Sight {
            arrived: self.reader().column(&arrived, values()).await?,
            gone: self.reader().column(&gone, values()).await?,
        })
    }

    /// Stores one-time keys behind those that are there, and fallback keys in place of those that are there. A key that is
    /// uploaded again changes nothing.
    pub async fn upload_keys(
        &self,
        user_id: &str,
        device_id: &str,
        one_time: &[PreKey],
        fallback: &[PreKey],
    ) -> Result<KeyUpload, StoreError> {
        let tx = self.begin().await?;
        if let Some(clash) = add_one_time_keys(&tx, user_id, device_id, one_time).await? {
            tx.rollback().await?;
            return Ok(KeyUpload::Clash(clash));
        }
        replace_fallback_keys(&tx, user_id, device_id, fallback).await?;
        let stock = stock_of(&tx, user_id, device_id).await?;
        tx.commit().await?;
        Ok(KeyUpload::Stored(stock))
    }

    /// Hands out one key for each `(device, algorithm)`: the oldest one-time key, which is deleted, or else the fallback
    /// key, which counts as used from then on. Devices without either are left out.
    pub async fn claim_keys(&self, user_id: &str, wanted: &[(String, String)]) -> Result<Vec<ClaimedKey>, StoreError> {
        let tx = self.begin().await?;
        let mut claimed = Vec::with_capacity(wanted.len());
        for (device, algorithm) in wanted {
            claimed.extend(claim_one(&tx, user_id, device, algorithm).await?);
        }
        tx.commit().await?;
        Ok(claimed)
    }

    /// Hands out one-time keys for each `(device, algorithm, number)`, as far as there are any, each of which is deleted. Beside
    /// them is shown the fallback key, which counts as used only where it is all there is (MSC3983).
    pub async fn claim_several(
        &self,
        user_id: &str,
        wanted: &[(String, String, u32)],
    ) -> Result<SeveralKeys, StoreError> {
        let tx = self.begin().await?;
        let mut several = SeveralKeys::default();
        for (device, algorithm, number) in wanted {
            let before = several.claimed.len();
            for _ in 0..*number {
                let Some(key) = oldest_key(&tx, user_id, device, algorithm).await? else {
                    break;
                };
                several.claimed.push(key);
            }
            if several.claimed.len() == before {
                several
                    .claimed
                    .extend(use_fallback(&tx, user_id, device, algorithm).await?);
                continue;
            }
            let sql = "SELECT * FROM fallback_key WHERE user_id = $1 AND device_id = $2 AND algorithm = $3";
            let beside: Option<fallback_key::Model> = tx.one(sql, params![user_id, device, algorithm]).await?;
            several.beside.extend(beside.map(fallback));
        }
        tx.commit().await?;
        Ok(several)
    }

    /// What a device has in stock.
    pub async fn key_stock(&self, user_id: &str, device_id: &str) -> Result<KeyStock, StoreError> {
        stock_of(&self.reader(), user_id, device_id).await
    }

    /// Forgets messages to devices that are gone: they were on their way when the device was deleted. Tells how many.
    pub async fn prune_orphaned_messages(&self) -> Result<u64, StoreError> {
        let sql = "DELETE FROM to_device WHERE NOT EXISTS (SELECT 1 FROM device d \
                   WHERE d.user_id = to_device.user_id AND d.device_id = to_device.device_id)";
        self.writer().exec(sql, params![]).await
    }

    /// Drops a device's oldest messages, all but `keep`. Tells how many.
    pub async fn trim_inbox(&self, user_id: &str, device_id: &str, keep: u32) -> Result<u64, StoreError> {
        let sql = "DELETE FROM to_device WHERE user_id = $1 AND device_id = $2 AND pos <= (SELECT pos FROM to_device \
                   WHERE user_id = $1 AND device_id = $2 ORDER BY pos DESC LIMIT 1 OFFSET $3)";
        self.writer()
            .exec(sql, params![user_id, device_id, i64::from(keep)])
            .await
    }

    /// Devices with more than `keep` messages: `(user_id, device_id)`.
    pub async fn full_inboxes(&self, keep: u32) -> Result<Vec<(String, String)>, StoreError> {
        let sql = "SELECT user_id, device_id FROM to_device GROUP BY user_id, device_id HAVING COUNT(*) > $1";
        let rows = self.reader().rows(sql, params![i64::from(keep)]).await?;
        rows.iter()
            .map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)))
            .collect()
    }

    /// Forgets changes of device lists that a later one of the same user hides from everybody who reads up to `horizon` or
    /// further, at most `limit` of them. Tells how many.
    pub async fn prune_device_list_changes(&self, horizon: i64, limit: u32) -> Result<u64, StoreError> {
        let sql = "DELETE FROM device_list_change WHERE pos IN (SELECT old.pos FROM device_list_change old \
                   WHERE old.pos < $1 AND EXISTS (SELECT 1 FROM device_list_change newer \
                   WHERE newer.user_id = old.user_id AND newer.pos > old.pos AND newer.pos <= $1) LIMIT $2)";
        self.writer().exec(sql, params![horizon, i64::from(limit)]).await
    }

    /// Forgets to-device transactions that began before `ts`, Unix milliseconds. Tells how many.
    pub async fn prune_to_device_txns(&self, ts: i64) -> Result<u64, StoreError> {
        self.writer()
            .exec("DELETE FROM to_device_txn WHERE ts < $1", params![ts])
            .await
    }
}

async fn claim_one(tx: &Tx, user: &str, device: &str, algorithm: &str) -> Result<Option<ClaimedKey>, StoreError> {
    match oldest_key(tx, user, device, algorithm).await? {
        None => use_fallback(tx, user, device, algorithm).await,
        key => Ok(key),
    }
}

async fn oldest_key(tx: &Tx, user: &str, device: &str, algorithm: &str) -> Result<Option<ClaimedKey>, StoreError> {
    let oldest = "DELETE FROM one_time_key WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND key_id = \
                  (SELECT key_id FROM one_time_key WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 \
                  ORDER BY seq LIMIT 1) RETURNING *";
    let key: Option<one_time_key::Model> = tx.one(oldest, params![user, device, algorithm]).await?;
    Ok(key.map(|key| ClaimedKey {
        device_id: key.device_id,
        key: PreKey {
            algorithm: key.algorithm,
            key_id: key.key_id,
            json: key.json,
        },
        fallback: false,
    }))
}

async fn use_fallback(tx: &Tx, user: &str, device: &str, algorithm: &str) -> Result<Option<ClaimedKey>, StoreError> {
    let used = "UPDATE fallback_key SET used = TRUE WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 \
                RETURNING *";
    let key: Option<fallback_key::Model> = tx.one(used, params![user, device, algorithm]).await?;
    Ok(key.map(fallback))
}

fn fallback(key: fallback_key::Model) -> ClaimedKey {
    ClaimedKey {
        device_id: key.device_id,
        key: PreKey {
            algorithm: key.algorithm,
            key_id: key.key_id,
            json: key.json,
        },
        fallback: true,
    }
}

/// The name of a key that is there with another content, if any: then nothing was written.
async fn add_one_time_keys(tx: &Tx, user: &str, device: &str, keys: &[PreKey]) -> Result<Option<String>, StoreError> {
    if keys.is_empty() {
        return Ok(None);
    }
    let there = "SELECT * FROM one_time_key WHERE user_id = $1 AND device_id = $2";
    let there: Vec<one_time_key::Model> = tx.all(there, params![user, device]).await?;
    let mut seq = there.iter().map(|key| key.seq).max().unwrap_or(0);
    let there: HashMap<(&str, &str), &str> = there
        .iter()
        .map(|key| ((key.algorithm.as_str(), key.key_id.as_str()), key.json.as_str()))
        .collect();
    let mut rows = Vec::with_capacity(keys.len());
    for key in keys {
        match there.get(&(key.algorithm.as_str(), key.key_id.as_str())) {
            Some(json) if same_json(json, &key.json) => {}
            Some(_) => return Ok(Some(format!("{}:{}", key.algorithm, key.key_id))),
            None => {
                seq += 1;
                rows.push(one_time_key::Model {
                    user_id: user.to_owned(),
                    device_id: device.to_owned(),
                    algorithm: key.algorithm.clone(),
                    key_id: key.key_id.clone(),
                    json: key.json.clone(),
                    seq,
                });
            }
        }
    }
    tx.insert::<one_time_key::Entity>(&rows).await?;
    Ok(None)
}

/// A key that is uploaded again stays used if it was.
async fn replace_fallback_keys(tx: &Tx, user: &str, device: &str, keys: &[PreKey]) -> Result<(), StoreError> {
    if keys.is_empty() {
        return Ok(());
    }
    let there = "SELECT * FROM fallback_key WHERE user_id = $1 AND device_id = $2";
    let there: Vec<fallback_key::Model> = tx.all(there, params![user, device]).await?;
    let known = |key: &PreKey| {
        there
            .iter()
            .any(|old| old.algorithm == key.algorithm && old.key_id == key.key_id && same_json(&old.json, &key.json))
    };
    let rows: Vec<fallback_key::Model> = keys
        .iter()
        .filter(|key| !known(key))
        .map(|key| fallback_key::Model {
            user_id: user.to_owned(),
            device_id: device.to_owned(),
            algorithm: key.algorithm.clone(),
            key_id: key.key_id.clone(),
            json: key.json.clone(),
            used: false,
        })
        .collect();
    tx.upsert::<fallback_key::Entity>(&rows).await?;
    Ok(())
}

async fn stock_of<R: Run>(db: &R, user: &str, device: &str) -> Result<KeyStock, StoreError> {
    let counts =
        "SELECT algorithm, COUNT(*) FROM one_time_key WHERE user_id = $1 AND device_id = $2 GROUP BY algorithm";
    let rows = db.rows(counts, params![user, device]).await?;
    let mut one_time = Vec::with_capacity(rows.len());
    for row in rows {
        one_time.push((row.try_get_by_index(0)?, row.try_get_by_index(1)?));
    }
    let unused = "SELECT algorithm FROM fallback_key WHERE user_id = $1 AND device_id = $2 AND used = FALSE \
                  ORDER BY algorithm";
    Ok(KeyStock {
        one_time,
        unused_fallback: db.column(unused, params![user, device]).await?,
    })
}

fn same_json(a: &str, b: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    a == b || parse(a).is_some_and(|a| parse(b) == Some(a))
}

#[cfg(test)]
#[path = "e2ee_tests.rs"]
mod tests;
