//! Which invites a user takes: the switch of the specification ("Invite permission"), and lists by user and server (MSC4155).

use ruma::UserId;
use serde::Deserialize;

use crate::env::Env;
use crate::error::Outcome;
use crate::room::acl::matches;

/// Account data with the switch.
const SWITCH: &str = "m.invite_permission_config";
/// Account data with the lists.
const LISTS: &str = "org.matrix.msc4155.invite_permission_config";

/// What becomes of an invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The user is told.
    Allow,
    /// It is taken, and the user is not told.
    Ignore,
    /// It is refused.
    Block,
}

/// One user's wishes.
#[derive(Clone, Debug, Default)]
pub struct InviteFilter {
    nobody: bool,
    lists: Lists,
}

/// Patterns; nothing counts where one of the lists is none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Lists {
    enabled: Option<bool>,
    allowed_users: Vec<String>,
    ignored_users: Vec<String>,
    blocked_users: Vec<String>,
    allowed_servers: Vec<String>,
    ignored_servers: Vec<String>,
    blocked_servers: Vec<String>,
}

impl InviteFilter {
    /// As a local user has it now.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn of(env: &Env, user: &UserId) -> Outcome<Self> {
        let stored = async |kind| env.store.account_data_one(user.as_str(), "", kind).await;
        let (switch, lists) = (stored(SWITCH).await?, stored(LISTS).await?);
        Ok(Self::parse(
            switch.as_ref().map(|row| row.content.as_str()),
            lists.as_ref().map(|row| row.content.as_str()),
        ))
    }

    fn parse(switch: Option<&str>, lists: Option<&str>) -> Self {
        #[derive(Deserialize)]
        struct Switch {
            default_action: Option<String>,
        }
        let switch = switch.and_then(|text| serde_json::from_str::<Switch>(text).ok());
        let lists = lists.and_then(|text| serde_json::from_str(text).ok());
        Self {
            nobody: switch.and_then(|switch| switch.default_action).as_deref() == Some("block"),
            lists: lists.unwrap_or_default(),
        }
    }

    /// Whether nobody may invite the user.
    #[must_use]
    pub fn blocks_all(&self) -> bool {
        self.nobody
    }

    /// What becomes of an invite by somebody.
    #[must_use]
    pub fn judge(&self, inviter: &UserId) -> Verdict {
        if self.nobody {
            return Verdict::Block;
        }
        let lists = &self.lists;
        if lists.enabled == Some(false) {
            return Verdict::Allow;
        }
        let (user, server) = (inviter.as_str(), inviter.server_name().host());
        let in_order = [
            (&lists.allowed_users, user, Verdict::Allow),
            (&lists.ignored_users, user, Verdict::Ignore),
            (&lists.blocked_users, user, Verdict::Block),
            (&lists.allowed_servers, server, Verdict::Allow),
            (&lists.ignored_servers, server, Verdict::Ignore),
            (&lists.blocked_servers, server, Verdict::Block),
        ];
        let named = |list: &[String], name: &str| list.iter().any(|glob| matches(glob.as_bytes(), name.as_bytes()));
        let found = in_order.into_iter().find(|(list, name, _)| named(list, name));
        found.map_or(Verdict::Allow, |(_, _, verdict)| verdict)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn verdict(lists: &Value, inviter: &str) -> Verdict {
        let filter = InviteFilter::parse(None, Some(&lists.to_string()));
        filter.judge(<&UserId>::try_from(inviter).expect("a user id"))
    }

    #[test]
    fn users_come_before_servers_and_what_allows_first() {
        let lists = json!({
            "allowed_users": ["@good:bad.org"],
            "ignored_users": ["@spam*:*"],
            "allowed_servers": ["good.org"],
            "ignored_servers": ["dull.org"],
            "blocked_servers": ["*"],
        });
        for (inviter, expected) in [
            ("@good:bad.org", Verdict::Allow),
            ("@other:bad.org", Verdict::Block),
            ("@spammer:good.org", Verdict::Ignore),
            ("@a:good.org:8448", Verdict::Allow),
            ("@a:dull.org", Verdict::Ignore),
        ] {
            assert_eq!(verdict(&lists, inviter), expected, "{inviter}");
        }
    }

    #[test]
    fn what_is_switched_off_or_no_list_does_nothing() {
        let everybody = json!(["*"]);
        for lists in [
            json!({}),
            json!({ "enabled": false, "blocked_servers": everybody }),
            json!({ "blocked_servers": everybody, "ignored_users": "@a:x" }),
            json!({ "blocked_servers": everybody, "ignored_users": [7] }),
        ] {
            assert_eq!(verdict(&lists, "@a:x"), Verdict::Allow, "{lists}");
        }
        let switch = InviteFilter::parse(Some(&json!({ "default_action": "block" }).to_string()), None);
        assert!(switch.blocks_all());
        assert_eq!(
            switch.judge(<&UserId>::try_from("@a:x").expect("a user id")),
            Verdict::Block
        );
    }
}
