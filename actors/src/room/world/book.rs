//! The authorization rules, written down a second time straight from the specification ("Authorization rules" of each room
//! version), with nothing of what the server uses. Signatures, third-party invites and `m.federate` do not occur here.

use std::collections::HashSet;
use std::sync::Arc;

use ruma::OwnedEventId;
use ruma::room_version_rules::RoomVersionRules;
use serde_json::Value;

use crate::room::event::Pdu;

type Refused = Result<(), String>;
/// Looks up a state event.
pub(super) type State<'a> = dyn Fn(&str, &str) -> Option<Arc<Pdu>> + 'a;

/// Above everything.
const CREATOR: i64 = i64::MAX;

fn content(pdu: &Pdu) -> Value {
    serde_json::from_str(pdu.content.get()).expect("JSON")
}

fn ensure(holds: bool, rule: &str) -> Refused {
    holds.then_some(()).ok_or_else(|| rule.to_owned())
}

struct Room<'a> {
    rules: &'a RoomVersionRules,
    state: &'a State<'a>,
    levels: Option<Value>,
}

impl Room<'_> {
    fn creator(&self) -> Option<String> {
        let create = (self.state)("m.room.create", "")?;
        if self.rules.authorization.use_room_create_sender {
            return Some(create.sender.to_string());
        }
        content(&create)["creator"].as_str().map(str::to_owned)
    }

    fn is_privileged(&self, user: &str) -> bool {
        let auth = &self.rules.authorization;
        let create = (self.state)("m.room.create", "");
        let others = create.filter(|_| auth.additional_room_creators);
        let others = others.map(|create| content(&create)["additional_creators"].clone());
        let is_other = others.is_some_and(|others| others.as_array().is_some_and(|all| all.contains(&user.into())));
        auth.explicitly_privilege_room_creators && (is_other || self.creator().as_deref() == Some(user))
    }

    fn level(&self, user: &str) -> i64 {
        if self.is_privileged(user) {
            return CREATOR;
        }
        match &self.levels {
            None if self.creator().as_deref() == Some(user) => 100,
            None => 0,
            Some(levels) => {
                let own = levels["users"][user].as_i64();
                own.or_else(|| levels["users_default"].as_i64()).unwrap_or(0)
            }
        }
    }

    fn needed(&self, field: &str, default: i64) -> i64 {
        let levels = self.levels.as_ref();
        levels.and_then(|levels| levels[field].as_i64()).unwrap_or(default)
    }

    fn to_send(&self, kind: &str, is_state: bool) -> i64 {
        let own = self.levels.as_ref().and_then(|levels| levels["events"][kind].as_i64());
        own.unwrap_or_else(|| {
            if is_state {
                self.needed("state_default", 50)
            } else {
                self.needed("events_default", 0)
            }
        })
    }

    fn membership(&self, user: &str) -> String {
        let event = (self.state)("m.room.member", user);
        let membership = event.and_then(|event| content(&event)["membership"].as_str().map(str::to_owned));
        membership.unwrap_or_else(|| "leave".to_owned())
    }

    fn join_rule(&self) -> String {
        let event = (self.state)("m.room.join_rules", "");
        let rule = event.and_then(|event| content(&event)["join_rule"].as_str().map(str::to_owned));
        // Without such an event there is none of the rules that let somebody in.
        rule.unwrap_or_default()
    }

    fn join(&self, pdu: &Pdu, user: &str) -> Refused {
        let create = (self.state)("m.room.create", "").ok_or("no create event")?;
        if pdu.prev_events == [create.event_id.clone()] && self.creator().as_deref() == Some(user) {
            return Ok(());
        }
        ensure(pdu.sender == user, "nobody joins for another")?;
        let membership = self.membership(user);
        ensure(membership != "ban", "who is banned does not join")?;
        let welcome = membership == "join" || membership == "invite";
        let auth = &self.rules.authorization;
        match &*self.join_rule() {
            "public" => Ok(()),
            "invite" => ensure(welcome, "not invited"),
            "knock" if auth.knocking => ensure(welcome, "not invited"),
            rule if (rule == "restricted" && auth.restricted_join_rule)
                || (rule == "knock_restricted" && auth.knock_restricted_join_rule) =>
            {
                if welcome {
                    return Ok(());
                }
                let content = content(pdu);
                let via = content["join_authorised_via_users_server"]
                    .as_str()
                    .ok_or("nobody authorised it")?;
                ensure(self.membership(via) == "join", "who authorised it is not in the room")?;
                ensure(
                    self.level(via) >= self.needed("invite", 0),
                    "who authorised it may not invite",
                )
            }
            rule => Err(format!("the join rule is {rule}")),
        }
    }

    fn member(&self, pdu: &Pdu) -> Refused {
        let user = pdu.state_key.as_deref().ok_or("no state key")?;
        let sender = pdu.sender.as_str();
        let content = content(pdu);
        let membership = content["membership"].as_str().ok_or("no membership")?;
        let standing = self.membership(user);
        let is_in = || ensure(self.membership(sender) == "join", "the sender is not in the room");
        let is_above = || ensure(self.level(user) < self.level(sender), "the target stands too high");
        match membership {
            "join" => self.join(pdu, user),
            "invite" => {
                is_in()?;
                ensure(standing != "join" && standing != "ban", "is in the room, or banned")?;
                ensure(self.level(sender) >= self.needed("invite", 0), "may not invite")
            }
            "leave" if user == sender => {
                let knocked = standing == "knock" && self.rules.authorization.knocking;
                ensure(
                    standing == "join" || standing == "invite" || knocked,
                    "there is nothing to leave",
                )
            }
            "leave" => {
                is_in()?;
                ensure(
                    standing != "ban" || self.level(sender) >= self.needed("ban", 50),
                    "may not unban",
                )?;
                ensure(self.level(sender) >= self.needed("kick", 50), "may not kick")?;
                is_above()
            }
            "ban" => {
                is_in()?;
                ensure(self.level(sender) >= self.needed("ban", 50), "may not ban")?;
                is_above()
            }
            "knock" if self.rules.authorization.knocking => {
                let rule = self.join_rule();
                let restricted = rule == "knock_restricted" && self.rules.authorization.knock_restricted_join_rule;
                ensure(rule == "knock" || restricted, "nobody may knock")?;
                ensure(user == sender, "nobody knocks for another")?;
                ensure(!["ban", "invite", "join"].contains(&&*standing), "has no need to knock")
            }
            other => Err(format!("membership {other}")),
        }
    }

    fn power_levels(&self, pdu: &Pdu) -> Refused {
        let new = content(pdu);
        let users = new["users"].as_object().cloned().unwrap_or_default();
        ensure(
            !users.keys().any(|user| self.is_privileged(user)),
            "creators have no level",
        )?;
        let Some(old) = &self.levels else { return Ok(()) };
        let own = self.level(pdu.sender.as_str());
        let within = |old: &Value, new: &Value| {
            let reachable = |value: &Value| value.as_i64().is_none_or(|value| value <= own);
            old == new || (reachable(old) && reachable(new))
        };
        for field in [
            "users_default",
            "events_default",
            "state_default",
            "ban",
            "redact",
            "kick",
            "invite",
        ] {
            ensure(within(&old[field], &new[field]), field)?;
        }
        let mut maps = vec!["events"];
        if self.rules.authorization.limit_notifications_power_levels {
            maps.push("notifications");
        }
        for map in maps {
            for key in keys(&old[map], &new[map]) {
                ensure(within(&old[map][&key], &new[map][&key]), &key)?;
            }
        }
        for user in keys(&old["users"], &new["users"]) {
            let (before, after) = (&old["users"][&user], &new["users"][&user]);
            if before == after {
                continue;
            }
            ensure(after.as_i64().is_none_or(|level| level <= own), "raises too high")?;
            let below = before.as_i64().is_none_or(|level| level < own);
            ensure(below || pdu.sender == user, "lowers an equal")?;
        }
        Ok(())
    }
}

