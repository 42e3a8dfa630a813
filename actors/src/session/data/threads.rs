//! Subscriptions to threads (MSC4306).

use std::sync::Arc;

use entities::ids::StreamPos;
use entities::store::rows::Rows;
use entities::thread_subscription::Model;
use ruma::{EventId, RoomId};

use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::session::view::UserView;
use crate::stream::fact::{Fact, FactKind};
use crate::stream::journal::Submission;

/// Threads that one user may decide about.
const MAX_THREADS: i64 = 50_000;

/// What a user wants of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// To hear of it, for the user's own reasons.
    Manual,
    /// To hear of it because of an event at this position.
    Automatic(StreamPos),
    /// Nothing.
    None,
}

/// Notes what the user wants.
///
/// # Errors
/// 409 `IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION` when the user did not want it after that event; `M_TOO_LARGE`.
pub(super) async fn set(env: &Env, view: &UserView, room: &RoomId, root: &EventId, wanted: Interest) -> Outcome<()> {
    let user = view.user_id.as_str();
    let old = env
        .store
        .thread_subscription(user, room.as_str(), root.as_str())
        .await?;
    if old.is_none() && env.store.count_thread_subscriptions(user).await? >= MAX_THREADS {
        return Err(DomainError::too_large("there are too many subscriptions"));
    }
    let fresh = Model {
        user_id: user.to_owned(),
        room_id: room.to_string(),
        root_id: root.to_string(),
        subscribed: false,
        automatic: false,
        ended_pos: 0,
        pos: 0,
    };
    let Some(changed) = decide(old.as_ref().unwrap_or(&fresh), wanted, env.visible())? else {
        return Ok(());
    };
    let rows = Rows {
        thread_subscriptions: vec![changed],
        ..Rows::default()
    };
    let owner = view.user_id.clone();
    let publish = move |pos: StreamPos| {
        vec![Fact {
            pos,
            users: Arc::from([owner]),
            kind: FactKind::ThreadSubscription,
        }]
    };
    let submission = Submission {
        rows,
        positions: 1,
        publish: Box::new(publish),
    };
    env.journal.submit(submission).await?;
    // What notifies has changed.
    env.unread.forget(&view.user_id);
    Ok(())
}

/// The row that is to be written; `None` when nothing changes. `now` is the newest position anybody can have seen.
fn decide(old: &Model, wanted: Interest, now: StreamPos) -> Outcome<Option<Model>> {
    let next = Model {
        subscribed: wanted != Interest::None,
        pos: 0,
        ..old.clone()
    };
    Ok(match wanted {
        Interest::None if !old.subscribed => None,
        Interest::None => Some(Model {
            automatic: false,
            ended_pos: now.0,
            ..next
        }),
        Interest::Automatic(_) if old.subscribed => None,
        Interest::Automatic(cause) if old.ended_pos > 0 && cause.0 <= old.ended_pos => {
            return Err(DomainError::matrix(
                409,
                "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION",
                "you unsubscribed from this thread after that event",
            ));
        }
        Interest::Automatic(_) => Some(Model {
            automatic: true,
            ..next
        }),
        Interest::Manual if old.subscribed && !old.automatic => None,
        Interest::Manual => Some(Model {
            automatic: false,
            ..next
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(subscribed: bool, automatic: bool, ended_pos: i64) -> Model {
        Model {
            user_id: "@a:x".to_owned(),
            room_id: "!r:x".to_owned(),
            root_id: "$t".to_owned(),
            subscribed,
            automatic,
            ended_pos,
            pos: 0,
        }
    }

    fn decided(old: &Model, wanted: Interest) -> Option<Model> {
        decide(old, wanted, StreamPos(20)).expect("no conflict")
    }

    #[test]
    fn what_the_user_says_counts_more_than_mentions() {
        let never = row(false, false, 0);
        let mention = Interest::Automatic(StreamPos(10));
        assert_eq!(decided(&never, mention), Some(row(true, true, 0)));
        assert_eq!(
            decided(&row(true, true, 0), Interest::Manual),
            Some(row(true, false, 0))
        );
        assert_eq!(decided(&row(true, false, 0), mention), None);
        assert_eq!(decided(&never, Interest::None), None);
        assert_eq!(
            decided(&row(true, true, 0), Interest::None),
            Some(row(false, false, 20))
        );
        assert!(decide(&row(false, false, 10), mention, StreamPos(20)).is_err());
        assert_eq!(decided(&row(false, false, 9), mention), Some(row(true, true, 9)));
        assert_eq!(
            decided(&row(false, false, 20), Interest::Manual),
            Some(row(true, false, 20))
        );
    }
}
