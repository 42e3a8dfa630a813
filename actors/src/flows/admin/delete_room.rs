//! A room is closed: its local users leave, perhaps for a new room that tells them why, its aliases go, and then it is
//! deleted if that is wanted.

use std::sync::Arc;
use std::time::Duration;

use entities::blocked_room;
use entities::ids::RoomNid;
use ruma::api::client::room::create_room::v3::{Request, RoomPreset};
use ruma::serde::Raw;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomOrAliasId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::tasks::{Task, Work};
use crate::error::{DomainError, Outcome};
use crate::flows::create_room::create_room;
use crate::flows::membership::{Change, change, join};
use crate::hub::Hub;
use crate::room::commands::Draft;
use crate::room::membership::Action;

/// What the new room is called unless the administrator says.
const NAME: &str = "Notice of a closed room";
/// What it says unless the administrator does.
const MESSAGE: &str = "The administrators of this server have closed the room that you were in.";
/// How long a deletion waits until other servers have been told of those who left.
const TOLD: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);

/// What is to be done, and what was done already.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deletion {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The administrator.
    pub requester: OwnedUserId,
    /// Who makes a new room that those who are removed join.
    pub new_room_user_id: Option<OwnedUserId>,
    /// What that room is called.
    pub room_name: Option<String>,
    /// What it says.
    pub message: Option<String>,
    /// Whether nobody may enter the old room again.
    pub block: bool,
    /// Whether the old room is deleted from the database.
    pub purge: bool,
    /// Whether that is done although somebody could not be removed.
    pub force_purge: bool,
    /// The new room, once it is made.
    #[serde(default)]
    pub new_room_id: Option<OwnedRoomId>,
    /// Who has been removed.
    #[serde(default)]
    pub kicked: Vec<OwnedUserId>,
    /// Who could not be.
    #[serde(default)]
    pub failed: Vec<OwnedUserId>,
    /// The aliases that the room had.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Whether the deletion from the database has begun.
    #[serde(default)]
    pub purging: bool,
}

impl Deletion {
    /// What has come of it, as Synapse's interface has it.
    #[must_use]
    pub fn result(&self) -> Value {
        json!({
            "kicked_users": self.kicked,
            "failed_to_kick_users": self.failed,
            "local_aliases": self.aliases,
            "new_room_id": self.new_room_id,
        })
    }
}

async fn note(hub: &Hub, task: &mut Task, deletion: &Deletion) -> Outcome<()> {
    let result = deletion.result();
    task.note(hub, &Work::DeleteRoom(deletion.clone()), &result).await
}

/// Does what is left to be done.
///
/// # Errors
/// What hinders it.
pub(super) async fn run(hub: &Arc<Hub>, task: &mut Task, deletion: &mut Deletion) -> Outcome<Value> {
    if !deletion.purging {
        close(hub, task, deletion).await?;
    }
    if !deletion.purge {
        return Ok(deletion.result());
    }
    if !deletion.failed.is_empty() && !deletion.force_purge {
        return Err(DomainError::unknown(
            "the room is not deleted: somebody could not be removed from it (force_purge deletes it all the same)",
        ));
    }
    if !deletion.purging {
        others_told(hub, &deletion.room_id).await?;
        deletion.purging = true;
        note(hub, task, deletion).await?;
    }
    hub.rooms().purge(&deletion.room_id).await?;
    Ok(deletion.result())
}

async fn close(hub: &Arc<Hub>, task: &mut Task, deletion: &mut Deletion) -> Outcome<()> {
    let env = hub.env();
    if deletion.block {
        let row = blocked_room::Model {
            room_id: deletion.room_id.to_string(),
            user_id: deletion.requester.to_string(),
            blocked_ts: env.clock.now_ms(),
        };
        env.store.block_room(&row).await?;
    }
    if deletion.new_room_id.is_none()
        && let Some(creator) = deletion.new_room_user_id.clone()
    {
        let room_id = new_room(hub, &creator, deletion).await?;
        deletion.new_room_id = Some(room_id.clone());
        note(hub, task, deletion).await?;
        say(hub, &creator, &room_id, deletion).await?;
    }
    deletion.failed.clear();
    for user in local_members(hub, &deletion.room_id).await? {
        match remove(hub, deletion, &user).await {
            Ok(()) if !deletion.kicked.contains(&user) => deletion.kicked.push(user),
            Ok(()) => {}
            Err(error @ (DomainError::Unavailable { .. } | DomainError::Overloaded { .. })) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, %user, room_id = %deletion.room_id, "a user stays in a room that is closed");
                deletion.failed.push(user);
            }
        }
    }
    let room_id = deletion.room_id.as_str();
    for row in env.store.aliases_of_room(room_id).await? {
        if !deletion.aliases.contains(&row.alias) {
            deletion.aliases.push(row.alias);
        }
    }
    note(hub, task, deletion).await?;
    match &deletion.new_room_id {
        Some(new) => env.store.move_aliases(room_id, new.as_str()).await?,
        None => {
            for alias in &deletion.aliases {
                env.store.delete_alias(alias).await?;
            }
        }
    }
    Ok(env.store.set_published(room_id, false).await?)
}

