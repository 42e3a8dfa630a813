//! Commits of the journal, the fence that guards them, and the blocks numbers are taken from.

use sea_orm::{QueryResult, Value};

use super::{
    Run, Store, Tx,
    backend::{Backend, Cells, Kind},
    params,
    rows::{EventUpdate, Rows},
};
use crate::{
    access_token, account_data, backward_extremity, cross_signing_key, current_state, dehydrated_device, device,
    device_key, device_list_change, early_redaction, error::StoreError, event, history_hole, key_signature, membership,
    outbound_edu, partial_room, presence, public_room, receipt, refresh_token, relayed_event, room, room_alias,
    room_head, state_group, state_key, stripped_state, to_device, to_device_txn,
};

/// Which process may write and which batch was committed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Raised whenever a process takes over.
    pub epoch: i64,
    /// The number of the last committed batch.
    pub batch: i64,
}

/// What [`Store::take_epoch`] answers: the new epoch and the batch committed last.
pub type Epoch = Head;

/// The tables that hang on a device.
const DEVICE_TABLES: [&str; 9] = [
    "access_token",
    "refresh_token",
    "device_key",
    "one_time_key",
    "fallback_key",
    "dehydrated_device",
    "to_device",
    "pusher",
    "device",
];
/// Stands for NULL in integer lists, which hold none.
const NONE: i64 = i64::MIN;

impl Store {
    /// Takes over the database: raises the epoch by one, so that every former process is [`StoreError::Fenced`].
    pub async fn take_epoch(&self) -> Result<Epoch, StoreError> {
        let tx = self.begin_journal().await?;
        if self.backend() == Backend::Postgres {
            // Waits for the transactions of a former process.
            tx.exec("SELECT 1 FROM journal_head WHERE id = 1 FOR UPDATE", params![])
                .await?;
        }
        let sql = "UPDATE journal_head SET epoch = epoch + 1 WHERE id = 1 RETURNING epoch, batch";
        let head = head_of(&tx.rows(sql, params![]).await?)?;
        tx.commit().await?;
        self.inner.fence.own(head.epoch);
        Ok(head)
    }

    /// The committed head; tells after [`StoreError::Unknown`] whether the batch is in.
    ///
    /// Waits for a transaction that is still under way on a lost connection: the answer is final.
    pub async fn read_head(&self) -> Result<Head, StoreError> {
        self.head(match self.backend() {
            Backend::Postgres => "SELECT epoch, batch FROM journal_head WHERE id = 1 FOR UPDATE",
            // There is one connection for all writes, which runs one thing at a time.
            Backend::Sqlite => "SELECT epoch, batch FROM journal_head WHERE id = 1",
        })
        .await
    }

    async fn head(&self, sql: &str) -> Result<Head, StoreError> {
        head_of(&self.journal_writer().rows(sql, params![]).await?)
    }

    /// Reserves `size` numbers of the named counter for ever: `[start, end)`.
    pub async fn reserve_block(&self, name: &str, size: i64) -> Result<(i64, i64), StoreError> {
        let sql = "INSERT INTO stream_block (name, next) VALUES ($1, 1 + $2) \
                   ON CONFLICT (name) DO UPDATE SET next = stream_block.next + $2 RETURNING next";
        let end: Option<i64> = self.journal_writer().scalar(sql, params![name, size]).await?;
        let end = end.ok_or(StoreError::RowsAffected {
            table: "stream_block",
            expected: 1,
            actual: 0,
        })?;
        Ok((end - size, end))
    }

    /// The first number of the named counter that nobody has reserved.
    pub async fn block_next(&self, name: &str) -> Result<i64, StoreError> {
        let next = self
            .reader()
            .scalar("SELECT next FROM stream_block WHERE name = $1", params![name])
            .await?;
        Ok(next.unwrap_or(1))
    }

    /// Writes one batch of the journal in one transaction.
    ///
    /// `reserve_position_block` is a new end of the block of positions (exclusive): positions below it may be handed out once
    /// this returns. Fails with [`StoreError::Fenced`] if `head.epoch` is not the database's any more, with
    /// [`StoreError::Duplicate`] if an inserted row is there already; nothing is written then. After [`StoreError::Unknown`]
    /// [`Store::read_head`] tells whether it was.
    ///
    /// Within one `rows` deletions come first, so a device that is deleted and created again is there at the end.
    pub async fn commit_batch(
        &self,
        head: Head,
        rows: &Rows,
        reserve_position_block: Option<i64>,
    ) -> Result<(), StoreError> {
        let tx = self.begin_journal().await?;
        match write_batch(&tx, head, rows, reserve_position_block).await {
            Ok(()) => tx.commit().await,
            Err(error) => {
                // The connection may be what failed; then it is dropped and the server rolls back.
                if let Err(rollback) = tx.rollback().await {
                    tracing::warn!(%rollback, "rollback of a batch failed");
                }
                if error == StoreError::Fenced {
                    self.inner.fence.lose();
                }
                Err(error)
            }
        }
    }

