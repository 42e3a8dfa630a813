//! The servers in memory.

use std::collections::HashMap;
use std::sync::Arc;

use dashmap::DashMap;
use entities::destination;
use entities::ids::RoomNid;
use ruma::{OwnedServerName, ServerName};

use super::outbox::Changes;
use super::view::PeerView;
use crate::clock::Millis;
use crate::env::Env;
use crate::error::Outcome;

/// All servers that this process has to do with.
#[derive(Default)]
pub struct Views {
    by_name: DashMap<OwnedServerName, Arc<PeerView>>,
}

impl Views {
    /// The server, if it is in memory.
    #[must_use]
    pub fn get(&self, server: &ServerName) -> Option<Arc<PeerView>> {
        self.by_name.get(server).map(|view| Arc::clone(&view))
    }

    pub(super) fn get_or_new(&self, server: &ServerName) -> Arc<PeerView> {
        self.get(server).unwrap_or_else(|| {
            let new = || Arc::new(PeerView::new(server.to_owned()));
            Arc::clone(&self.by_name.entry(server.to_owned()).or_insert_with(new))
        })
    }

    /// The servers with what is stored about them, in the same order. Those not in memory are read together.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn open<S: AsRef<ServerName>>(&self, env: &Env, servers: &[S]) -> Outcome<Vec<Arc<PeerView>>> {
        let views: Vec<_> = servers.iter().map(|server| self.get_or_new(server.as_ref())).collect();
        let missing: Vec<&Arc<PeerView>> = views.iter().filter(|view| !view.is_loaded()).collect();
        if !missing.is_empty() {
            let names: Vec<&str> = missing.iter().map(|view| view.server().as_str()).collect();
            let upto = env.visible().0;
            let rows = env.store.destinations(&names).await?;
            let mut rows: HashMap<_, _> = rows.into_iter().map(|row| (row.server_name.clone(), row)).collect();
            let mut owed: HashMap<String, Vec<_>> = HashMap::new();
            for row in env.store.destination_rooms(&names).await? {
                owed.entry(row.server_name.clone()).or_default().push(row);
            }
            for view in missing {
                let name = view.server().as_str();
                view.load(rows.remove(name), owed.remove(name).unwrap_or_default(), upto);
            }
        }
        Ok(views)
    }

    /// Every server in memory.
    pub fn all(&self) -> Vec<Arc<PeerView>> {
        self.by_name.iter().map(|view| Arc::clone(&view)).collect()
    }

    /// What could not be written must be written again.
    pub(super) fn keep_changes(&self, rows: &[destination::Model], changes: &Changes) {
        let named = |server: &str| self.get(<&ServerName>::try_from(server).ok()?);
        for row in rows {
            named(&row.server_name).inspect(|view| view.keep_row());
        }
        let owed = changes.owed.iter().map(|row| (row.server_name.as_str(), row.room_nid));
        let paid = changes.paid.iter().map(|(server, room)| (server.as_str(), *room));
        for (server, room) in owed.chain(paid) {
            named(server).inspect(|view| view.keep_change(RoomNid(room)));
        }
    }

    /// Forgets those that nobody had to do with since `before`.
    pub(super) fn sweep(&self, before: Millis) {
        // A second holder may be about to use it.
        self.by_name
            .retain(|_, view| Arc::strong_count(view) > 1 || !view.is_idle(before));
    }
}
