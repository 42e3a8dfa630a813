//! Who is in a room: the figures that a snapshot keeps beside its state.

use std::sync::Arc;

use ruma::{OwnedServerName, ServerName, UserId};

use super::snapshot::RoomSnapshot;

/// Applies a change of `user`'s membership, whose member event is in `room.state` already.
pub(crate) fn change(room: &mut RoomSnapshot, user: &UserId, old: &str, new: &str, server: &ServerName) {
    let count = |count: &mut u64, what: &str| {
        if old == what {
            *count = count.saturating_sub(1);
        }
        if new == what {
            *count += 1;
        }
    };
    count(&mut room.joined_count, "join");
    count(&mut room.invited_count, "invite");
    match (old == "join", new == "join") {
        (false, true) => {
            if user.server_name() == server {
                room.local_joined = with(&room.local_joined, user);
            }
            let name = user.server_name();
            let before = room.server_members.get(name).copied().unwrap_or_default();
            room.server_members.insert(name.to_owned(), before + 1);
            if before == 0 {
                room.joined_servers = with(&room.joined_servers, name);
            }
        }
        (true, false) => {
            if user.server_name() == server {
                room.local_joined = without(&room.local_joined, user);
            }
            let name = user.server_name();
            let left = room.server_members.get(name).map_or(0, |count| count.saturating_sub(1));
            if left == 0 {
                room.server_members.remove(name);
                room.joined_servers = without(&room.joined_servers, name);
            } else {
                room.server_members.insert(name.to_owned(), left);
            }
        }
        _ => {}
    }
}

/// Counts everything anew from `room.state`.
pub(crate) fn recount(room: &mut RoomSnapshot, server: &ServerName) {
    let (mut joined, mut invited) = (0, 0);
    let mut local = Vec::new();
    let mut servers: imbl::OrdMap<OwnedServerName, u64> = imbl::OrdMap::new();
    for event in room.state_of_kind("m.room.member") {
        let Some(user) = event.pdu.state_user() else {
            continue;
        };
        match event.pdu.membership().as_deref() {
            Some("join") => {
                joined += 1;
                *servers.entry(user.server_name().to_owned()).or_default() += 1;
                if user.server_name() == server {
                    local.push(user.to_owned());
                }
            }
            Some("invite") => invited += 1,
            _ => {}
        }
    }
    local.sort();
    room.local_joined = local.into();
    room.joined_servers = servers.keys().cloned().collect();
    room.server_members = servers;
    room.joined_count = joined;
    room.invited_count = invited;
}

/// The sorted list with `item` in it.
pub(crate) fn with<T, B>(list: &Arc<[T]>, item: &B) -> Arc<[T]>
where
    T: Ord + Clone + std::borrow::Borrow<B>,
    B: Ord + ToOwned<Owned = T> + ?Sized,
{
    match list.binary_search_by(|other| other.borrow().cmp(item)) {
        Ok(_) => list.clone(),
        Err(at) => list[..at]
            .iter()
            .cloned()
            .chain([item.to_owned()])
            .chain(list[at..].iter().cloned())
            .collect(),
    }
}

/// The sorted list without `item`.
pub(crate) fn without<T, B>(list: &Arc<[T]>, item: &B) -> Arc<[T]>
where
    T: Ord + Clone + std::borrow::Borrow<B>,
    B: Ord + ?Sized,
{
    match list.binary_search_by(|other| other.borrow().cmp(item)) {
        Err(_) => list.clone(),
        Ok(at) => list[..at].iter().chain(&list[at + 1..]).cloned().collect(),
    }
}
