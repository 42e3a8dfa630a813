//! The member events that users of other servers ask for, as templates to be signed over there.

use std::sync::Arc;

use ruma::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use serde_json::{Map, Value};

use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::room::commands::Draft;
use crate::room::commit;
use crate::room::plan::{self, Input, Needs};
use crate::room::snapshot::RoomSnapshot;

/// The unsigned member event by which `user` changes its own membership, as the room's next event.
///
/// # Errors
/// `M_FORBIDDEN` with the authorization rule that fails.
pub async fn own_membership(
    env: &Arc<Env>,
    room: &Arc<RoomSnapshot>,
    user: &ruma::UserId,
    content: &Map<String, Value>,
) -> Outcome<CanonicalJsonObject> {
    let content = serde_json::value::to_raw_value(content)
        .map_err(|e| DomainError::internal(format!("a member event's content: {e}")))?;
    let draft = Draft::state(user.to_owned(), "m.room.member", user.as_str(), content);
    let mut template = unsigned(env, room, &draft).await?;
    let server = CanonicalJsonValue::String(env.server_name.to_string());
    template.insert("origin".to_owned(), server);
    Ok(template)
}

/// The unsigned event that a draft would become, as the room's next event.
///
/// # Errors
/// As [`own_membership`]; `M_TOO_LARGE`, `M_BAD_JSON`.
pub async fn unsigned(env: &Arc<Env>, room: &Arc<RoomSnapshot>, draft: &Draft) -> Outcome<CanonicalJsonObject> {
    let mut needs = Needs::of(room, [draft]);
    // Nothing will be stored.
    needs.state_keys.clear();
    let prefetched = commit::prefetch(env, room, &needs).await?;
    let origin = commit::origin(env);
    let input = Input {
        origin: &origin,
        now: env.clock.now_ms(),
        first_nid: 0,
        prefetched: &prefetched,
    };
    plan::template(room, draft, &input)
}
