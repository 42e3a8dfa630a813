//! The process dies at a named point while everything is written; a restart must not lose, double or half do anything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    checks::{Watch, check, settle},
    load::{Cast, Ledger, drive},
};
use crate::common::server::TestServer;

/// How long the writers may take to reach the point.
const PATIENCE: Duration = Duration::from_secs(60);

/// Dies at each of the counted passes, one after the other on the same data.
async fn survives(server: &TestServer, point: &str, counts: &[u32]) {
    let cast = Cast::gather(server).await;
    let mut ledger = Ledger::new();
    let mut watch = Watch::open(&cast).await;
    for (round, count) in counts.iter().enumerate() {
        server.kill();
        let armed = format!("{point}:{count}");
        server.restart_with(&[("SYNAPSE_RUST_FAILPOINT", &armed)]).await;
        let stop = Arc::new(AtomicBool::new(false));
        let (written, ended, ()) = tokio::join!(
            drive(&cast, round, &stop),
            async {
                let ended = server.ended(PATIENCE).await;
                stop.store(true, Ordering::Relaxed);
                ended
            },
            watch.follow(&stop),
        );
        assert!(ended, "{armed} was not reached");
        server.restart().await;
        settle(&cast, &mut ledger, written).await;
        watch.catch_up(&cast).await;
        check(&cast, &ledger, &watch).await;
    }
    let acknowledged: usize = ledger.values().map(Vec::len).sum();
    let repeated = ledger.values().flatten().filter(|write| write.repeated).count();
    println!(
        "{point}: {} deaths, {acknowledged} writes, {repeated} of them repeated",
        counts.len()
    );
}

both_databases! {
    async fn before_a_commit(server) {
        survives(server, "journal.before_commit", &[4, 40, 150]).await;
    }

    async fn after_a_commit_nobody_heard_of(server) {
        survives(server, "journal.after_commit", &[3, 35, 140]).await;
    }

    async fn after_a_publication_before_replies(server) {
        survives(server, "journal.after_publish", &[5, 45, 130]).await;
    }

    async fn before_a_users_actor_writes(server) {
        survives(server, "session.before_write", &[3, 30, 100]).await;
    }

    async fn after_a_users_actor_wrote(server) {
        survives(server, "session.after_write", &[6, 33, 110]).await;
    }

    async fn before_a_room_is_written(server) {
        survives(server, "room.before_submit", &[2, 25, 90]).await;
    }
}
