//! Events from rows, by place instead of by name: pages of events are what is read most.

use sea_orm::{
    FromQueryResult, QueryResult,
    sqlx::{self, ColumnIndex, Decode, Row, Type},
};

use crate::{error::StoreError, event};

/// The columns of the table, in its order.
const COLUMNS: [&str; 18] = [
    "nid",
    "room_nid",
    "event_id",
    "pos",
    "depth",
    "type",
    "state_key",
    "sender",
    "origin_server_ts",
    "state_group",
    "status",
    "redacted_by",
    "device_id",
    "txn_id",
    "relates_to",
    "rel_type",
    "unsigned",
    "json",
];

/// Whole rows of `event`.
pub(super) fn events(rows: &[QueryResult]) -> Result<Vec<event::Model>, StoreError> {
    let in_order = rows.first().is_some_and(|row| row.column_names() == COLUMNS);
    let one = |row: &QueryResult| {
        let placed = match (in_order, row.try_as_pg_row(), row.try_as_sqlite_row()) {
            (true, Some(row), _) => by_place(row),
            (true, _, Some(row)) => by_place(row),
            _ => return Ok(event::Model::from_query_result(row, "")?),
        };
        placed.map_err(|error| StoreError::Driver(error.to_string()))
    };
    rows.iter().map(one).collect()
}

fn by_place<'r, R>(row: &'r R) -> Result<event::Model, sqlx::Error>
where
    R: Row,
    usize: ColumnIndex<R>,
    i16: Decode<'r, R::Database> + Type<R::Database>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    Ok(event::Model {
        nid: row.try_get(0)?,
        room_nid: row.try_get(1)?,
        event_id: row.try_get(2)?,
        pos: row.try_get(3)?,
        depth: row.try_get(4)?,
        r#type: row.try_get(5)?,
        state_key: row.try_get(6)?,
        sender: row.try_get(7)?,
        origin_server_ts: row.try_get(8)?,
        state_group: row.try_get(9)?,
        status: row.try_get(10)?,
        redacted_by: row.try_get(11)?,
        device_id: row.try_get(12)?,
        txn_id: row.try_get(13)?,
        relates_to: row.try_get(14)?,
        rel_type: row.try_get(15)?,
        unsigned: row.try_get(16)?,
        json: row.try_get(17)?,
    })
}

#[cfg(test)]
mod tests {
    use sea_orm::{IdenStatic, Iterable};

    use super::*;
    use crate::{
        store::{Run, params},
        testing::each_backend,
    };

    #[tokio::test]
    async fn the_table_has_the_columns_in_this_order() {
        let entity: Vec<&str> = event::Column::iter().map(|column| column.as_str()).collect();
        assert_eq!(entity, COLUMNS);
        each_backend(|db| async move {
            let store = db.store().await;
            let event = event::Model {
                nid: 1,
                room_nid: 2,
                event_id: "$e".to_owned(),
                pos: Some(3),
                depth: 4,
                r#type: "m.room.member".to_owned(),
                state_key: Some("@a:x".to_owned()),
                sender: "@b:x".to_owned(),
                origin_server_ts: 5,
                state_group: Some(6),
                status: 0,
                redacted_by: Some("$r".to_owned()),
                device_id: Some("D".to_owned()),
                txn_id: Some("t".to_owned()),
                relates_to: None,
                rel_type: Some("m.x".to_owned()),
                unsigned: None,
                json: "{}".to_owned(),
            };
            let rows = crate::store::rows::Rows {
                events: vec![event.clone()],
                ..Default::default()
            };
            store.import(&rows).await.expect("imported");
            let rows = store
                .reader()
                .rows("SELECT * FROM event", params![])
                .await
                .expect("read");
            assert_eq!(rows[0].column_names(), COLUMNS);
            assert_eq!(events(&rows), Ok(vec![event.clone()]));
            let other = "SELECT json AS first, event.* FROM event";
            let rows = store.reader().rows(other, params![]).await.expect("read");
            assert_eq!(events(&rows), Ok(vec![event]));
        })
        .await;
    }
}
