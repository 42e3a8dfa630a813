//! Typing, receipts and presence of local users, for the servers that share their rooms.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use entities::ids::RoomNid;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, UserId};

use super::edu::TransientEdu;
use super::handle::Shared;
use crate::clock::Millis;
use crate::error::Outcome;
use crate::presence;
use crate::stream::fact::FactKind;

/// Who goes on typing is mentioned again after this time: others forget it otherwise.
const TYPING_AGAIN_MS: Millis = 25 * 1_000;
/// How long the servers that share rooms with a user are remembered.
const SHARING_MS: Millis = 60 * 1_000;
/// Users of whom they are remembered.
const MAX_SHARING: usize = 10_000;

/// What was told already.
#[derive(Default)]
pub(super) struct Ephemeral {
    typing: HashMap<RoomNid, Typing>,
    sharing: HashMap<OwnedUserId, (Millis, Arc<[OwnedServerName]>)>,
}

struct Typing {
    room_id: OwnedRoomId,
    /// Local users who type, and when that was told.
    users: BTreeMap<OwnedUserId, Millis>,
}

impl Ephemeral {
    /// Tells what a fact makes worth telling. What is lost where the database does not answer, nobody misses.
    pub async fn take(&mut self, shared: &Arc<Shared>, fact: &FactKind) {
        let told = match fact {
            FactKind::Typing { room_nid, room_id } => self.typing(shared, *room_nid, room_id).await,
            FactKind::Receipt {
                room_nid,
                room_id,
                user,
                receipt,
                private: false,
            } if shared.env.is_local(user) && receipt.receipt_type == "m.read" => {
                match OwnedEventId::try_from(receipt.event_id.as_str()) {
                    Ok(event_id) => {
                        let edu = TransientEdu::Receipt {
                            room_id: room_id.clone(),
                            user_id: user.clone(),
                            thread_id: Some(receipt.thread_id.clone()).filter(|thread| !thread.is_empty()),
                            event_id,
                            ts: receipt.ts,
                        };
                        tell_room(shared, *room_nid, &edu).await
                    }
                    Err(_) => Ok(()),
                }
            }
            FactKind::Presence { user } if shared.env.is_local(user) => self.presence(shared, user).await,
            _ => Ok(()),
        };
        if let Err(error) = told {
            tracing::debug!(%error, "something ephemeral is not told to other servers");
        }
    }

    async fn typing(&mut self, shared: &Arc<Shared>, nid: RoomNid, room_id: &OwnedRoomId) -> Outcome<()> {
        let (users, _) = shared.env.rooms.typing().in_room(nid);
        let users: BTreeSet<OwnedUserId> = users.into_iter().filter(|user| shared.env.is_local(user)).collect();
        let now = shared.now();
        let room = self.typing.entry(nid).or_insert_with(|| Typing {
            room_id: room_id.clone(),
            users: BTreeMap::new(),
        });
        let stopped = room
            .users
            .keys()
            .filter(|user| !users.contains(*user))
            .cloned()
            .map(|user| (user, false));
        let began = users
            .iter()
            .filter(|user| !room.users.contains_key(*user))
            .cloned()
            .map(|user| (user, true));
        let changes: Vec<(OwnedUserId, bool)> = stopped.chain(began).collect();
        for (user, typing) in &changes {
            match typing {
                true => drop(room.users.insert(user.clone(), now)),
                false => drop(room.users.remove(user)),
            }
        }
        if room.users.is_empty() {
            self.typing.remove(&nid);
        }
        for (user_id, typing) in changes {
            let room_id = room_id.clone();
            tell_room(
                shared,
                nid,
                &TransientEdu::Typing {
                    room_id,
                    user_id,
                    typing,
                },
            )
            .await?;
        }
        Ok(())
    }

    /// Mentions again who goes on typing.
    pub async fn tick(&mut self, shared: &Arc<Shared>) {
        let now = shared.now();
        self.sharing.retain(|_, (since, _)| now - *since < SHARING_MS);
        for (nid, room) in &mut self.typing {
            for (user, told) in room
                .users
                .iter_mut()
                .filter(|(_, told)| now - **told >= TYPING_AGAIN_MS)
            {
                *told = now;
                let edu = TransientEdu::Typing {
                    room_id: room.room_id.clone(),
                    user_id: user.clone(),
                    typing: true,
                };
                if let Err(error) = tell_room(shared, *nid, &edu).await {
                    tracing::debug!(%error, "a notice of typing is not told to other servers");
                }
            }
        }
    }

    async fn presence(&mut self, shared: &Arc<Shared>, user: &UserId) -> Outcome<()> {
        let servers = self.sharing(shared, user).await?;
        if servers.is_empty() {
            return Ok(());
        }
        let Some(status) = presence::status(&shared.env, user).await? else {
            return Ok(());
        };
        let edu = TransientEdu::Presence {
            user_id: user.to_owned(),
            state: status.state,
            status_msg: status.message,
            last_active: status.last_active,
        };
        shared.tell_edu(&servers, &edu);
        Ok(())
    }

    /// The servers that share rooms with a user, as of a minute ago at most.
    async fn sharing(&mut self, shared: &Shared, user: &UserId) -> Outcome<Arc<[OwnedServerName]>> {
        let now = shared.now();
        if let Some((since, servers)) = self.sharing.get(user)
            && now - since < SHARING_MS
        {
            return Ok(servers.clone());
        }
        let servers = super::sharing(&shared.env, user).await?;
        if self.sharing.len() < MAX_SHARING {
            self.sharing.insert(user.to_owned(), (now, servers.clone()));
        }
        Ok(servers)
    }
}

/// Tells the servers of a room.
async fn tell_room(shared: &Arc<Shared>, nid: RoomNid, edu: &TransientEdu) -> Outcome<()> {
    if let Some(room) = shared.env.rooms.view_nid(nid).await? {
        shared.tell_edu(&room.joined_servers, edu);
    }
    Ok(())
}
