//! A request that the server took up is answered, also by a server that stops: what got no answer has changed nothing.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::{
    checks::history,
    load::{ALGORITHM, Cast, Kind, Ledger, Write},
};
use crate::common::client::{encode, text};

/// Looks right after the restart, before anything is repeated.
pub async fn nothing_took_effect(cast: &Cast, written: &Ledger) {
    for (kind, writes) in written {
        let Some(last) = writes.last().filter(|write| write.broken) else {
            continue;
        };
        let before = &writes[..writes.len() - 1];
        assert!(
            !took_effect(cast, *kind, last, before).await,
            "this was done and not answered: {last:?}"
        );
    }
    keys_are_as_answered(cast, written).await;
}

async fn took_effect(cast: &Cast, kind: Kind, write: &Write, before: &[Write]) -> bool {
    let hall = encode(&cast.hall);
    match kind {
        Kind::Message => {
            let history = history(&cast.alice, &cast.hall).await;
            history.iter().any(|event| event["content"] == write.body)
        }
        Kind::State => {
            let path = format!("rooms/{hall}/state/org.example.count/x");
            cast.alice.get(&path).await.1 == write.body
        }
        Kind::Membership => membership(cast, &cast.hall, &cast.bob.user_id).await == write.leads_to(),
        Kind::Invite => membership(cast, &cast.private, &cast.dave.user_id).await == write.leads_to(),
        Kind::Room => {
            let alias = format!("#{}:localhost", text(&write.body, "name"));
            cast.alice.get(&format!("directory/room/{}", encode(&alias))).await.0 == 200
        }
        Kind::ToDevice => delivered(cast, before.len()).await > before.len(),
        Kind::Receipt => {
            let known = before.iter().any(|earlier| earlier.subject() == write.subject());
            !known && cast.receipt_on(&write.subject()).await
        }
        Kind::AccountData => {
            let user = encode(&cast.carol.user_id);
            let path = format!("user/{user}/account_data/org.example.counter");
            cast.carol.get(&path).await.1 == write.body
        }
        Kind::Registration => {
            let path = format!("register/available?username={}", text(&write.body, "username"));
            cast.alice.client.get(&path).await.0 != 200
        }
        Kind::Logout => write.user.get("account/whoami").await.0 != 200,
        Kind::Backup => cast.alice.get(write.path()).await.0 == 200,
        // Keys are counted together; typing is told to whoever looks and kept nowhere.
        Kind::KeyUpload | Kind::Claim | Kind::Typing => false,
    }
}

async fn membership(cast: &Cast, room: &str, user: &str) -> Value {
    let path = format!("rooms/{}/state/m.room.member/{}", encode(room), encode(user));
    cast.alice.get(&path).await.1["membership"].clone()
}

/// How many to-device messages carol has. Reading on deletes them, so the later check is told.
async fn delivered(cast: &Cast, answered: usize) -> usize {
    let mut count = 0;
    let mut since = cast.carols_token.clone();
    loop {
        let sync = cast.carol.sync(Some(&since), 0, None).await;
        let events = sync["to_device"]["events"].as_array().map_or(0, Vec::len);
        since = text(&sync, "next_batch");
        count += events;
        if events == 0 {
            break;
        }
    }
    assert!(
        count >= answered,
        "{answered} messages were acknowledged, {count} are there"
    );
    cast.fetched.store(count, Ordering::Relaxed);
    count
}

/// Of one-time keys only the number left tells what happened.
async fn keys_are_as_answered(cast: &Cast, written: &Ledger) {
    let of = |kind| written.get(&kind).map_or(&[][..], Vec::as_slice);
    let (uploads, claims) = (of(Kind::KeyUpload), of(Kind::Claim));
    // An answer other than a success says nothing about the keys.
    let open = |writes: &[Write]| {
        writes
            .last()
            .is_some_and(|write| write.answer.is_none() && !write.broken)
    };
    if open(uploads) || open(claims) {
        return;
    }
    let uploaded = uploads.iter().filter(|upload| upload.answer.is_some()).count();
    let given = |claim: &Write| {
        let keys = &claim.answer.as_ref()?["one_time_keys"][&cast.dave.user_id][&cast.dave.device_id];
        Some(keys.as_object()?.len())
    };
    let claimed: usize = claims.iter().filter_map(given).sum();
    let counts = cast.dave.post("keys/upload", json!({})).await.1;
    let left = counts["one_time_key_counts"][ALGORITHM].as_u64().unwrap_or_default();
    assert_eq!(
        usize::try_from(left).ok(),
        Some(uploaded - claimed),
        "one-time keys left of {uploaded} uploaded and {claimed} claimed, as answered"
    );
}
