//! What SQLite and PostgreSQL say differently, apart from bulk inserts (`bulk.rs`).

use sea_orm::{DbBackend, Value, sea_query::ArrayType};

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The embedded one.
    Sqlite,
    /// The one for production.
    Postgres,
}

/// The type of a list's column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Int,
    Text,
}

/// A column of a list parameter.
#[derive(Clone, Debug)]
pub(crate) enum Cells {
    Ints(Vec<i64>),
    Texts(Vec<String>),
}

impl Backend {
    pub(crate) fn driver(self) -> DbBackend {
        match self {
            Self::Sqlite => DbBackend::Sqlite,
            Self::Postgres => DbBackend::Postgres,
        }
    }

    /// Set membership for a list in parameter `n`: follows a column name. The parameter is made by [`Backend::ints`] or
    /// [`Backend::texts`].
    pub(crate) fn any(self, n: usize) -> String {
        match self {
            Self::Postgres => format!("= ANY(${n})"),
            Self::Sqlite => format!("IN (SELECT value FROM json_each(${n}))"),
        }
    }

    /// A list of integers as one parameter.
    pub(crate) fn ints(self, list: &[i64]) -> Value {
        match self {
            Self::Postgres => array(ArrayType::BigInt, list.iter().map(|&i| Value::from(i))),
            Self::Sqlite => Value::from(json(list)),
        }
    }

    /// A list of texts as one parameter.
    pub(crate) fn texts<S: AsRef<str>>(self, list: &[S]) -> Value {
        match self {
            Self::Postgres => array(ArrayType::String, list.iter().map(|s| Value::from(s.as_ref()))),
            Self::Sqlite => Value::from(json(&list.iter().map(AsRef::as_ref).collect::<Vec<&str>>())),
        }
    }

    /// The server in a column of user ids.
    pub(crate) fn server_of(self, column: &str) -> String {
        match self {
            Self::Postgres => format!("substr({column}, strpos({column}, ':') + 1)"),
            Self::Sqlite => format!("substr({column}, instr({column}, ':') + 1)"),
        }
    }

    /// A list of tuples as a table `v` with the named columns, for FROM and JOIN. Its parameters, from `$n` on, are made by
    /// [`Backend::tuples`] (one or several: put them last).
    pub(crate) fn tuples_table(self, n: usize, columns: &[(&str, Kind)]) -> String {
        let names = columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        match self {
            Self::Postgres => {
                let arrays: Vec<String> = columns
                    .iter()
                    .enumerate()
                    .map(|(i, (_, kind))| match kind {
                        Kind::Int => format!("${}::bigint[]", n + i),
                        Kind::Text => format!("${}::text[]", n + i),
                    })
                    .collect();
                format!("UNNEST({}) AS v({names})", arrays.join(", "))
            }
            Self::Sqlite => {
                let fields: Vec<String> = columns
                    .iter()
                    .enumerate()
                    .map(|(i, (name, _))| format!("value ->> {i} AS {name}"))
                    .collect();
                format!("(SELECT {} FROM json_each(${n})) AS v", fields.join(", "))
            }
        }
    }

    /// The parameters of [`Backend::tuples_table`]; all columns have the same length.
    pub(crate) fn tuples(self, columns: Vec<Cells>) -> Vec<Value> {
        match self {
            Self::Postgres => columns
                .into_iter()
                .map(|cells| match cells {
                    Cells::Ints(list) => array(ArrayType::BigInt, list.into_iter().map(Value::from)),
                    Cells::Texts(list) => array(ArrayType::String, list.into_iter().map(Value::from)),
                })
                .collect(),
            Self::Sqlite => {
                let rows = columns.first().map_or(0, Cells::len);
                let table: Vec<Vec<serde_json::Value>> = (0..rows)
                    .map(|row| columns.iter().map(|cells| cells.json(row)).collect())
                    .collect();
                vec![Value::from(json(&table))]
            }
        }
    }
}

impl Cells {
    fn len(&self) -> usize {
        match self {
            Self::Ints(list) => list.len(),
            Self::Texts(list) => list.len(),
        }
    }

    fn json(&self, row: usize) -> serde_json::Value {
        match self {
            Self::Ints(list) => list.get(row).copied().into(),
            Self::Texts(list) => list.get(row).cloned().into(),
        }
    }
}

pub(super) fn array(kind: ArrayType, values: impl Iterator<Item = Value>) -> Value {
    Value::Array(kind, Some(Box::new(values.collect())))
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("numbers and texts always serialise")
}
