//! A room with many servers.

use std::collections::BTreeSet;

use serde_json::json;

use super::testing::{Hand, answer, change, ok, room_with, say, unreachable, until, with_world};
use crate::clock::Clock;

const SERVERS: usize = 250;

#[test]
fn one_event_reaches_hundreds_of_servers_whether_they_answer_or_not() {
    let hand = Hand::default();
    with_world(&Clock::from_source(hand.clone()), move |world| {
        let hand = hand.clone();
        async move {
            let hub = world.hub().await;
            let room = room_with(&hub, &[]).await;
            for n in 0..SERVERS {
                change(&hub, &room, &format!("@u:s{n}.example"), "join").await;
            }
            // The odd ones are down.
            let is_down = |server: &str| server.ends_with("1.example") || server.ends_with("3.example");
            world.wire.script(move |heard| match is_down(heard.server.as_str()) {
                true => answer(unreachable()),
                false => answer(ok(&json!({ "pdus": {} }))),
            });
            say(&hub, &room, "one").await;
            let names: Vec<String> = (0..SERVERS).map(|n| format!("s{n}.example")).collect();
            let down = names.iter().filter(|name| is_down(name)).count();
            until!("everybody was asked", {
                let heard: BTreeSet<_> = world.wire.heard().into_iter().map(|heard| heard.server).collect();
                (heard.len() == SERVERS).then_some(())
            });
            until!("what the silent ones miss is written down", {
                let rows = hub.env().store.destination_rooms(&names).await.expect("it answers");
                (rows.len() == down).then_some(())
            });
            say(&hub, &room, "two").await;
            until!("the others get the next one", {
                let heard = world.wire.heard();
                (heard.len() == SERVERS + SERVERS - down).then_some(())
            });
            let view = |name: &String| hub.peers().view(name.as_str().try_into().expect("a name"));
            let infos: Vec<_> = names
                .iter()
                .filter_map(view)
                .map(|view| view.info(hub.env().clock.now_ms()))
                .collect();
            assert_eq!(infos.iter().filter(|info| info.state == "paused").count(), down);
            assert_eq!(infos.iter().filter(|info| info.rooms_behind > 0).count(), down);
            world.wire.script(|_| answer(ok(&json!({ "pdus": {} }))));
            hand.advance(2 * 60_000);
            until!("the silent ones are caught up", {
                let rows = hub.env().store.destination_rooms(&names).await.expect("it answers");
                rows.is_empty().then_some(())
            });
            for name in names.iter().filter(|name| is_down(name)) {
                let events = world.wire.events_to(name);
                assert_eq!(events, ["one", "one", "two"], "{name}");
            }
        }
    });
}
