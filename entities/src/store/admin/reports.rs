//! Reports of events and users, as administrators read them.

use super::{Run, Slice, Store, params};
use crate::{error::StoreError, event_report};

/// Which reports; empty texts for any.
#[derive(Clone, Debug, Default)]
pub struct ReportFilter<'a> {
    /// `event` or `user`
    pub kind: &'a str,
    /// Who reported.
    pub reporter: &'a str,
    /// The room of the event.
    pub room_id: &'a str,
    /// Who sent the event, or whom the report is about.
    pub subject: &'a str,
}

impl Store {
    /// A part of the list of reports, by their age, and how many the whole has.
    pub async fn reports(
        &self,
        filter: &ReportFilter<'_>,
        slice: Slice,
    ) -> Result<(Vec<event_report::Model>, i64), StoreError> {
        let condition = "FROM event_report WHERE kind = $1 AND ($2 = '' OR reporter = $2) \
                         AND ($3 = '' OR room_id = $3) AND ($4 = '' OR user_id = $4)";
        let values = || params![filter.kind, filter.reporter, filter.room_id, filter.subject];
        let count = format!("SELECT COUNT(*) {condition}");
        let total: Option<i64> = self.reader().scalar(&count, values()).await?;
        let sql = format!(
            "SELECT * {condition} ORDER BY received_ts {direction}, id {direction} LIMIT $5 OFFSET $6",
            direction = slice.direction()
        );
        let mut all = values();
        all.extend(params![slice.limit, slice.from]);
        Ok((self.reader().all(&sql, all).await?, total.unwrap_or(0)))
    }

    /// One report of a kind.
    pub async fn report(&self, kind: &str, id: i64) -> Result<Option<event_report::Model>, StoreError> {
        let sql = "SELECT * FROM event_report WHERE kind = $1 AND id = $2";
        self.reader().one(sql, params![kind, id]).await
    }

    /// Deletes a report; false if there is none.
    pub async fn delete_report(&self, kind: &str, id: i64) -> Result<bool, StoreError> {
        let sql = "DELETE FROM event_report WHERE kind = $1 AND id = $2";
        Ok(self.writer().exec(sql, params![kind, id]).await? > 0)
    }
}
