//! Events of local users in a room with a policy server: it is asked about each before the room has it.
//!
//! Spec: server-server API, "Asking for a Policy Server signature on an event".

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use ruma::OwnedEventId;
use ruma::canonical_json::CanonicalJsonObject;
use tokio::time::{Instant, timeout_at};

use super::commands::Append;
use super::commit::plan_appends;
use super::event::StoredEvent;
use super::plan::Plan;
use super::snapshot::RoomSnapshot;
use crate::env::Env;
use crate::error::{DomainError, Outcome};
use crate::policy::{self, Policy};

/// How long a batch may wait for the policy server.
const PATIENCE: Duration = Duration::from_secs(8);
/// Events that it is asked about at the same time.
const AT_ONCE: usize = 16;

/// What the policy server said about events that were planned.
type Answers = HashMap<OwnedEventId, Outcome<CanonicalJsonObject>>;

/// Plans a batch; where the room uses a policy server, without what that one refuses.
pub(super) async fn planned(env: &Arc<Env>, room: &Arc<RoomSnapshot>, appends: Vec<Append>) -> Outcome<Plan> {
    let Some(policy) = Policy::of(room).filter(|_| !appends.is_empty()) else {
        return plan_appends(env, room, appends).await;
    };
    let deadline = Instant::now() + PATIENCE;
    let mut refused: BTreeMap<usize, DomainError> = BTreeMap::new();
    // Each round has fewer events than the one before: what follows a refused event is another event without it.
    loop {
        let open: Vec<usize> = (0..appends.len()).filter(|at| !refused.contains_key(at)).collect();
        let batch = open.iter().map(|at| appends[*at].clone()).collect();
        let mut plan = plan_appends(env, room, batch).await?;
        let answers = match timeout_at(deadline, ask(env, room, &policy, &plan)).await {
            Ok(answers) => answers,
            Err(_) => {
                let late = || DomainError::unavailable("the room's policy server does not answer in time");
                refused.extend(open.iter().map(|at| (*at, late())));
                continue;
            }
        };
        let before = refused.len();
        for (at, reply) in open.iter().zip(&plan.replies) {
            let ids = reply.iter().flat_map(|reply| &reply.event_ids);
            let error = ids.filter_map(|id| answers.get(id)?.as_ref().err()).next();
            refused.extend(error.map(|error| (*at, error.clone())));
        }
        if refused.len() == before {
            countersign(&mut plan, answers)?;
            let mut replies = std::mem::take(&mut plan.replies).into_iter();
            let all = (0..appends.len()).filter_map(|at| match refused.remove(&at) {
                Some(error) => Some(Err(error)),
                None => replies.next(),
            });
            plan.replies = all.collect();
            return Ok(plan);
        }
    }
}

async fn ask(env: &Env, room: &RoomSnapshot, policy: &Policy, plan: &Plan) -> Answers {
    let asks = |event: &&Arc<StoredEvent>| !policy::is_exempt(&event.pdu.kind, event.pdu.state_key.as_deref());
    let events: Vec<Arc<StoredEvent>> = plan.made().filter(asks).cloned().collect();
    let answer = |event: Arc<StoredEvent>| async move {
        let answer = policy::ask(env, room, policy, &event.pdu).await;
        (event.pdu.event_id.clone(), answer)
    };
    stream::iter(events)
        .map(answer)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

fn countersign(plan: &mut Plan, answers: Answers) -> Outcome<()> {
    for (event_id, signed) in answers {
        let json = serde_json::to_string(&signed?);
        let json = json.map_err(|error| DomainError::internal(format!("an event does not serialize: {error}")))?;
        plan.countersign(&event_id, &Arc::from(json));
    }
    Ok(())
}
