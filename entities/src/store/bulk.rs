//! The one bulk function: many rows of one table in as few statements as the database allows.
//!
//! PostgreSQL takes one parameter per column (`INSERT … SELECT … FROM UNNEST`), so its text does not depend on the number of
//! rows; a single row goes the shorter way of plain VALUES. SQLite takes multi-row VALUES in chunks of powers of two. Either way
//! a table has only a handful of texts, each prepared once per connection.

use std::{collections::HashMap, fmt::Write};

use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, IdenStatic, Iterable, ModelTrait, PrimaryKeyToColumn, Value,
    sea_query::{ArrayType, ColumnType},
};

use super::{
    backend::{Backend, array},
    run::statement,
};
use crate::error::StoreError;

/// Rows of one statement: bounds the text on SQLite (64 rows × 20 columns are far below its 32 766 parameters).
const SQLITE_ROWS: usize = 64;
/// Bounds one message to PostgreSQL.
const POSTGRES_ROWS: usize = 5_000;

/// What happens to a row whose primary key is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    /// The statement fails.
    Refuse,
    /// The stored row stays.
    Skip,
    /// The new row replaces it; the last of equal keys wins.
    Replace,
}

/// Writes all rows and tells how many were inserted or replaced.
pub(super) async fn write<E, C>(
    db: &C,
    backend: Backend,
    rows: &[E::Model],
    conflict: Conflict,
) -> Result<u64, StoreError>
where
    E: EntityTrait,
    C: ConnectionTrait,
{
    if rows.is_empty() {
        return Ok(0);
    }
    let table = Table::of::<E>();
    let columns: Vec<E::Column> = E::Column::iter().collect();
    let values = rows
        .iter()
        .map(|row| columns.iter().map(|&c| row.get(c)).collect())
        .collect();
    write_values(db, backend, &table, values, conflict).await
}

async fn write_values<C: ConnectionTrait>(
    db: &C,
    backend: Backend,
    table: &Table,
    mut rows: Vec<Vec<Value>>,
    conflict: Conflict,
) -> Result<u64, StoreError> {
    if conflict == Conflict::Replace && rows.len() > 1 {
        rows = table.keep_last(rows);
    }
    let mut rest = rows.into_iter();
    let mut written = 0;
    while rest.len() > 0 {
        let take = chunk(backend, rest.len());
        let rows: Vec<Vec<Value>> = rest.by_ref().take(take).collect();
        let (sql, values) = if backend == Backend::Postgres && take > 1 {
            (table.unnest_text(conflict), table.unnest_values(rows))
        } else {
            (table.values_text(take, conflict), rows.into_iter().flatten().collect())
        };
        written += db.execute_raw(statement(backend, &sql, values)?).await?.rows_affected();
    }
    Ok(written)
}

