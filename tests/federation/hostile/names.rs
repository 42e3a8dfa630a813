//! Server names that lead to places where no other server is.

use std::{
    io::Read as _,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    common::{
        authority::Authority,
        client::{AnswerExt, User, encode},
        db::Backend,
        homeserver::{Homeserver, Ours},
        port::Port,
    },
    federation::scenarios::join_via,
};

/// Counts who comes, and hangs up.
fn trap(port: &Port) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(("127.0.0.1", port.number())).expect("the port was free");
    let visits = Arc::new(AtomicUsize::new(0));
    let counter = visits.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::SeqCst);
            drop(stream.take(1).read(&mut [0]));
        }
    });
    visits
}

/// With the default list of addresses nobody makes the server connect to the machine it runs on.
async fn addresses_of_the_inside_are_not_reached(backend: Backend) {
    let authority = Authority::create();
    let server = Ours::start_guarded(backend, &authority, "localhost").await;
    let alice = User::register(server.client(), "alice").await;
    let port = Port::claim();
    let visits = trap(&port);
    let number = port.number();
    let hosts = [
        "localhost",
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "127.1",
        "LOCALHOST",
        "localhost.",
    ];
    for host in hosts {
        let name = format!("{host}:{number}");
        let begin = Instant::now();
        let (status, answer) = join_via(&alice, "!room:elsewhere.test", &[&name]).await;
        assert!(
            status >= 400 && answer["errcode"].is_string(),
            "{name}: {status} {answer}"
        );
        let (status, answer) = alice.get(&format!("profile/{}", encode(&format!("@x:{name}")))).await;
        assert!(
            status >= 400 && answer["errcode"].is_string(),
            "{name}: {status} {answer}"
        );
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "{name} took {:?}",
            begin.elapsed()
        );
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0, "somebody was sent to the trap");
    // A media link and an alias are names as well.
    for path in [
        format!("/_matrix/client/v1/media/download/127.0.0.1:{number}/x"),
        format!("directory/room/{}", encode(&format!("#x:127.0.0.1:{number}"))),
        format!("publicRooms?server={}", encode(&format!("127.0.0.1:{number}"))),
    ] {
        let (status, answer) = alice.get(&path).await;
        assert!(status >= 400, "{path}: {status} {answer}");
    }
    let keys = json!({ "device_keys": { format!("@x:127.0.0.1:{number}"): [] } });
    let answer = alice.post("keys/query", keys).await.ok();
    assert!(
        answer["failures"]
            .as_object()
            .is_some_and(|failures| failures.len() == 1),
        "{answer}"
    );
    assert_eq!(visits.load(Ordering::SeqCst), 0, "somebody was sent to the trap");
    server.client().get("/health").await.ok();
}

crate::federation::both_backends! {
    addresses_of_the_inside_are_not_reached
}
