//! Who is shown as present of another server's users, and for how long.

use ruma::user_id;

use super::*;
use crate::clock::Clock;
use crate::flows::ingest::testing::{Remote, alice};
use crate::peer::testing::with_world;
use crate::session::account::Registration;

#[test]
fn users_of_a_server_that_fell_silent_are_offline() {
    with_world(&Clock::system(), |world| async move {
        let hub = world.hub().await;
        let new = Registration {
            password_hash: None,
            guest: false,
            admin: false,
            displayname: None,
            device: None,
        };
        hub.sessions().register(&alice(), new).await.expect("a new user");
        Remote::enter(&hub, &world.wire, "11").await;
        let (env, yves) = (hub.env(), user_id!("@yves:y"));
        let (now, at) = (env.clock.now_ms(), async || {
            let rows = env.store.presence_of(&[yves.as_str()]).await.expect("readable");
            rows.into_iter().next().map(|row| (row.state, row.pos))
        });
        let update = |last_active| Update {
            user: yves.to_owned(),
            state: PresenceState::Online,
            message: None,
            last_active,
        };
        take(env, vec![update(now)]).await.expect("taken");
        let online = at().await.expect("stored");
        assert_eq!(online.0, "online");
        expire(env, now + SILENT_AFTER - 1).await.expect("looked");
        assert_eq!(at().await.expect("stored"), online);
        // Whoever was there when the process began gets its time as well.
        env.presence.remote.clear();
        for row in env.store.presence_alive().await.expect("readable") {
            adopt(env, &row, now + 1_000);
        }
        expire(env, now + SILENT_AFTER).await.expect("looked");
        assert_eq!(at().await.expect("stored"), online);
        expire(env, now + SILENT_AFTER + 1_000).await.expect("looked");
        let offline = at().await.expect("stored");
        assert!(offline.0 == "offline" && offline.1 > online.1);
        assert!(env.presence.remote.is_empty());
    });
}
