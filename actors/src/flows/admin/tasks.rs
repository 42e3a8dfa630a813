//! Work that an administrator asked for and that takes its time: noted before it begins and with each step, so that a start
//! goes on with what a stop interrupted and everybody can be told how far it has come.

use std::sync::{Arc, Weak};
use std::time::Duration;

use entities::admin_task::Model;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::{delete_room, purge_history, redact_user};
use crate::error::{DomainError, Outcome};
use crate::failpoint::ADMIN_NOTED;
use crate::hub::Hub;

/// `status` of work that has not ended.
pub const ACTIVE: &str = "active";
/// `status` of work that is done.
pub const COMPLETE: &str = "complete";
/// `status` of work that could not be done.
pub const FAILED: &str = "failed";

/// Work done at the same time.
const AT_ONCE: usize = 2;
/// Work that may wait.
const MAX_WAITING: usize = 200;
/// Tries while the database or an actor is away.
const TRIES: u32 = 6;
/// The pause before the second try; it doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// What is to be done, with how far it has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "snake_case")]
pub enum Work {
    /// See [`delete_room`].
    DeleteRoom(delete_room::Deletion),
    /// See [`purge_history`].
    PurgeHistory(purge_history::Purge),
    /// See [`redact_user`].
    RedactUser(redact_user::Redaction),
}

impl Work {
    fn kind(&self) -> &'static str {
        match self {
            Self::DeleteRoom(_) => "delete_room",
            Self::PurgeHistory(_) => "purge_history",
            Self::RedactUser(_) => "redact_user",
        }
    }

    fn subject(&self) -> String {
        match self {
            Self::DeleteRoom(deletion) => deletion.room_id.to_string(),
            Self::PurgeHistory(purge) => purge.room_id.to_string(),
            Self::RedactUser(redaction) => redaction.user_id.to_string(),
        }
    }

    /// Whether a start finishes it before it answers anybody.
    fn is_urgent(&self) -> bool {
        matches!(self, Self::DeleteRoom(deletion) if deletion.purging)
    }
}

/// How much is done at the same time.
pub struct Tasks {
    slots: Semaphore,
    waiting: Arc<Semaphore>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            slots: Semaphore::new(AT_ONCE),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }
}

/// A piece of work under way.
pub struct Task {
    row: Model,
}

impl Task {
    /// Notes how far it has come.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn note(&mut self, hub: &Hub, work: &Work, result: &Value) -> Outcome<()> {
        self.row.params = text(work)?;
        self.row.result = result.to_string();
        self.row.updated_ts = hub.env().clock.now_ms();
        hub.env().store.note_admin_task(&self.row).await?;
        hub.env().failpoints.pass(ADMIN_NOTED);
        Ok(())
    }
}

fn text(work: &Work) -> Outcome<String> {
    serde_json::to_string(work).map_err(|e| DomainError::internal(format!("an administrator's task: {e}")))
}

/// Begins work, which goes on by itself. Answers its id and what to wait for.
///
/// # Errors
/// `Overloaded` when too much waits; `Unavailable` when the database does not answer.
pub async fn begin(hub: &Arc<Hub>, work: Work) -> Outcome<(String, JoinHandle<Model>)> {
    let env = hub.env();
    let busy = |_| DomainError::Overloaded { retry_after_ms: 10_000 };
    let permit = env.admin_tasks.waiting.clone().try_acquire_owned().map_err(busy)?;
    let now = env.clock.now_ms();
    let row = Model {
        id: env.rng.alphanumeric(16),
        kind: work.kind().to_owned(),
        subject: work.subject(),
        status: ACTIVE.to_owned(),
        params: text(&work)?,
        result: json!({}).to_string(),
        error: None,
        created_ts: now,
        updated_ts: now,
    };
    env.store.begin_admin_task(&row).await?;
    tracing::info!(
        kind = row.kind,
        subject = row.subject,
        id = row.id,
        "an administrator's task begins"
    );
    let (id, hub) = (row.id.clone(), hub.clone());
    let handle = hub.env().io.clone().spawn(async move {
        let row = run(Arc::downgrade(&hub), row, work).await;
        drop(permit);
        row
    });
    Ok((id, handle))
}

/// Goes on with what the last stop interrupted: the deletion of rooms at once, the rest in the background.
///
/// # Errors
/// `Unavailable` when the database does not answer.
pub async fn resume(hub: &Arc<Hub>) -> Outcome<()> {
    for row in hub.env().store.unfinished_admin_tasks().await? {
        let work = match serde_json::from_str::<Work>(&row.params) {
            Ok(work) => work,
            Err(error) => {
                tracing::error!(%error, id = row.id, "an administrator's task cannot be read");
                continue;
            }
        };
        let weak = Arc::downgrade(hub);
        if work.is_urgent() {
            run(weak, row, work).await;
        } else {
            hub.env().io.spawn(run(weak, row, work));
        }
    }
    Ok(())
}

/// Does it; the row is as it was written last.
fn run(weak: Weak<Hub>, row: Model, work: Work) -> BoxFuture<'static, Model> {
    Box::pin(async move { to_the_end(&weak, row, work).await })
}

async fn to_the_end(weak: &Weak<Hub>, row: Model, work: Work) -> Model {
    let mut task = Task { row };
    let Some(hub) = weak.upgrade() else { return task.row };
    let Ok(_slot) = hub.env().admin_tasks.slots.acquire().await else {
        return task.row;
    };
    let ended = tried(&hub, &mut task, work).await;
    let row = &mut task.row;
    match ended {
        Ok(result) => {
            COMPLETE.clone_into(&mut row.status);
            row.result = result.to_string();
        }
        // The server is stopping: the next start goes on.
        Err(_) if hub.is_draining() || hub.is_fenced() => return task.row,
        Err(error) => {
            FAILED.clone_into(&mut row.status);
            row.error = Some(match error {
                DomainError::Matrix { message, .. } => message,
                other => other.to_string(),
            });
        }
    }
    row.updated_ts = hub.env().clock.now_ms();
    if let Err(error) = hub.env().store.note_admin_task(row).await {
        tracing::error!(%error, id = row.id, "the end of an administrator's task is not written, it will be done again");
    }
    tracing::info!(
        id = row.id,
        status = row.status,
        error = row.error,
        "an administrator's task has ended"
    );
    task.row
}

/// Every step can be repeated, and what was noted is not done again.
async fn tried(hub: &Arc<Hub>, task: &mut Task, mut work: Work) -> Outcome<Value> {
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match step(hub, task, &mut work).await {
            Err(DomainError::Unavailable { .. } | DomainError::Overloaded { .. }) if !hub.is_draining() => {}
            ended => return ended,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    step(hub, task, &mut work).await
}

async fn step(hub: &Arc<Hub>, task: &mut Task, work: &mut Work) -> Outcome<Value> {
    match work {
        Work::DeleteRoom(deletion) => delete_room::run(hub, task, deletion).await,
        Work::PurgeHistory(purge) => purge_history::run(hub, task, purge).await,
        Work::RedactUser(redaction) => redact_user::run(hub, task, redaction).await,
    }
}
