//! Running statements: on a pool, where each commits by itself, or in a transaction.

use std::future::Future;

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, EntityTrait, FromQueryResult, QueryResult, Statement,
    TryGetable, Value,
};

use super::{
    backend::Backend,
    bulk::{self, Conflict},
    event_rows,
    fence::Fence,
};
use crate::{
    error::{StoreError, is_lost},
    event,
};

/// Statement parameters, `$1` first: `params![user_id, pos, option]`.
macro_rules! params {
    ($($value:expr),* $(,)?) => { Vec::<sea_orm::Value>::from([$(sea_orm::Value::from($value)),*]) };
}
pub(crate) use params;

/// What statements can be run on.
pub(crate) trait Run: Sync {
    /// The connection underneath.
    type Conn: ConnectionTrait;

    /// The connection underneath, for sea-orm's own builders.
    fn conn(&self) -> &Self::Conn;

    /// Which database this is.
    fn backend(&self) -> Backend;

    /// How many connections to try when one is lost: more than one only where nothing can be written.
    fn attempts(&self) -> u32 {
        1
    }

    /// Asked before each statement that may write.
    fn admit(&self) -> impl Future<Output = Result<(), StoreError>> + Send {
        async { Ok(()) }
    }

    /// All rows.
    fn all<M: FromQueryResult + Send>(
        &self,
        sql: &str,
        values: Vec<Value>,
    ) -> impl Future<Output = Result<Vec<M>, StoreError>> + Send {
        async move {
            let rows = self.rows(sql, values).await?;
            rows.iter().map(|row| Ok(M::from_query_result(row, "")?)).collect()
        }
    }

    /// All rows of a statement that selects whole events.
    fn events(
        &self,
        sql: &str,
        values: Vec<Value>,
    ) -> impl Future<Output = Result<Vec<event::Model>, StoreError>> + Send {
        async move { event_rows::events(&self.rows(sql, values).await?) }
    }

    /// The first row.
    fn one<M: FromQueryResult + Send>(
        &self,
        sql: &str,
        values: Vec<Value>,
    ) -> impl Future<Output = Result<Option<M>, StoreError>> + Send {
        async move {
            let row = self.row(sql, values).await?;
            row.map(|row| Ok(M::from_query_result(&row, "")?)).transpose()
        }
    }

    /// The first column of all rows.
    fn column<T: TryGetable + Send>(
        &self,
        sql: &str,
        values: Vec<Value>,
    ) -> impl Future<Output = Result<Vec<T>, StoreError>> + Send {
        async move {
            let rows = self.rows(sql, values).await?;
            rows.iter().map(|row| Ok(row.try_get_by_index(0)?)).collect()
        }
    }

    /// The first column of the first row. A NULL needs `T = Option<_>`.
    fn scalar<T: TryGetable + Send>(
        &self,
        sql: &str,
        values: Vec<Value>,
    ) -> impl Future<Output = Result<Option<T>, StoreError>> + Send {
        async move {
            let row = self.row(sql, values).await?;
            row.map(|row| Ok(row.try_get_by_index(0)?)).transpose()
        }
    }

    /// All rows, undecoded: for joins that yield two models (`M::from_query_result(&row, "prefix_")`) or tuples
    /// (`row.try_get_by_index(0)`).
    fn rows(&self, sql: &str, values: Vec<Value>) -> impl Future<Output = Result<Vec<QueryResult>, StoreError>> + Send {
        async move {
            let statement = statement(self.backend(), sql, values)?;
            self.admit().await?;
            for _ in 1..self.attempts() {
                match self.conn().query_all_raw(statement.clone()).await {
                    Err(error) if is_lost(&error) => {}
                    result => return Ok(result?),
                }
            }
            Ok(self.conn().query_all_raw(statement).await?)
        }
    }

    /// The first row, undecoded.
    fn row(
        &self,
        sql: &str,
        values: Vec<Value>,
    ) -> impl Future<Output = Result<Option<QueryResult>, StoreError>> + Send {
        async move {
            let statement = statement(self.backend(), sql, values)?;
            self.admit().await?;
            for _ in 1..self.attempts() {
                match self.conn().query_one_raw(statement.clone()).await {
                    Err(error) if is_lost(&error) => {}
                    result => return Ok(result?),
                }
            }
            Ok(self.conn().query_one_raw(statement).await?)
        }
    }

