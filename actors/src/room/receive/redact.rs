//! Redactions from elsewhere, also those that arrive before what they redact.

use std::sync::Arc;

use entities::early_redaction;
use entities::store::rows::RedactedEvent;

use super::work::Work;
use crate::error::Outcome;
use crate::room::auth::Power;
use crate::room::event::{Pdu, StoredEvent};
use crate::room::plan::{forgetful, prune, redacted_unsigned};
use crate::room::redact::redaction_allowed;

/// An accepted redaction whose target has not arrived.
#[derive(Clone)]
pub(super) struct Early {
    pub redaction: Arc<StoredEvent>,
    /// Who could do what where it stands.
    pub power: Power,
}

impl Work {
    /// An accepted redaction prunes its target, if it may. `state`: the state before it.
    pub(super) fn redact(
        &mut self,
        event: &Arc<StoredEvent>,
        state: impl Fn(&str, &str) -> Option<Arc<Pdu>>,
    ) -> Outcome<()> {
        let Some(id) = event.pdu.redacts.clone() else {
            return Ok(());
        };
        let Ok(power) = Power::of(&self.room.rules, state) else {
            return Ok(());
        };
        if let Some(target) = self.stored.get(&id).cloned() {
            return self.prune(&target, event, &power);
        }
        self.out.rows.early_redactions.push(early_redaction::Model {
            room_nid: self.room.nid.0,
            target_event_id: id.to_string(),
            redaction_nid: event.nid.0,
        });
        self.room.early_redactions = true;
        let redaction = event.clone();
        self.early.entry(id).or_default().push(Early { redaction, power });
        Ok(())
    }

    /// What has been waiting for the event prunes it, if it may.
    pub(super) fn redact_early(&mut self, event: &Arc<StoredEvent>) -> Outcome<()> {
        let Some(waiting) = self.early.remove(event.event_id()) else {
            return Ok(());
        };
        let (room, id) = (self.room.nid.0, event.event_id().to_string());
        let rows = &mut self.out.rows;
        rows.early_redactions.retain(|row| row.target_event_id != id);
        rows.early_redactions_removed.push((room, id));
        for Early { redaction, power } in waiting {
            if let Some(target) = self.stored.get(event.event_id()).cloned() {
                self.prune(&target, &redaction, &power)?;
            }
        }
        Ok(())
    }

    fn prune(&mut self, target: &StoredEvent, by: &StoredEvent, power: &Power) -> Outcome<()> {
        let rules = self.room.rules.clone();
        if target.redacted_by.is_some() || !redaction_allowed(&by.pdu, &target.pdu, &rules, power) {
            return Ok(());
        }
        let pruned = prune(target, by, &rules)?;
        self.out.rows.redactions.push(RedactedEvent {
            nid: pruned.nid.0,
            redacted_by: by.event_id().to_string(),
            json: pruned.pdu.json.to_string(),
            unsigned: redacted_unsigned(by),
        });
        self.change(pruned.clone());
        let written = self.out.fresh.values().chain(self.out.settled.values());
        let successors: Vec<_> = self.successors.iter().chain(written).cloned().collect();
        for event in successors {
            let newest = self.stored.get(event.event_id()).cloned().unwrap_or(event);
            if let Some(event) = forgetful(&newest, &pruned) {
                let unsigned = event.unsigned.as_deref().unwrap_or_default().to_owned();
                self.out.rows.unsigned_updates.push((event.nid.0, unsigned));
                self.change(event);
            }
        }
        Ok(())
    }
}
