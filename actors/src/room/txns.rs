//! Which events transactions have made before.
//!
//! Every message asks, whatever its room; so what is asked while one statement runs is answered by the next one together.

use entities::error::StoreError;
use entities::store::Store;
use entities::store::event::Txn;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::error::{DomainError, Outcome};

/// Questions that may wait; whoever comes then waits to ask.
const WAITING: usize = 4_096;
/// Questions of one statement; each is about the drafts of one batch of a room.
const TOGETHER: usize = 64;

type Answer = Result<Vec<Option<String>>, StoreError>;

struct Question {
    txns: Vec<Txn>,
    answer: oneshot::Sender<Answer>,
}

/// Looks up transactions.
pub struct Txns {
    queue: mpsc::Sender<Question>,
}

impl Txns {
    /// Starts looking up on `io`; it ends with the last handle.
    #[must_use]
    pub fn start(io: &Handle, store: Store) -> Self {
        let (queue, questions) = mpsc::channel(WAITING);
        io.spawn(answer(store, questions));
        Self { queue }
    }

    /// The ids of the events that the transactions have made, in their order.
    ///
    /// # Errors
    /// `Unavailable` when the database does not answer; bad input when a name holds U+0000.
    pub async fn look_up(&self, txns: Vec<Txn>) -> Outcome<Vec<Option<String>>> {
        if txns.is_empty() {
            return Ok(Vec::new());
        }
        // The database would refuse the whole statement, and with it what others ask.
        if txns.iter().any(holds_nul) {
            return Err(StoreError::Nul.into());
        }
        let stopped = || DomainError::unavailable("transactions cannot be looked up");
        let (answer, answered) = oneshot::channel();
        let asked = self.queue.send(Question { txns, answer }).await;
        asked.map_err(|_| stopped())?;
        Ok(answered.await.map_err(|_| stopped())??)
    }
}

fn holds_nul(txn: &Txn) -> bool {
    [&txn.sender, &txn.device_id, &txn.txn_id, &txn.kind]
        .iter()
        .any(|text| text.contains('\0'))
}

async fn answer(store: Store, mut queue: mpsc::Receiver<Question>) {
    let mut questions = Vec::with_capacity(TOGETHER);
    while queue.recv_many(&mut questions, TOGETHER).await > 0 {
        let mut txns = Vec::new();
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions.drain(..) {
            answers.push((question.txns.len(), question.answer));
            txns.extend(question.txns);
        }
        let found = store.events_by_txn(&txns).await;
        let mut rest = found.map(Vec::into_iter);
        for (count, answer) in answers {
            let own = match &mut rest {
                Ok(rest) => Ok(rest.by_ref().take(count).collect()),
                Err(error) => Err(error.clone()),
            };
            // Whoever went away does not care.
            let _ = answer.send(own);
        }
    }
}

#[cfg(test)]
mod tests {
    use entities::event;
    use entities::store::rows::Rows;
    use entities::testing::each_backend;
    use futures_util::future::join_all;

    use super::*;

    fn txn(id: usize) -> Txn {
        Txn {
            room_nid: 1,
            sender: "@a:x".to_owned(),
            device_id: "D".to_owned(),
            txn_id: format!("t{id}"),
            kind: "m.room.message".to_owned(),
        }
    }

    fn sent(id: usize) -> event::Model {
        let Txn {
            room_nid,
            sender,
            device_id,
            txn_id,
            kind,
        } = txn(id);
        event::Model {
            nid: i64::try_from(id).expect("small"),
            room_nid,
            event_id: format!("$e{id}"),
            pos: None,
            depth: 1,
            r#type: kind,
            state_key: None,
            sender,
            origin_server_ts: 1,
            state_group: None,
            status: 0,
            redacted_by: None,
            device_id: Some(device_id),
            txn_id: Some(txn_id),
            relates_to: None,
            rel_type: None,
            unsigned: None,
            json: "{}".to_owned(),
        }
    }

    #[tokio::test]
    async fn everybody_gets_the_answer_to_the_own_question() {
        each_backend(|db| async move {
            let events = (0..300).filter(|id| id % 3 == 0).map(sent).collect();
            let store = db.store().await;
            let rows = Rows {
                events,
                ..Rows::default()
            };
            store.import(&rows).await.expect("imported");
            let txns = Txns::start(&Handle::current(), store);
            let mut bad = txn(1);
            bad.txn_id.push('\0');
            let (answers, refused) = tokio::join!(
                join_all((0..100).map(|i| txns.look_up(vec![txn(3 * i + 1), txn(3 * i), txn(3 * i + 2)]))),
                txns.look_up(vec![bad]),
            );
            assert!(refused.is_err());
            for (i, answer) in answers.into_iter().enumerate() {
                let found = answer.expect("answered");
                assert_eq!(found, [None, Some(format!("$e{}", 3 * i)), None]);
            }
        })
        .await;
    }
}
