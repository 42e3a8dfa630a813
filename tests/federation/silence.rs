//! Back-off: nobody says a word after an outage, and still everything arrives.

use std::time::Duration;

use super::{
    VERSION,
    scenarios::{converse, eventually_within, shared_room, texts},
    town,
};
use crate::common::db::Backend;

/// Longer than the first pause after a failure, which is a minute.
const PATIENCE: Duration = Duration::from_secs(110);

/// The sender comes back to the other server by itself once the pause is over.
#[tokio::test]
async fn a_pause_ends_by_itself() {
    let (town, _authority) = town(Backend::Sqlite, VERSION).await;
    let (alice, bob, room) = shared_room(&town).await;
    town.there.kill();
    let mut said = Vec::new();
    for number in 0..30 {
        let body = format!("{number}");
        alice.send_text(&room, &body).await;
        said.push(body);
    }
    town.there.restart().await;
    eventually_within(PATIENCE, "everything after the pause", async || {
        let found = texts(&bob, &room).await;
        if found == said {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await;
    converse(&room, &[&alice, &bob]).await;
}