    /// Writes rows outside the journal, where no reader sees them: imports of history and remote joins, without positions.
    pub async fn import(&self, rows: &Rows) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        write_rows(&tx, rows).await?;
        tx.commit().await
    }
}

fn head_of(rows: &[QueryResult]) -> Result<Head, StoreError> {
    let missing = StoreError::Inconsistent {
        table: "journal_head",
        column: "id",
        key: "1".to_owned(),
    };
    let row = rows.first().ok_or(missing)?;
    Ok(Head {
        epoch: row.try_get_by_index(0)?,
        batch: row.try_get_by_index(1)?,
    })
}

async fn write_batch(tx: &Tx, head: Head, rows: &Rows, reserve: Option<i64>) -> Result<(), StoreError> {
    let fence = "UPDATE journal_head SET batch = $1 WHERE id = 1 AND epoch = $2";
    if tx.exec(fence, params![head.batch, head.epoch]).await? == 0 {
        return Err(StoreError::Fenced);
    }
    if let Some(end) = reserve {
        let sql = "UPDATE stream_block SET next = $1 WHERE name = 'position' AND next < $1";
        tx.exec(sql, params![end]).await?;
    }
    write_rows(tx, rows).await
}

async fn write_rows(tx: &Tx, rows: &Rows) -> Result<(), StoreError> {
    delete_devices(tx, &rows.devices_deleted).await?;
    delete_current_state(tx, &rows.current_state_removed).await?;
    delete_settled(tx, rows).await?;
    write_room_rows(tx, rows).await?;
    write_user_rows(tx, rows).await
}

async fn write_room_rows(tx: &Tx, rows: &Rows) -> Result<(), StoreError> {
    tx.insert::<room::Entity>(&rows.rooms).await?;
    tx.insert_new::<state_key::Entity>(&rows.state_keys).await?;
    tx.insert::<state_group::Entity>(&rows.state_groups).await?;
    tx.insert::<event::Entity>(&rows.events).await?;
    tx.insert::<event::Entity>(&rows.history).await?;
    update_events(tx, rows).await?;
    update_unsigned(tx, &rows.unsigned_updates).await?;
    redact(tx, rows).await?;
    tx.upsert::<room_head::Entity>(&rows.room_heads).await?;
    tx.upsert::<current_state::Entity>(&rows.current_state).await?;
    tx.upsert::<membership::Entity>(&rows.memberships).await?;
    forget(tx, &rows.forgotten).await?;
    tx.upsert::<stripped_state::Entity>(&rows.stripped_states).await?;
    tx.upsert::<receipt::Entity>(&rows.receipts).await?;
    tx.insert::<room_alias::Entity>(&rows.aliases).await?;
    tx.upsert::<public_room::Entity>(&rows.published).await?;
    tx.upsert::<backward_extremity::Entity>(&rows.backward_extremities)
        .await?;
    tx.insert::<history_hole::Entity>(&rows.history_holes).await?;
    shrink_holes(tx, &rows.history_holes_left).await?;
    tx.upsert::<early_redaction::Entity>(&rows.early_redactions).await?;
    tx.upsert::<partial_room::Entity>(&rows.partial_rooms).await?;
    Ok(())
}

async fn write_user_rows(tx: &Tx, rows: &Rows) -> Result<(), StoreError> {
    tx.upsert::<account_data::Entity>(&rows.account_data).await?;
    tx.upsert::<crate::thread_subscription::Entity>(&rows.thread_subscriptions)
        .await?;
    tx.upsert::<crate::friend::Entity>(&rows.friends).await?;
    tx.upsert::<presence::Entity>(&rows.presence).await?;
    tx.insert::<to_device_txn::Entity>(&rows.to_device_txns).await?;
    tx.insert::<to_device::Entity>(&rows.to_device).await?;
    tx.insert::<device_list_change::Entity>(&rows.device_list_changes)
        .await?;
    tx.upsert::<device::Entity>(&rows.devices).await?;
    tx.insert::<access_token::Entity>(&rows.access_tokens).await?;
    tx.insert::<refresh_token::Entity>(&rows.refresh_tokens).await?;
    tx.upsert::<device_key::Entity>(&rows.device_keys).await?;
    tx.upsert::<dehydrated_device::Entity>(&rows.dehydrated_devices).await?;
    tx.upsert::<cross_signing_key::Entity>(&rows.cross_signing_keys).await?;
    tx.upsert::<key_signature::Entity>(&rows.key_signatures).await?;
    tx.insert::<outbound_edu::Entity>(&rows.outbound_edus).await?;
    tx.insert::<relayed_event::Entity>(&rows.relayed_events).await?;
    Ok(())
}

