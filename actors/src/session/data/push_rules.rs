//! Push rules (client-server API, "Push Rules"): the whole ruleset is account data of type `m.push_rules`.

use std::sync::Arc;

use ruma::push::{Action, InsertPushRuleError, NewPushRule, RemovePushRuleError, RuleKind, Ruleset};
use serde_json::{Value, json};

use super::account_data::{PUSH_RULES, stored};
use super::commit;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::session::view::UserView;

/// Rules of one user.
const MAX_RULES: usize = 2_000;
/// Bytes of a rule's id.
const MAX_RULE_ID: usize = 255;

/// What can be done to the rules.
#[derive(Clone, Debug)]
pub enum PushRuleChange {
    /// Adds a rule or changes it.
    Insert {
        /// The rule.
        rule: NewPushRule,
        /// The rule that comes before it.
        after: Option<String>,
        /// The rule that comes after it.
        before: Option<String>,
    },
    /// Removes a rule of the user's.
    Remove {
        /// Its kind.
        kind: RuleKind,
        /// Its id.
        rule_id: String,
    },
    /// Switches a rule on or off.
    Enable {
        /// Its kind.
        kind: RuleKind,
        /// Its id.
        rule_id: String,
        /// On.
        enabled: bool,
    },
    /// Sets what a rule does.
    Act {
        /// Its kind.
        kind: RuleKind,
        /// Its id.
        rule_id: String,
        /// What it does.
        actions: Vec<Action>,
    },
}

/// The content of `m.push_rules`, with a list for every kind also where it is empty.
#[must_use]
pub fn ruleset_content(rules: &Ruleset) -> Value {
    let mut global = serde_json::to_value(rules).unwrap_or_default();
    if let Some(global) = global.as_object_mut() {
        for kind in ["override", "content", "room", "sender", "underride"] {
            global.entry(kind).or_insert_with(|| json!([]));
        }
    }
    json!({ "global": global })
}

/// Carries out a change.
pub(super) async fn apply(env: &Env, view: &UserView, change: PushRuleChange) -> Outcome<Option<UserView>> {
    let mut rules = (*view.push_rules).clone();
    change_rules(&mut rules, change)?;
    let text = ruleset_content(&rules).to_string();
    let changed = UserView {
        push_rules: Arc::new(rules),
        ..view.clone()
    };
    let old = stored(env, view, None, PUSH_RULES).await?;
    commit(env, view, (None, PUSH_RULES), old.as_deref(), text, Some(&changed)).await?;
    env.unread.forget(&view.user_id);
    Ok(Some(changed))
}

fn change_rules(rules: &mut Ruleset, change: PushRuleChange) -> Outcome<()> {
    let unknown = |_| DomainError::not_found("The push rule was not found.");
    match change {
        PushRuleChange::Insert { rule, after, before } => {
            if rule.rule_id().is_empty() || rule.rule_id().len() > MAX_RULE_ID {
                return Err(DomainError::invalid_param("a rule's id has 1 to 255 bytes"));
            }
            let new = rules.get(rule.kind(), rule.rule_id()).is_none();
            if new && rules.iter().count() >= MAX_RULES {
                return Err(DomainError::too_large("there are too many push rules"));
            }
            rules
                .insert(rule, after.as_deref(), before.as_deref())
                .map_err(|error| refusal(&error))
        }
        PushRuleChange::Remove { kind, rule_id } => rules.remove(kind, rule_id).map_err(|error| match error {
            RemovePushRuleError::ServerDefault => DomainError::invalid_param(error.to_string()),
            _ => DomainError::not_found("The push rule was not found."),
        }),
        PushRuleChange::Enable { kind, rule_id, enabled } => rules.set_enabled(kind, rule_id, enabled).map_err(unknown),
        PushRuleChange::Act { kind, rule_id, actions } => rules.set_actions(kind, rule_id, actions).map_err(unknown),
    }
}

