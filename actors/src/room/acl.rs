//! Which servers may take part in a room (client-server API, "Server Access Control Lists").
//!
//! Applied to servers when they make requests and to each PDU and room EDU they send; events are not judged by it.

use ruma::ServerName;
use serde_json::{Map, Value};

use super::snapshot::RoomSnapshot;

/// Whether the room's current `m.room.server_acl` lets the server take part. Without one every server may.
#[must_use]
pub fn allows(room: &RoomSnapshot, server: &ServerName) -> bool {
    Acl::of(room).is_none_or(|acl| acl.allows(server))
}

/// A room's access control list, read once for several servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    ip_literals: bool,
    /// Lower case.
    allow: Vec<String>,
    /// Lower case.
    deny: Vec<String>,
}

impl Acl {
    /// The room's current list, if it has one.
    #[must_use]
    pub fn of(room: &RoomSnapshot) -> Option<Self> {
        let event = room.state_event("m.room.server_acl", "")?;
        let content: Map<String, Value> = event.pdu.content_as().unwrap_or_default();
        Some(Self::from_content(&content))
    }

    /// What is missing or of another type counts as its default: no servers, and IP literals are not refused as such.
    fn from_content(content: &Map<String, Value>) -> Self {
        let list = |name: &str| {
            let items = content.get(name).and_then(Value::as_array);
            let texts = items.into_iter().flatten().filter_map(Value::as_str);
            texts.map(str::to_ascii_lowercase).collect()
        };
        Self {
            ip_literals: content.get("allow_ip_literals") != Some(&Value::Bool(false)),
            allow: list("allow"),
            deny: list("deny"),
        }
    }

    /// Whether the server may take part; its port does not matter.
    #[must_use]
    pub fn allows(&self, server: &ServerName) -> bool {
        if server.is_ip_literal() && !self.ip_literals {
            return false;
        }
        let host = server.host().to_ascii_lowercase();
        let named = |list: &[String]| list.iter().any(|pattern| matches(pattern.as_bytes(), host.as_bytes()));
        !named(&self.deny) && named(&self.allow)
    }
}

/// Glob-style matching (appendices): `*` stands for anything, `?` for one character. Takes at most the product of both
/// lengths in steps.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last `*`, and up to where it reaches so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((behind, reached)) => {
                    star = Some((behind, reached + 1));
                    (p, t) = (behind, reached + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn allowed(content: &Value, server: &str) -> bool {
        let content = content.as_object().expect("an object");
        Acl::from_content(content).allows(<&ServerName>::try_from(server).expect("a server name"))
    }

    #[test]
    fn the_order_of_the_specification() {
        let acl = json!({ "allow": ["*"], "deny": ["*.evil.com", "evil.com", "1.2.3.?"], "allow_ip_literals": true });
        for (server, expected) in [
            ("good.com", true),
            ("evil.com", false),
            ("EVIL.com:8448", false),
            ("a.b.evil.com:1", false),
            ("notevil.com", true),
            ("1.2.3.4:8448", false),
            ("1.2.3.44", true),
            ("[::1]:8448", true),
        ] {
            assert_eq!(allowed(&acl, server), expected, "{server}");
        }
        let acl = json!({ "allow": ["*"], "allow_ip_literals": false });
        for (server, expected) in [("x.y", true), ("1.2.3.4", false), ("[::1]", false), ("[::1]:1", false)] {
            assert_eq!(allowed(&acl, server), expected, "{server}");
        }
    }

    #[test]
    fn nobody_is_allowed_who_is_not_named() {
        for acl in [json!({}), json!({ "allow": "*" }), json!({ "allow": [7], "deny": [] })] {
            assert!(!allowed(&acl, "x.y"), "{acl}");
        }
        assert!(allowed(&json!({ "allow": ["X.*", 7], "deny": "x.y" }), "x.y"));
        assert!(allowed(
            &json!({ "allow": ["*"], "allow_ip_literals": "no" }),
            "1.2.3.4"
        ));
    }

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**", "abc", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbb", false),
            ("a*b*c", "a1b2b3c", true),
            ("?", "", false),
            ("a?c", "abc", true),
            ("*a", "bab", false),
            ("*ab", "aab", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
    }
}