fn keys(a: &Value, b: &Value) -> HashSet<String> {
    let maps = [a, b].into_iter().filter_map(Value::as_object);
    maps.flat_map(|map| map.keys().cloned()).collect()
}

/// Whether a state allows an event.
pub(super) fn allowed(pdu: &Pdu, rules: &RoomVersionRules, state: &State<'_>) -> Refused {
    let kind = pdu.kind.to_string();
    if kind == "m.room.create" {
        return ensure(pdu.prev_events.is_empty(), "a create event has no parents");
    }
    let levels = state("m.room.power_levels", "").map(|event| content(&event));
    let room = Room { rules, state, levels };
    ensure(state("m.room.create", "").is_some(), "no create event")?;
    let sender = pdu.sender.as_str();
    if kind == "m.room.aliases" && rules.authorization.special_case_room_aliases {
        return ensure(
            pdu.state_key.as_deref() == Some(pdu.sender.server_name().as_str()),
            "not its aliases",
        );
    }
    if kind == "m.room.member" {
        return room.member(pdu);
    }
    ensure(room.membership(sender) == "join", "the sender is not in the room")?;
    let level = room.level(sender);
    ensure(
        level >= room.to_send(&kind, pdu.state_key.is_some()),
        "too low to send it",
    )?;
    if let Some(key) = pdu.state_key.as_deref().filter(|key| key.starts_with('@')) {
        ensure(key == sender, "the state of another user")?;
    }
    if kind == "m.room.power_levels" {
        return room.power_levels(pdu);
    }
    if kind == "m.room.redaction" && rules.authorization.special_case_room_redaction {
        let target = pdu.redacts.as_ref().ok_or("it redacts nothing")?;
        let own = target.server_name() == pdu.event_id.server_name();
        return ensure(own || level >= room.needed("redact", 50), "may not redact");
    }
    Ok(())
}

