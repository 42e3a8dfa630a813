//! Which addresses may be connected to. Asked with the very address that is about to be connected to, so that no name, and
//! no redirect, leads past it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

/// Ranges never to be connected to; none by default.
#[derive(Clone, Debug, Default)]
pub struct Guard(Arc<[IpNet]>);

impl Guard {
    /// Keeps everybody out of these ranges.
    #[must_use]
    pub fn new(blocked: &[IpNet]) -> Self {
        Self(blocked.into())
    }

    /// Whether the address is in none of the ranges, neither itself nor as the IPv4 address that it stands for.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        let stands_for = match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => embedded(address).map(IpAddr::V4),
        };
        let blocked = |address: IpAddr| self.0.iter().any(|range| range.contains(&address));
        !blocked(address) && !stands_for.is_some_and(blocked)
    }
}

/// The IPv4 address behind an IPv6 one: mapped (`::ffff:a.b.c.d`), compatible (`::a.b.c.d`), translated (64:ff9b::/96,
/// RFC 6052) or tunnelled (2002::/16, RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        // These two are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(ranges: &[&str]) -> Guard {
        let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().expect("a range")).collect();
        Guard::new(&ranges)
    }

    #[test]
    fn blocked_addresses_are_blocked_in_all_their_clothes() {
        let guard = guard(&["127.0.0.0/8", "10.0.0.0/8", "::1/128", "fe80::/10"]);
        for address in [
            "127.0.0.1",
            "10.255.0.1",
            "::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::1",
            "2002:a01:203::",
        ] {
            assert!(!guard.allows(address.parse().expect("an address")), "{address}");
        }
        for address in [
            "1.1.1.1",
            "11.0.0.1",
            "::ffff:1.1.1.1",
            "2606:4700::1111",
            "64:ff9b::1.1.1.1",
            "::",
        ] {
            assert!(guard.allows(address.parse().expect("an address")), "{address}");
        }
    }

    #[test]
    fn an_empty_list_blocks_nothing() {
        for address in ["127.0.0.1", "::1", "::ffff:10.0.0.1", "0.0.0.0"] {
            assert!(
                Guard::default().allows(address.parse().expect("an address")),
                "{address}"
            );
        }
    }
}