    /// Runs it and tells how many rows it touched.
    fn exec(&self, sql: &str, values: Vec<Value>) -> impl Future<Output = Result<u64, StoreError>> + Send {
        async move {
            self.admit().await?;
            Ok(self
                .conn()
                .execute_raw(statement(self.backend(), sql, values)?)
                .await?
                .rows_affected())
        }
    }

    /// Inserts rows; one that is there already refuses all with [`StoreError::Duplicate`].
    fn insert<E: EntityTrait>(&self, rows: &[E::Model]) -> impl Future<Output = Result<u64, StoreError>> + Send
    where
        E::Model: Sync,
    {
        async move {
            self.admit().await?;
            bulk::write::<E, _>(self.conn(), self.backend(), rows, Conflict::Refuse).await
        }
    }

    /// Inserts rows whose primary key is not there yet; tells how many were new.
    fn insert_new<E: EntityTrait>(&self, rows: &[E::Model]) -> impl Future<Output = Result<u64, StoreError>> + Send
    where
        E::Model: Sync,
    {
        async move {
            self.admit().await?;
            bulk::write::<E, _>(self.conn(), self.backend(), rows, Conflict::Skip).await
        }
    }

    /// Inserts rows or replaces those with the same primary key; the last of equal keys wins.
    fn upsert<E: EntityTrait>(&self, rows: &[E::Model]) -> impl Future<Output = Result<u64, StoreError>> + Send
    where
        E::Model: Sync,
    {
        async move {
            self.admit().await?;
            bulk::write::<E, _>(self.conn(), self.backend(), rows, Conflict::Replace).await
        }
    }
}

/// A pool: every statement takes a connection of its own.
#[derive(Clone, Copy)]
pub(crate) struct Pool<'a> {
    pool: &'a DatabaseConnection,
    backend: Backend,
    attempts: u32,
    fence: Option<&'a Fence>,
}

impl<'a> Pool<'a> {
    pub(super) fn new(pool: &'a DatabaseConnection, backend: Backend) -> Self {
        Self {
            pool,
            backend,
            attempts: 1,
            fence: None,
        }
    }

    /// Writes only while this process owns the database.
    pub(super) fn fenced(self, fence: &'a Fence) -> Self {
        Self {
            fence: Some(fence),
            ..self
        }
    }

    /// Asks again on another connection where one is lost. Only for a pool that cannot write.
    pub(super) fn repeating(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }
}

impl Run for Pool<'_> {
    type Conn = DatabaseConnection;

    fn conn(&self) -> &DatabaseConnection {
        self.pool
    }

    fn backend(&self) -> Backend {
        self.backend
    }

    fn attempts(&self) -> u32 {
        self.attempts
    }

    async fn admit(&self) -> Result<(), StoreError> {
        match self.fence {
            Some(fence) => fence.check(self.pool, self.backend, false).await,
            None => Ok(()),
        }
    }
}

/// A write transaction; rolled back if dropped before [`Tx::commit`] returned.
pub(crate) struct Tx {
    tx: DatabaseTransaction,
    backend: Backend,
}

impl Tx {
    pub(super) fn new(tx: DatabaseTransaction, backend: Backend) -> Self {
        Self { tx, backend }
    }

    /// Makes it durable. [`StoreError::Unknown`] if the connection was lost meanwhile.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        self.tx.commit().await.map_err(StoreError::of_commit)
    }

    /// Undoes it at once, instead of when the connection is used next.
    pub(crate) async fn rollback(self) -> Result<(), StoreError> {
        Ok(self.tx.rollback().await?)
    }
}

impl Run for Tx {
    type Conn = DatabaseTransaction;

    fn conn(&self) -> &DatabaseTransaction {
        &self.tx
    }

    fn backend(&self) -> Backend {
        self.backend
    }
}

/// Neither database stores U+0000 in a text faithfully: refused here for both alike.
pub(super) fn statement(backend: Backend, sql: &str, values: Vec<Value>) -> Result<Statement, StoreError> {
    if values.iter().any(holds_nul) {
        return Err(StoreError::Nul);
    }
    Ok(Statement::from_sql_and_values(backend.driver(), sql, values))
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(Some(text)) => text.contains('\0'),
        Value::Array(_, Some(values)) => values.iter().any(holds_nul),
        _ => false,
    }
}