/// A user's power level.
pub(super) fn level_of(user: &str, rules: &RoomVersionRules, state: &State<'_>) -> i64 {
    let levels = state("m.room.power_levels", "").map(|event| content(&event));
    Room { rules, state, levels }.level(user)
}

/// Whether an accepted redaction prunes what it names. `state` is that before it.
pub(super) fn prunes(pdu: &Pdu, target: &Pdu, rules: &RoomVersionRules, state: &State<'_>) -> bool {
    let levels = state("m.room.power_levels", "").map(|event| content(&event));
    let room = Room { rules, state, levels };
    let own = if rules.authorization.special_case_room_redaction {
        target.event_id.server_name() == pdu.event_id.server_name()
    } else {
        target.sender.server_name() == pdu.sender.server_name()
    };
    own || room.level(pdu.sender.as_str()) >= room.needed("redact", 50)
}

/// How an event is found, and whether it was rejected.
type Events<'a> = &'a dyn Fn(&OwnedEventId) -> Option<(Arc<Pdu>, bool)>;

/// The auth events must be the ones that the specification selects, each once, none of them rejected.
pub(super) fn check_auth_events(pdu: &Pdu, rules: &RoomVersionRules, events: Events<'_>) -> Refused {
    let mut seen = HashSet::new();
    let content = content(pdu);
    let sender = pdu.sender.as_str();
    let mut expected = vec![("m.room.power_levels", ""), ("m.room.member", sender)];
    if !rules.authorization.room_create_event_id_as_room_id {
        expected.push(("m.room.create", ""));
    }
    if pdu.kind.to_string() == "m.room.member" {
        let membership = content["membership"].as_str().unwrap_or_default();
        expected.push(("m.room.member", pdu.state_key.as_deref().unwrap_or_default()));
        if ["join", "invite", "knock"].contains(&membership) {
            expected.push(("m.room.join_rules", ""));
        }
        let via = content["join_authorised_via_users_server"].as_str();
        if let Some(via) = via.filter(|_| membership == "join" && rules.authorization.restricted_join_rule) {
            expected.push(("m.room.member", via));
        }
    }
    let mut has_create = pdu.kind.to_string() == "m.room.create" || rules.authorization.room_create_event_id_as_room_id;
    for id in &pdu.auth_events {
        let (event, rejected) = events(id).ok_or("an auth event is missing")?;
        ensure(!rejected, "an auth event is rejected")?;
        let key = (
            event.kind.to_string(),
            event.state_key.as_deref().unwrap_or("none").to_owned(),
        );
        ensure(expected.contains(&(&*key.0, &*key.1)), "an auth event is not wanted")?;
        has_create |= key.0 == "m.room.create";
        ensure(seen.insert(key), "two auth events for one key")?;
    }
    ensure(has_create, "no create event among the auth events")
}
