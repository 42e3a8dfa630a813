//! The messages of a room's past are deleted, part by part: the room works on in between.

use std::sync::Arc;

use ruma::OwnedRoomId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::tasks::{Task, Work};
use crate::error::Outcome;
use crate::hub::Hub;
use crate::room::commands::PurgeHistory;

/// What is to be deleted, and how far that has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Purge {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Messages before this position.
    pub before: i64,
    /// Those of this server's users too.
    pub local: bool,
    /// Up to here all is done.
    #[serde(default = "beginning")]
    pub above: i64,
    /// How many are gone.
    #[serde(default)]
    pub deleted: u64,
}

fn beginning() -> i64 {
    i64::MIN
}

/// Does what is left to be done.
///
/// # Errors
/// What hinders it.
pub(super) async fn run(hub: &Arc<Hub>, task: &mut Task, purge: &mut Purge) -> Outcome<Value> {
    loop {
        let wanted = PurgeHistory {
            above: purge.above,
            before: purge.before,
            local: purge.local,
        };
        let done = hub.rooms().purge_history(&purge.room_id, wanted).await?;
        purge.deleted += done.deleted;
        let result = json!({ "deleted_events": purge.deleted });
        let Some(next) = done.next else { return Ok(result) };
        purge.above = next;
        task.note(hub, &Work::PurgeHistory(purge.clone()), &result).await?;
    }
}
