//! Receipts and typing, as `/sync` shows them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use entities::receipt;
use ruma::{OwnedUserId, UserId};
use serde_json::value::RawValue;
use serde_json::{Value, json, value::to_raw_value};

/// One `m.receipt` event over all receipts that `user` may see; `None` where there is none.
#[must_use]
pub fn receipts_event(
    receipts: &[Arc<receipt::Model>],
    user: &UserId,
    ignored: &HashSet<OwnedUserId>,
) -> Option<Box<RawValue>> {
    let mut content: BTreeMap<&str, BTreeMap<&str, BTreeMap<&str, Value>>> = BTreeMap::new();
    for receipt in receipts {
        let own = receipt.user_id == user.as_str();
        if receipt.receipt_type == "m.read.private" && !own || ignored.iter().any(|i| i == receipt.user_id.as_str()) {
            continue;
        }
        let mut data = json!({ "ts": receipt.ts });
        if !receipt.thread_id.is_empty() {
            data["thread_id"] = Value::from(receipt.thread_id.as_str());
        }
        let by_type = content.entry(&receipt.event_id).or_default();
        let by_user = by_type.entry(&receipt.receipt_type).or_default();
        // The map holds one receipt a user: a threaded one does not hide the unthreaded one.
        if receipt.thread_id.is_empty() || !by_user.contains_key(receipt.user_id.as_str()) {
            by_user.insert(&receipt.user_id, data);
        }
    }
    if content.is_empty() {
        return None;
    }
    to_raw_value(&json!({ "type": "m.receipt", "content": content })).ok()
}

/// The `m.typing` event.
#[must_use]
pub fn typing_event(users: &[OwnedUserId], ignored: &HashSet<OwnedUserId>) -> Option<Box<RawValue>> {
    let users: Vec<_> = users.iter().filter(|user| !ignored.contains(*user)).collect();
    to_raw_value(&json!({ "type": "m.typing", "content": { "user_ids": users } })).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma::user_id;

    fn receipt(user: &str, kind: &str, thread: &str) -> Arc<receipt::Model> {
        Arc::new(receipt::Model {
            room_nid: 1,
            user_id: user.to_owned(),
            receipt_type: kind.to_owned(),
            thread_id: thread.to_owned(),
            event_id: "$e".to_owned(),
            event_pos: 3,
            ts: 7,
            pos: 4,
        })
    }

    #[test]
    fn private_receipts_are_shown_to_their_user_only() {
        let receipts = [receipt("@a:x", "m.read.private", ""), receipt("@b:x", "m.read", "main")];
        let text = receipts_event(&receipts, user_id!("@b:x"), &HashSet::new()).expect("one is left");
        let event: Value = serde_json::from_str(text.get()).expect("json");
        assert_eq!(
            event["content"],
            json!({"$e": {"m.read": {"@b:x": {"ts": 7, "thread_id": "main"}}}})
        );
        let text = receipts_event(&receipts, user_id!("@a:x"), &HashSet::new()).expect("both are left");
        assert!(text.get().contains("m.read.private"));
    }

    #[test]
    fn ignored_users_do_not_type() {
        let ignored = HashSet::from([user_id!("@b:x").to_owned()]);
        let users = [user_id!("@a:x").to_owned(), user_id!("@b:x").to_owned()];
        let text = typing_event(&users, &ignored).expect("an event");
        assert!(!text.get().contains("@b:x"));
    }
}