/// What is `None` in an update stays as it is.
async fn update_events(tx: &Tx, rows: &Rows) -> Result<(), StoreError> {
    let all: Vec<&EventUpdate> = rows.event_updates.iter().chain(&rows.history_updates).collect();
    if all.is_empty() {
        return Ok(());
    }
    let db = tx.backend();
    let columns = [
        ("nid", Kind::Int),
        ("pos", Kind::Int),
        ("state_group", Kind::Int),
        ("status", Kind::Int),
    ];
    let status = match db {
        Backend::Postgres => "v.status::smallint",
        Backend::Sqlite => "v.status",
    };
    let table = db.tuples_table(2, &columns);
    let sql = format!(
        "UPDATE event SET pos = COALESCE(NULLIF(v.pos, $1), event.pos), \
         state_group = COALESCE(NULLIF(v.state_group, $1), event.state_group), status = {status} \
         FROM {table} WHERE event.nid = v.nid"
    );
    let updates = last_by(&all, |u| u.nid);
    let mut values = params![NONE];
    values.extend(db.tuples(vec![
        Cells::Ints(updates.iter().map(|u| u.nid).collect()),
        Cells::Ints(updates.iter().map(|u| u.pos.unwrap_or(NONE)).collect()),
        Cells::Ints(updates.iter().map(|u| u.state_group.unwrap_or(NONE)).collect()),
        Cells::Ints(updates.iter().map(|u| i64::from(u.status)).collect()),
    ]));
    expect("event", updates.len(), tx.exec(&sql, values).await?)
}

async fn shrink_holes(tx: &Tx, left: &[(i64, i64)]) -> Result<(), StoreError> {
    if left.is_empty() {
        return Ok(());
    }
    let db = tx.backend();
    let table = db.tuples_table(1, &[("id", Kind::Int), ("next", Kind::Int)]);
    let sql = format!("UPDATE history_hole SET next = v.next FROM {table} WHERE history_hole.id = v.id");
    let left = last_by(left, |(id, _)| *id);
    let values = db.tuples(vec![
        Cells::Ints(left.iter().map(|(id, _)| *id).collect()),
        Cells::Ints(left.iter().map(|(_, next)| *next).collect()),
    ]);
    expect("history_hole", left.len(), tx.exec(&sql, values).await?)
}

async fn update_unsigned(tx: &Tx, updates: &[(i64, String)]) -> Result<(), StoreError> {
    if updates.is_empty() {
        return Ok(());
    }
    let db = tx.backend();
    let table = db.tuples_table(1, &[("nid", Kind::Int), ("unsigned", Kind::Text)]);
    let sql = format!("UPDATE event SET unsigned = v.unsigned FROM {table} WHERE event.nid = v.nid");
    let updates = last_by(updates, |(nid, _)| *nid);
    let values = db.tuples(vec![
        Cells::Ints(updates.iter().map(|(nid, _)| *nid).collect()),
        Cells::Texts(updates.iter().map(|(_, unsigned)| unsigned.clone()).collect()),
    ]);
    expect("event", updates.len(), tx.exec(&sql, values).await?)
}

async fn redact(tx: &Tx, rows: &Rows) -> Result<(), StoreError> {
    if rows.redactions.is_empty() {
        return Ok(());
    }
    let db = tx.backend();
    let table = db.tuples_table(
        1,
        &[
            ("nid", Kind::Int),
            ("redacted_by", Kind::Text),
            ("json", Kind::Text),
            ("unsigned", Kind::Text),
        ],
    );
    let sql = format!(
        "UPDATE event SET redacted_by = v.redacted_by, json = v.json, relates_to = NULL, rel_type = NULL, unsigned = v.unsigned \
         FROM {table} WHERE event.nid = v.nid"
    );
    let redactions = last_by(&rows.redactions, |r| r.nid);
    let values = db.tuples(vec![
        Cells::Ints(redactions.iter().map(|r| r.nid).collect()),
        Cells::Texts(redactions.iter().map(|r| r.redacted_by.clone()).collect()),
        Cells::Texts(redactions.iter().map(|r| r.json.clone()).collect()),
        Cells::Texts(redactions.iter().map(|r| r.unsigned.clone()).collect()),
    ]);
    expect("event", redactions.len(), tx.exec(&sql, values).await?)
}

