//! Searches: events by their text, users by their names, and reports of either.

use super::event::VISIBLE;
use super::{Run, Store, params};
use crate::{error::StoreError, event, event_report, store::backend::Backend};

/// A local or remote user that the directory knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundUser {
    /// The user.
    pub user_id: String,
    /// `displayname` as JSON text, of local users.
    pub displayname: Option<String>,
    /// `avatar_url` as JSON text, of local users.
    pub avatar_url: Option<String>,
}

/// Which users to find.
#[derive(Clone, Debug)]
pub struct UserQuery<'a> {
    /// Who asks; sees members of its rooms and of public ones.
    pub searcher: &'a str,
    /// What id or display name hold; empty for everybody.
    pub term: &'a str,
    /// Every local user, whatever the rooms.
    pub all: bool,
    /// Users behind this one, in the order of ids.
    pub after: &'a str,
    /// At most so many.
    pub limit: u32,
}

/// `text` as a part of a LIKE pattern with `\` as its escape.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

impl Backend {
    /// LIKE that ignores case (of ASCII letters at least).
    pub(super) fn like(self) -> &'static str {
        match self {
            Self::Postgres => "ILIKE",
            Self::Sqlite => "LIKE",
        }
    }
}

impl Store {
    /// Message, name and topic events with `above < pos ≤ upto` whose JSON holds every word, newest first.
    pub async fn search_events(
        &self,
        room_nids: &[i64],
        words: &[String],
        above: i64,
        upto: i64,
        limit: u32,
    ) -> Result<Vec<event::Model>, StoreError> {
        let db = self.backend();
        let like = db.like();
        // Always the same number of conditions, so that the text is the same for every search.
        let conditions: String = (5..=8).map(|n| format!(" AND json {like} ${n} ESCAPE '\\'")).collect();
        let sql = format!(
            "SELECT * FROM event WHERE room_nid {} AND pos > $2 AND pos <= $3 AND {VISIBLE} \
             AND type IN ('m.room.message', 'm.room.name', 'm.room.topic'){conditions} ORDER BY pos DESC LIMIT $4",
            db.any(1)
        );
        let mut values = params![db.ints(room_nids), above, upto, i64::from(limit)];
        for n in 0..4 {
            let word = words.get(n).map(|word| json_text(word)).unwrap_or_default();
            values.push(format!("%{}%", escape(&word)).into());
        }
        self.reader().events(&sql, values).await
    }

    /// Users by id or display name, in the order of their ids.
    pub async fn search_users(&self, query: &UserQuery<'_>) -> Result<Vec<FoundUser>, StoreError> {
        let like = self.backend().like();
        let sql = format!(
            "SELECT c.user_id, d.value, a.value FROM ( \
               SELECT user_id FROM \"user\" WHERE $3 AND NOT deactivated \
               UNION SELECT o.user_id FROM membership o WHERE o.membership = 'join' AND ( \
                 EXISTS (SELECT 1 FROM membership m WHERE m.room_nid = o.room_nid AND m.user_id = $1 \
                   AND m.membership = 'join') \
                 OR EXISTS (SELECT 1 FROM current_state s JOIN event j ON j.nid = s.event_nid \
                   WHERE s.room_nid = o.room_nid AND s.type = 'm.room.join_rules' AND s.state_key = '' \
                   AND j.json LIKE '%\"join_rule\":\"public\"%')) \
             ) AS c \
             LEFT JOIN profile_field d ON d.user_id = c.user_id AND d.name = 'displayname' \
             LEFT JOIN profile_field a ON a.user_id = c.user_id AND a.name = 'avatar_url' \
             WHERE c.user_id > $4 AND (c.user_id {like} $2 ESCAPE '\\' OR d.value {like} $2 ESCAPE '\\') \
             AND NOT EXISTS (SELECT 1 FROM \"user\" u WHERE u.user_id = c.user_id AND u.deactivated) \
             ORDER BY c.user_id LIMIT $5"
        );
        let pattern = format!("%{}%", escape(query.term));
        let values = params![query.searcher, pattern, query.all, query.after, i64::from(query.limit)];
        let rows = self.reader().rows(&sql, values).await?;
        rows.iter()
            .map(|row| {
                Ok(FoundUser {
                    user_id: row.try_get_by_index(0)?,
                    displayname: row.try_get_by_index(1)?,
                    avatar_url: row.try_get_by_index(2)?,
                })
            })
            .collect()
    }

    /// Keeps a report.
    pub async fn insert_report(&self, report: event_report::Model) -> Result<(), StoreError> {
        self.writer()
            .insert::<event_report::Entity>(&[report])
            .await
            .map(|_| ())
    }

    /// Changes the score of the reports of an event: of one reporter, or all of them. Tells how many there are.
    pub async fn set_report_score(
        &self,
        room_id: &str,
        event_id: &str,
        reporter: Option<&str>,
        score: i64,
    ) -> Result<u64, StoreError> {
        let sql = "UPDATE event_report SET score = $4 WHERE room_id = $1 AND event_id = $2 \
                   AND ($3 IS NULL OR reporter = $3)";
        self.writer()
            .exec(sql, params![room_id, event_id, reporter, score])
            .await
    }
}

/// A word as it stands inside a JSON string.
fn json_text(word: &str) -> String {
    let text = serde_json::to_string(word).unwrap_or_default();
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inner.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_and_json_are_taken_literally() {
        assert_eq!(escape("50%_a\\"), "50\\%\\_a\\\\");
        assert_eq!(json_text("say \"hi\""), "say \\\"hi\\\"");
    }
}
