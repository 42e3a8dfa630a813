//! One commit of what changes about friends: the half, and the account data that shows it.

use std::collections::HashSet;
use std::sync::Arc;

use entities::account_data;
use entities::friend::Model;
use entities::ids::StreamPos;
use entities::store::rows::Rows;
use ruma::OwnedUserId;

use super::data::{self, Entry, FRIENDS};
use crate::env::Env;
use crate::error::Outcome;
use crate::session::quota;
use crate::session::view::UserView;
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

/// What is to be written.
#[derive(Debug, Default)]
pub struct Change {
    /// The half.
    pub half: Option<Model>,
    /// Account data; the list of friends comes by itself.
    pub entries: Vec<Entry>,
    /// The list of ignored users, and who is on it.
    pub ignored: Option<(Entry, Arc<HashSet<OwnedUserId>>)>,
}

/// Writes everything in one commit; the view comes back where it changed.
///
/// # Errors
/// `M_TOO_LARGE` where the user's account data is full; `Unavailable` when nothing could be written.
pub async fn write(env: &Env, view: &UserView, change: Change) -> Outcome<Option<UserView>> {
    let Change { half, entries, ignored } = change;
    let (mut entries, mut changed) = (entries, None);
    if let Some((entry, ignored)) = ignored {
        entries.push(entry);
        changed = Some(UserView {
            ignored,
            ..view.clone()
        });
    }
    // Who is gone has no account data any more.
    if !view.deactivated {
        entries.extend(data::list(env, changed.as_ref().unwrap_or(view), half.as_ref()).await?);
    }
    if half.is_none() && entries.is_empty() {
        return Ok(None);
    }
    let rows = rows(env, view, half, &entries).await?;
    commit(env, view, rows, &entries, changed.as_ref()).await?;
    Ok(changed)
}

async fn rows(env: &Env, view: &UserView, half: Option<Model>, entries: &[Entry]) -> Outcome<Rows> {
    let mut rows = Rows {
        friends: half.into_iter().collect(),
        ..Rows::default()
    };
    for (entry, pos) in entries.iter().zip(0..) {
        let row = account_data::Model {
            user_id: view.user_id.to_string(),
            room_id: String::new(),
            r#type: entry.kind.to_owned(),
            content: entry.content.clone(),
            pos,
        };
        // The list is bounded by itself, and must not stand still because of what else the user keeps.
        if entry.kind != FRIENDS {
            quota::admit_account_data(env, &row, entry.old.as_deref()).await?;
        }
        rows.account_data.push(row);
    }
    Ok(rows)
}

async fn commit(env: &Env, view: &UserView, rows: Rows, entries: &[Entry], changed: Option<&UserView>) -> Outcome<()> {
    let user = view.user_id.clone();
    let kinds: Vec<&'static str> = entries.iter().map(|entry| entry.kind).collect();
    let (users, published) = (env.users.clone(), changed.cloned().map(Arc::new));
    let positions = u32::try_from(kinds.len()).unwrap_or(u32::MAX);
    let publish = move |base: StreamPos| {
        if let Some(view) = published {
            users.publish(user.clone(), view);
        }
        let fact = |(kind, offset): (&str, i64)| Fact {
            pos: StreamPos(base.0 + offset),
            users: Arc::from([user.clone()]),
            kind: FactKind::AccountData {
                room_id: None,
                kind: kind.to_owned(),
            },
        };
        kinds.into_iter().zip(0..).map(fact).collect()
    };
    let submission = Submission {
        rows,
        positions,
        publish: Box::new(publish),
    };
    if !entries.is_empty() {
        env.quota.note_account_data(&view.user_id, None);
    }
    let submitted = env.journal.submit(submission).await;
    if !entries.is_empty() {
        env.quota.note_account_data(&view.user_id, None);
    }
    submitted?;
    if changed.is_some() {
        env.unread.forget(&view.user_id);
    }
    Ok(())
}