async fn forget(tx: &Tx, forgotten: &[(i64, String)]) -> Result<(), StoreError> {
    if forgotten.is_empty() {
        return Ok(());
    }
    let db = tx.backend();
    let table = db.tuples_table(1, &[("room_nid", Kind::Int), ("user_id", Kind::Text)]);
    let sql = format!(
        "UPDATE membership SET forgotten = TRUE FROM {table} \
         WHERE membership.room_nid = v.room_nid AND membership.user_id = v.user_id"
    );
    tx.exec(&sql, db.tuples(ints_texts(forgotten))).await.map(|_| ())
}

async fn delete_devices(tx: &Tx, devices: &[(String, String)]) -> Result<(), StoreError> {
    if devices.is_empty() {
        return Ok(());
    }
    let db = tx.backend();
    let table = db.tuples_table(1, &[("u", Kind::Text), ("d", Kind::Text)]);
    let users = devices.iter().map(|(user, _)| user.clone()).collect();
    let ids = devices.iter().map(|(_, device)| device.clone()).collect();
    let values: Vec<Value> = db.tuples(vec![Cells::Texts(users), Cells::Texts(ids)]);
    for name in DEVICE_TABLES {
        let sql = format!("DELETE FROM {name} WHERE (user_id, device_id) IN (SELECT u, d FROM {table})");
        tx.exec(&sql, values.clone()).await?;
    }
    // A later device of the same name has other keys.
    let sql = format!("DELETE FROM key_signature WHERE (target_user, target_key) IN (SELECT u, d FROM {table})");
    tx.exec(&sql, values).await?;
    Ok(())
}

/// One by one: an entry leaves the state only when a resolution drops it, and SQLite would scan the room for a list of them.
async fn delete_current_state(tx: &Tx, removed: &[(i64, String, String)]) -> Result<(), StoreError> {
    let sql = "DELETE FROM current_state WHERE room_nid = $1 AND type = $2 AND state_key = $3";
    for (room_nid, kind, key) in removed {
        tx.exec(sql, params![*room_nid, kind.as_str(), key.as_str()]).await?;
    }
    Ok(())
}

/// What a submission settles: staged events that found their place, gaps that were filled, redactions that met their target.
async fn delete_settled(tx: &Tx, rows: &Rows) -> Result<(), StoreError> {
    let db = tx.backend();
    for (table, column, list) in [
        ("inbound_pdu", "nid", &rows.staged_done),
        ("partial_room", "room_nid", &rows.partial_rooms_removed),
        ("history_hole", "id", &rows.history_holes_removed),
    ] {
        if !list.is_empty() {
            let sql = format!("DELETE FROM {table} WHERE {column} {}", db.any(1));
            tx.exec(&sql, params![db.ints(list)]).await?;
        }
    }
    for (table, column, list) in [
        ("backward_extremity", "event_id", &rows.backward_extremities_removed),
        ("early_redaction", "target_event_id", &rows.early_redactions_removed),
        ("stripped_state", "user_id", &rows.stripped_states_removed),
    ] {
        if !list.is_empty() {
            let wanted = db.tuples_table(1, &[("r", Kind::Int), ("e", Kind::Text)]);
            let sql = format!("DELETE FROM {table} WHERE (room_nid, {column}) IN (SELECT r, e FROM {wanted})");
            tx.exec(&sql, db.tuples(ints_texts(list))).await?;
        }
    }
    Ok(())
}

fn ints_texts(pairs: &[(i64, String)]) -> Vec<Cells> {
    let ints = pairs.iter().map(|(i, _)| *i).collect();
    let texts = pairs.iter().map(|(_, t)| t.clone()).collect();
    vec![Cells::Ints(ints), Cells::Texts(texts)]
}

/// One entry for each key, the last.
fn last_by<T>(list: &[T], key: impl Fn(&T) -> i64) -> Vec<&T> {
    let last: std::collections::BTreeMap<i64, &T> = list.iter().map(|item| (key(item), item)).collect();
    last.into_values().collect()
}

fn expect(table: &'static str, expected: usize, actual: u64) -> Result<(), StoreError> {
    let expected = expected as u64;
    if actual == expected {
        Ok(())
    } else {
        Err(StoreError::RowsAffected {
            table,
            expected,
            actual,
        })
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