/// How many of `left` rows the next statement takes.
fn chunk(backend: Backend, left: usize) -> usize {
    match backend {
        Backend::Postgres => left.min(POSTGRES_ROWS),
        Backend::Sqlite => 1 << left.min(SQLITE_ROWS).ilog2(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Int,
    Small,
    Bool,
    Text,
    Bytes,
}

struct Column {
    name: &'static str,
    kind: Kind,
    nullable: bool,
    key: bool,
}

/// A table's shape, taken from its entity.
struct Table {
    name: &'static str,
    columns: Vec<Column>,
}

impl Table {
    fn of<E: EntityTrait>() -> Self {
        let keys: Vec<&'static str> = E::PrimaryKey::iter().map(|k| k.into_column().as_str()).collect();
        let columns = E::Column::iter()
            .map(|column| {
                let def = column.def();
                let name = column.as_str();
                Column {
                    name,
                    kind: kind(def.get_column_type()),
                    nullable: def.is_null(),
                    key: keys.contains(&name),
                }
            })
            .collect();
        Self {
            name: E::default().as_str(),
            columns,
        }
    }

    /// Without the rows whose key occurs again later: PostgreSQL refuses two of them in one upsert.
    fn keep_last(&self, rows: Vec<Vec<Value>>) -> Vec<Vec<Value>> {
        let mut last = HashMap::with_capacity(rows.len());
        for (i, row) in rows.iter().enumerate() {
            last.insert(self.key(row), i);
        }
        if last.len() == rows.len() {
            return rows;
        }
        let mut keep = vec![false; rows.len()];
        last.into_values().for_each(|i| keep[i] = true);
        rows.into_iter()
            .zip(keep)
            .filter_map(|(row, keep)| keep.then_some(row))
            .collect()
    }

    /// An unambiguous encoding of a row's primary key.
    fn key(&self, row: &[Value]) -> Vec<u8> {
        let mut key = Vec::new();
        for (_, value) in self.columns.iter().zip(row).filter(|(column, _)| column.key) {
            let bytes = match value {
                Value::String(Some(text)) => text.as_bytes().to_vec(),
                Value::Bytes(Some(bytes)) => bytes.to_vec(),
                Value::BigInt(Some(i)) => i.to_be_bytes().to_vec(),
                Value::SmallInt(Some(i)) => i.to_be_bytes().to_vec(),
                Value::Bool(Some(b)) => vec![u8::from(*b)],
                other => format!("{other:?}").into_bytes(),
            };
            key.extend_from_slice(&bytes.len().to_be_bytes());
            key.extend_from_slice(&bytes);
        }
        key
    }

    fn insert_into(&self) -> String {
        let names: Vec<String> = self.columns.iter().map(|c| format!("\"{}\"", c.name)).collect();
        format!("INSERT INTO \"{}\" ({})", self.name, names.join(", "))
    }

    fn on_conflict(&self, conflict: Conflict) -> String {
        let names = |key: bool| self.columns.iter().filter(move |c| c.key == key).map(|c| c.name);
        let keys = names(true).map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
        let set = names(false)
            .map(|n| format!("\"{n}\" = excluded.\"{n}\""))
            .collect::<Vec<_>>()
            .join(", ");
        match conflict {
            Conflict::Refuse => String::new(),
            Conflict::Replace if !set.is_empty() => format!(" ON CONFLICT ({keys}) DO UPDATE SET {set}"),
            Conflict::Skip | Conflict::Replace => format!(" ON CONFLICT ({keys}) DO NOTHING"),
        }
    }

    fn values_text(&self, rows: usize, conflict: Conflict) -> String {
        let mut sql = self.insert_into();
        sql.push_str(" VALUES ");
        let mut n = 0;
        for row in 0..rows {
            sql.push_str(if row == 0 { "(" } else { ", (" });
            for column in 0..self.columns.len() {
                n += 1;
                sql.push_str(if column == 0 { "$" } else { ", $" });
                write!(sql, "{n}").expect("writing to a String cannot fail");
            }
            sql.push(')');
        }
        sql.push_str(&self.on_conflict(conflict));
        sql
    }

    /// sea-orm's arrays hold no NULLs: a nullable column has a second array beside it that marks them.
    fn unnest_text(&self, conflict: Conflict) -> String {
        let (mut select, mut arrays, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for (i, column) in self.columns.iter().enumerate() {
            arrays.push(format!("${}::{}[]", arrays.len() + 1, column.kind.postgres()));
            names.push(format!("c{i}"));
            if column.nullable {
                arrays.push(format!("${}::boolean[]", arrays.len() + 1));
                names.push(format!("n{i}"));
                select.push(format!("CASE WHEN n{i} THEN NULL ELSE c{i} END"));
            } else {
                select.push(format!("c{i}"));
            }
        }
        let (select, arrays, names) = (select.join(", "), arrays.join(", "), names.join(", "));
        let (insert, on) = (self.insert_into(), self.on_conflict(conflict));
        format!("{insert} SELECT {select} FROM UNNEST({arrays}) AS v({names}){on}")
    }

    fn unnest_values(&self, rows: Vec<Vec<Value>>) -> Vec<Value> {
        let mut columns: Vec<Vec<Value>> = self.columns.iter().map(|_| Vec::with_capacity(rows.len())).collect();
        let mut nulls: Vec<Vec<Value>> = self.columns.iter().map(|_| Vec::new()).collect();
        for row in rows {
            for (i, value) in row.into_iter().enumerate() {
                let column = &self.columns[i];
                let null = is_null(&value);
                if column.nullable {
                    nulls[i].push(Value::from(null));
                }
                columns[i].push(if null { column.kind.zero() } else { value });
            }
        }
        let mut values = Vec::new();
        for ((column, cells), nulls) in self.columns.iter().zip(columns).zip(nulls) {
            values.push(array(column.kind.array(), cells.into_iter()));
            if column.nullable {
                values.push(array(ArrayType::Bool, nulls.into_iter()));
            }
        }
        values
    }
}

fn is_null(value: &Value) -> bool {
    matches!(
        value,
        Value::BigInt(None) | Value::SmallInt(None) | Value::Bool(None) | Value::String(None) | Value::Bytes(None)
    )
}

fn kind(column: &ColumnType) -> Kind {
    match column {
        ColumnType::BigInteger => Kind::Int,
        ColumnType::SmallInteger => Kind::Small,
        ColumnType::Boolean => Kind::Bool,
        ColumnType::Blob | ColumnType::Binary(_) | ColumnType::VarBinary(_) => Kind::Bytes,
        _ => Kind::Text,
    }
}

impl Kind {
    fn postgres(self) -> &'static str {
        match self {
            Self::Int => "bigint",
            Self::Small => "smallint",
            Self::Bool => "boolean",
            Self::Text => "text",
            Self::Bytes => "bytea",
        }
    }

    fn array(self) -> ArrayType {
        match self {
            Self::Int => ArrayType::BigInt,
            Self::Small => ArrayType::SmallInt,
            Self::Bool => ArrayType::Bool,
            Self::Text => ArrayType::String,
            Self::Bytes => ArrayType::Bytes,
        }
    }

    /// What stands where the marker says NULL.
    fn zero(self) -> Value {
        match self {
            Self::Int => Value::from(0_i64),
            Self::Small => Value::from(0_i16),
            Self::Bool => Value::from(false),
            Self::Text => Value::from(""),
            Self::Bytes => Value::from(Vec::<u8>::new()),
        }
    }
}