fn refusal(error: &InsertPushRuleError) -> DomainError {
    match error {
        InsertPushRuleError::UnknownRuleId => DomainError::unknown("before/after rule not found"),
        InsertPushRuleError::BeforeHigherThanAfter => DomainError::unknown(error.to_string()),
        _ => DomainError::invalid_param(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma::push::{NewPatternedPushRule, NewSimplePushRule};
    use ruma::{room_id, user_id};

    fn content(id: &str) -> NewPushRule {
        NewPushRule::Content(NewPatternedPushRule::new(
            id.to_owned(),
            "cake".to_owned(),
            vec![Action::Notify],
        ))
    }

    fn insert(rules: &mut Ruleset, id: &str, after: Option<&str>, before: Option<&str>) -> Outcome<()> {
        let change = PushRuleChange::Insert {
            rule: content(id),
            after: after.map(str::to_owned),
            before: before.map(str::to_owned),
        };
        change_rules(rules, change)
    }

    fn order(rules: &Ruleset) -> Vec<&str> {
        let own = rules.content.iter().filter(|rule| !rule.default);
        own.map(|rule| rule.rule_id.as_str()).collect()
    }

    fn defaults() -> Ruleset {
        Ruleset::server_default(user_id!("@a:x"))
    }

    #[test]
    fn new_rules_come_first_or_where_they_are_wanted() {
        let mut rules = defaults();
        insert(&mut rules, "a", None, None).expect("valid");
        insert(&mut rules, "b", None, None).expect("valid");
        assert_eq!(order(&rules), ["b", "a"]);
        insert(&mut rules, "c", Some("b"), None).expect("valid");
        assert_eq!(order(&rules), ["b", "c", "a"]);
        insert(&mut rules, "d", None, Some("a")).expect("valid");
        assert_eq!(order(&rules), ["b", "c", "d", "a"]);
        insert(&mut rules, "a", None, Some("b")).expect("a rule that is there moves");
        assert_eq!(order(&rules), ["a", "b", "c", "d"]);
        insert(&mut rules, "c", None, None).expect("changed in its place");
        assert_eq!(order(&rules), ["a", "b", "c", "d"]);
    }

    #[test]
    fn the_master_rule_stays_on_top() {
        let mut rules = defaults();
        let rule = ruma::push::NewConditionalPushRule::new("mine".to_owned(), vec![], vec![]);
        let change = PushRuleChange::Insert {
            rule: NewPushRule::Override(rule),
            after: None,
            before: None,
        };
        change_rules(&mut rules, change).expect("valid");
        let ids: Vec<_> = rules.override_.iter().map(|rule| rule.rule_id.as_str()).collect();
        assert_eq!(ids[..2], [".m.rule.master", "mine"]);
    }

    #[test]
    fn impossible_rules_are_refused() {
        let mut rules = defaults();
        let code = |outcome: Outcome<()>| outcome.expect_err("refused").errcode().map(str::to_owned);
        assert_eq!(
            code(insert(&mut rules, ".own", None, None)).as_deref(),
            Some("M_INVALID_PARAM")
        );
        assert_eq!(
            code(insert(&mut rules, "a/b", None, None)).as_deref(),
            Some("M_INVALID_PARAM")
        );
        assert_eq!(
            code(insert(&mut rules, "a", Some("none"), None)).as_deref(),
            Some("M_UNKNOWN")
        );
        assert_eq!(
            code(insert(&mut rules, "", None, None)).as_deref(),
            Some("M_INVALID_PARAM")
        );
        let remove = |rule_id: &str| PushRuleChange::Remove {
            kind: RuleKind::Override,
            rule_id: rule_id.to_owned(),
        };
        let refused = change_rules(&mut rules, remove(".m.rule.master"));
        assert_eq!(code(refused).as_deref(), Some("M_INVALID_PARAM"));
        assert_eq!(
            code(change_rules(&mut rules, remove("none"))).as_deref(),
            Some("M_NOT_FOUND")
        );
    }

    #[test]
    fn default_rules_can_be_silenced_and_survive_the_round_trip() {
        let mut rules = defaults();
        let enable = PushRuleChange::Enable {
            kind: RuleKind::Override,
            rule_id: ".m.rule.master".to_owned(),
            enabled: true,
        };
        change_rules(&mut rules, enable).expect("it is there");
        let act = PushRuleChange::Act {
            kind: RuleKind::Underride,
            rule_id: ".m.rule.message".to_owned(),
            actions: vec![],
        };
        change_rules(&mut rules, act).expect("it is there");
        let room = NewPushRule::Room(NewSimplePushRule::new(room_id!("!r:x").to_owned(), vec![]));
        let change = PushRuleChange::Insert {
            rule: room,
            after: None,
            before: None,
        };
        change_rules(&mut rules, change).expect("valid");
        let text = ruleset_content(&rules).to_string();
        let loaded = crate::session::load::push_rules(user_id!("@a:x"), Some(&text));
        assert_eq!(ruleset_content(&loaded), ruleset_content(&rules));
        assert!(loaded.override_[0].enabled);
        assert_eq!(ruleset_content(&loaded)["global"]["sender"], json!([]));
    }
}