/// A room in which only its maker speaks.
async fn new_room(hub: &Arc<Hub>, creator: &UserId, deletion: &Deletion) -> Outcome<OwnedRoomId> {
    let mut request = Request::new();
    request.name = Some(deletion.room_name.clone().unwrap_or_else(|| NAME.to_owned()));
    request.preset = Some(RoomPreset::PublicChat);
    let levels = serde_json::value::to_raw_value(&json!({ "users_default": -10 }))
        .map_err(|e| DomainError::internal(format!("power levels: {e}")))?;
    request.power_level_content_override = Some(Raw::from_json(levels));
    create_room(hub, creator, &request).await
}

async fn say(hub: &Hub, creator: &UserId, room_id: &RoomId, deletion: &Deletion) -> Outcome<()> {
    let body = deletion.message.as_deref().unwrap_or(MESSAGE);
    let content = serde_json::value::to_raw_value(&json!({ "msgtype": "m.text", "body": body }))
        .map_err(|e| DomainError::internal(format!("a notice: {e}")))?;
    let draft = Draft::message(creator.to_owned(), "m.room.message", content, None);
    hub.rooms().send(room_id, draft).await.map(|_| ())
}

/// The local users who are in the room, invited to it or knocking at it.
async fn local_members(hub: &Hub, room_id: &RoomId) -> Outcome<Vec<OwnedUserId>> {
    let env = hub.env();
    let Some(room) = env.store.room_by_id(room_id.as_str()).await? else {
        return Ok(Vec::new());
    };
    let rows = env.store.memberships_of_room(room.nid).await?;
    let inside = rows
        .into_iter()
        .filter(|row| matches!(row.membership.as_str(), "join" | "invite" | "knock"));
    let users = inside.filter_map(|row| UserId::parse(row.user_id).ok());
    Ok(users.filter(|user| env.is_local(user)).collect())
}

async fn remove(hub: &Arc<Hub>, deletion: &Deletion, user: &UserId) -> Outcome<()> {
    let room_id = &deletion.room_id;
    let leaving = Change {
        room_id,
        sender: user,
        target: user,
        reason: None,
    };
    change(hub, &leaving, Action::Leave).await?;
    if !deletion.purge
        && let Err(error) = hub.rooms().forget(room_id, user).await
    {
        tracing::info!(%error, %user, %room_id, "a closed room is not forgotten");
    }
    if let Some(new) = &deletion.new_room_id
        && Some(user) != deletion.new_room_user_id.as_deref()
        && let Ok(target) = RoomOrAliasId::parse(new.as_str())
        && let Err(error) = join(hub, user, &target, &[], None).await
    {
        tracing::info!(%error, %user, %new, "somebody is not told why a room was closed");
    }
    Ok(())
}

/// Waits, but not for ever, until other servers have got the events that say who left.
async fn others_told(hub: &Hub, room_id: &RoomId) -> Outcome<()> {
    let Some(room) = hub.rooms().view(room_id).await? else {
        return Ok(());
    };
    let nid: RoomNid = room.nid;
    let waits = || {
        room.joined_servers.iter().any(|server| {
            let view = hub.peers().view(server);
            view.is_some_and(|view| view.queue().contains_key(&nid))
        })
    };
    let looked = async {
        while waits() {
            tokio::time::sleep(LOOK).await;
        }
    };
    // Whoever does not answer is not waited for.
    let _late = tokio::time::timeout(TOLD, looked).await;
    Ok(())
}
