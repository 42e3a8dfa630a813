//! SIGTERM under load, another process on the same database, lost connections.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use super::{
    checks::{Watch, check, settle},
    load::{Cast, Kind, Ledger, drive},
    unanswered::nothing_took_effect,
};
use crate::common::{
    client::{AnswerExt, User, encode},
    db::Backend,
    server::TestServer,
};

both_databases! {
    async fn a_stop_under_load_loses_nothing(server) {
        let cast = Cast::gather(server).await;
        let mut watch = Watch::open(&cast).await;
        let (stop, mut ledger) = (Arc::new(AtomicBool::new(false)), Ledger::new());
        let (written, (), ()) = tokio::join!(
            drive(&cast, 0, &stop),
            watch.follow(&stop),
            async {
                tokio::time::sleep(Duration::from_millis(1_500)).await;
                assert!(server.stop().await.success());
                stop.store(true, Ordering::Relaxed);
            },
        );
        server.restart().await;
        nothing_took_effect(&cast, &written).await;
        settle(&cast, &mut ledger, written).await;
        watch.catch_up(&cast).await;
        check(&cast, &ledger, &watch).await;
    }

    async fn a_second_process_takes_over(server) {
        let cast = Cast::gather(server).await;
        let mut watch = Watch::open(&cast).await;
        let (stop, mut ledger) = (Arc::new(AtomicBool::new(false)), Ledger::new());
        let (written, rival) = tokio::join!(drive(&cast, 0, &stop), async {
            tokio::time::sleep(Duration::from_millis(800)).await;
            server.rival().await
        });
        // Every writer has met a 503 by itself. So does everybody else, for good.
        let private = format!("user/{}/account_data/org.example.late", encode(&cast.alice.user_id));
        let hall = encode(&cast.hall);
        for _ in 0..3 {
            for (user, path) in [
                (&cast.alice, private.clone()),
                (&cast.alice, format!("rooms/{hall}/send/m.room.message/late")),
                (&cast.carol, format!("rooms/{hall}/typing/{}", encode(&cast.carol.user_id))),
            ] {
                let body = json!({ "typing": true, "timeout": 1_000, "msgtype": "m.text", "body": "late" });
                let answer = user.client.request("PUT", &path, Some(&user.token), Some(&body)).await;
                assert_eq!(answer.0, 503, "{path}: {}", answer.1);
            }
            assert_eq!(cast.alice.get("sync").await.0, 503);
            assert_eq!(server.client.get("/_synapse/admin/v1/ready").await.0, 503);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        rival.client.get("/_synapse/admin/v1/ready").await.ok();
        drop(rival);
        server.kill();
        server.restart().await;
        cast.alice.get(&private).await.refused(404, "M_NOT_FOUND");
        settle(&cast, &mut ledger, written).await;
        watch.catch_up(&cast).await;
        check(&cast, &ledger, &watch).await;
    }
}

/// Every request is repeated until it is answered; the server is never started again.
async fn insist(cast: &Arc<Cast>, stop: &Arc<AtomicBool>) -> Ledger {
    let mut ledger = Ledger::new();
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let written = drive(cast, round, stop).await;
        settle(cast, &mut ledger, written).await;
        round += 1;
    }
    ledger
}

#[tokio::test]
async fn lost_connections_lose_nothing() {
    let server = TestServer::start(Backend::Postgres, |_| {}).await;
    let cast = Cast::gather(&server).await;
    let mut watch = Watch::open(&cast).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (ledger, cut) = tokio::join!(insist(&cast, &stop), async {
        let mut cut = 0;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            cut += server.cut_connections();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        stop.store(true, Ordering::Relaxed);
        cut
    });
    assert!(cut > 5, "connections were cut");
    assert!(ledger.contains_key(&Kind::Message));
    watch.catch_up(&cast).await;
    check(&cast, &ledger, &watch).await;
    let late = User::login(&server.client, "alice").await;
    late.get("account/whoami").await.ok();
}
