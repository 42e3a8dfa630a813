//! Ports for the servers of the tests.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// The lowest port that is given out.
const LOWEST: u16 = 10_000;
/// Where the ports for outgoing connections begin, unless the system says otherwise.
const EPHEMERAL: u16 = 32_768;

/// A port of 127.0.0.1 that is one test's until this value is dropped, also while no server listens on it.
///
/// It lies below the ports for outgoing connections: those may take one that is free for a moment, and who connects
/// to such a port while nobody listens may even meet itself.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// The same number with UDP, which the tests use for nothing else, keeps other processes of the tests away.
    _claim: UdpSocket,
}

impl Port {
    pub fn claim() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let range = u32::from(ephemeral_begin() - LOWEST);
        // Processes begin at different places, so that few of them ask for the same port.
        let begin = process::id().wrapping_mul(97);
        let found = (0..range).find_map(|_| {
            let offset = begin.wrapping_add(COUNTER.fetch_add(1, Ordering::Relaxed)) % range;
            let number = LOWEST + u16::try_from(offset).expect("a remainder of a difference of ports");
            let claim = UdpSocket::bind(("127.0.0.1", number)).ok()?;
            let free = TcpListener::bind(("127.0.0.1", number)).is_ok();
            free.then_some(Self { number, _claim: claim })
        });
        found.expect("this machine has a free port")
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}

fn ephemeral_begin() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let begin = range.split_whitespace().next().and_then(|begin| begin.parse().ok());
    begin.filter(|begin| *begin > LOWEST + 1_000).unwrap_or(EPHEMERAL)
}
