//! Push rules applied to events.

pub mod notifications;

use ruma::power_levels::NotificationPowerLevels;
use ruma::push::{
    Action, AnyPushRuleRef, FlattenedJson, PushConditionPowerLevelsCtx, PushConditionRoomCtx, Ruleset, SoundTweakValue,
    Tweak,
};
use ruma::room_version_rules::RoomPowerLevelsRules;
use ruma::{Int, OwnedUserId, UInt};
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};

use crate::env::Env;
use crate::error::Outcome;
use crate::room::event::{StoredEvent, thread_of};
use crate::room::snapshot::RoomSnapshot;
use crate::session::view::UserView;

/// What the rules say about an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// It counts as unread.
    pub notify: bool,
    /// It stands out.
    pub highlight: bool,
}

impl Verdict {
    /// What actions come to.
    #[must_use]
    pub fn of(actions: &[Action]) -> Self {
        Self {
            notify: actions.iter().any(|action| matches!(action, Action::Notify)),
            highlight: actions.iter().any(Action::is_highlight),
        }
    }
}

/// The room as one user's push rules see it.
pub struct Reader {
    room: PushConditionRoomCtx,
    /// Roots of the threads that the user is subscribed to, once that matters.
    threads: Option<HashSet<String>>,
}

#[derive(Default, Deserialize)]
struct Levels {
    #[serde(default)]
    users: BTreeMap<OwnedUserId, Int>,
    #[serde(default)]
    users_default: Int,
    #[serde(default)]
    notifications: NotificationPowerLevels,
}

impl Reader {
    /// Taken once for many events.
    #[must_use]
    pub fn new(room: &RoomSnapshot, view: &UserView) -> Self {
        let user = &view.user_id;
        let name = room
            .state_event("m.room.member", user.as_str())
            .and_then(|event| event.pdu.content_as::<serde_json::Value>().ok())
            .and_then(|content| content.get("displayname")?.as_str().map(str::to_owned))
            .or_else(|| view.displayname())
            .unwrap_or_else(|| user.localpart().to_owned());
        let count = UInt::new_saturating(room.joined_count);
        let mut ctx = PushConditionRoomCtx::new(room.room_id.clone(), count, user.clone(), name);
        let levels: Levels = room
            .state_event("m.room.power_levels", "")
            .and_then(|event| event.pdu.content_as().ok())
            .unwrap_or_default();
        let creators = room
            .state_event("m.room.create", "")
            .map(|event| event.pdu.sender.clone());
        let rules = RoomPowerLevelsRules::new(&room.rules.authorization, creators);
        ctx = ctx.with_power_levels(PushConditionPowerLevelsCtx::new(
            levels.users,
            levels.users_default,
            levels.notifications,
            rules,
        ));
        Self {
            room: ctx,
            threads: None,
        }
    }

    /// Learns which threads the user is subscribed to (MSC4306), if an event of this thread is to be looked at.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer.
    pub async fn look_at(&mut self, env: &Env, view: &UserView, thread: Option<&str>) -> Outcome<()> {
        if thread.is_some() && self.threads.is_none() {
            let (user, room) = (view.user_id.as_str(), self.room.room_id.as_str());
            let threads = env.store.subscribed_threads(user, room).await?;
            self.threads = Some(threads.into_iter().collect());
        }
        Ok(())
    }

    /// Whether the event is in a thread that the user is subscribed to.
    fn follows(&self, event: &StoredEvent) -> bool {
        let threads = self.threads.as_ref().filter(|threads| !threads.is_empty());
        threads.is_some_and(|threads| thread_of(&event.pdu).is_some_and(|root| threads.contains(&root)))
    }
}

/// The actions of the first rule that applies; none where none does.
pub async fn actions(reader: &Reader, rules: &Ruleset, event: &StoredEvent) -> Vec<Action> {
    let Ok(raw) = serde_json::from_str::<ruma::serde::Raw<serde_json::Value>>(&event.pdu.json) else {
        return Vec::new();
    };
    let flat = FlattenedJson::from_raw(&raw);
    let follows = reader.follows(event);
    for rule in rules {
        // The rule of subscribed threads has its place between these kinds; rooms that are quiet do not silence it.
        let is_later = matches!(
            rule,
            AnyPushRuleRef::Room(_) | AnyPushRuleRef::Sender(_) | AnyPushRuleRef::Underride(_)
        );
        if follows && is_later {
            return vec![Action::Notify, Action::SetTweak(Tweak::Sound(SoundTweakValue::Default))];
        }
        if rule.applies(&flat, &reader.room).await {
            return rule.actions().to_vec();
        }
    }
    Vec::new()
}

/// What the actions of the first rule that applies come to.
pub async fn evaluate(reader: &Reader, rules: &Ruleset, event: &StoredEvent) -> Verdict {
    Verdict::of(&actions(reader, rules, event).await)
}
