//! Other servers' keys for those who ask this server as a notary (server-server API, "Querying Keys Through Another Server").

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::clock::Millis;
use base::error::Outcome;
use entities::server_key_document;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName};

use super::KeyRing;
use super::document::MAX_VALIDITY;
use super::fetch::Lane;

/// Servers that one request is answered for.
pub const MAX_QUERIES: usize = 100;
/// Servers are waited for this long; then the answer is what is known.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is asked of one server's keys.
#[derive(Clone, Debug)]
pub struct Query {
    /// Whose keys.
    pub server: OwnedServerName,
    /// Those that are wanted; empty: all of them.
    pub key_ids: Vec<String>,
    /// The document should be valid until then at least; `None`: now.
    pub minimum_valid_until: Option<Millis>,
}

impl KeyRing {
    /// The documents of those servers whose keys are known or can be fetched, with this server's signature added. Queries above
    /// [`MAX_QUERIES`] are not answered.
    ///
    /// # Errors
    /// `Unavailable` without the database.
    pub async fn notarize(&self, mut queries: Vec<Query>) -> Outcome<Vec<CanonicalJsonObject>> {
        let ring = &self.0;
        queries.truncate(MAX_QUERIES);
        let servers: BTreeSet<OwnedServerName> = queries.iter().map(|query| query.server.clone()).collect();
        let mut documents = self.documents(&servers).await?;
        let now = ring.tools.clock.now_ms();
        let stale: Vec<OwnedServerName> = queries
            .iter()
            .filter(|query| {
                !documents
                    .get(&query.server)
                    .is_some_and(|known| is_fresh(query, known, now))
            })
            .map(|query| query.server.clone())
            .collect();
        // Where everybody asks at once, what is known has to do.
        if let (false, Ok(_permit)) = (stale.is_empty(), ring.notarizing.try_acquire()) {
            // What is known of them tells when they were asked last.
            ring.stored(stale.iter().cloned().collect()).await?;
            // Late ones are left out; they go on and are there for the next who asks.
            let _late = tokio::time::timeout(PATIENCE, ring.refresh(stale, Lane::Notary)).await;
            documents = self.documents(&servers).await?;
        }
        let mut answer = Vec::new();
        for server in servers {
            if server == ring.own.server {
                answer.push(self.own_document()?);
            } else if let Some(known) = documents.remove(&server) {
                let mut json = known.json;
                ring.own.sign(&mut json)?;
                answer.push(json);
            }
        }
        Ok(answer)
    }

    async fn documents(&self, servers: &BTreeSet<OwnedServerName>) -> Outcome<BTreeMap<OwnedServerName, Stored>> {
        let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let rows = self.0.store.server_key_documents(&names).await?;
        Ok(rows.into_iter().filter_map(Stored::of).collect())
    }
}

/// A document from the database.
struct Stored {
    json: CanonicalJsonObject,
    valid_until: Millis,
    fetched: Millis,
}

impl Stored {
    fn of(row: server_key_document::Model) -> Option<(OwnedServerName, Self)> {
        let stored = Self {
            json: serde_json::from_str(&row.json).ok()?,
            valid_until: row.valid_until_ts,
            fetched: row.fetched_ts,
        };
        Some((row.server_name.try_into().ok()?, stored))
    }

    fn has(&self, key_id: &str) -> bool {
        let has =
            |field| matches!(self.json.get(field), Some(CanonicalJsonValue::Object(keys)) if keys.contains_key(key_id));
        has("verify_keys") || has("old_verify_keys")
    }
}

/// Whether a document need not be fetched again: it is asked for again after half of its life, so that what is handed on is
/// not about to end.
fn is_fresh(query: &Query, known: &Stored, now: Millis) -> bool {
    let half = known.fetched + (known.valid_until - known.fetched).min(MAX_VALIDITY) / 2;
    now < half
        && known.valid_until >= query.minimum_valid_until.unwrap_or(now)
        && query.key_ids.iter().all(|id| known.has(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_fetched_again_when_half_of_their_life_is_over_or_they_do_not_do() {
        let json = r#"{"verify_keys":{"ed25519:a":{}},"old_verify_keys":{"ed25519:b":{}}}"#;
        let known = Stored {
            json: serde_json::from_str(json).expect("JSON"),
            valid_until: 3_000,
            fetched: 1_000,
        };
        let query = |ids: &[&str], minimum_valid_until| Query {
            server: ruma::owned_server_name!("a.example"),
            key_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            minimum_valid_until,
        };
        assert!(is_fresh(&query(&[], None), &known, 1_999));
        assert!(!is_fresh(&query(&[], None), &known, 2_000));
        assert!(is_fresh(&query(&[], Some(3_000)), &known, 1_500));
        assert!(!is_fresh(&query(&[], Some(3_001)), &known, 1_500));
        assert!(is_fresh(&query(&["ed25519:a", "ed25519:b"], None), &known, 1_500));
        assert!(!is_fresh(&query(&["ed25519:a", "ed25519:c"], None), &known, 1_500));
    }
}
