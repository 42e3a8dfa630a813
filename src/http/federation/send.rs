//! Transactions of other servers (server-server API, "Transactions").

use std::time::Duration;

use actors::error::Outcome;
use actors::flows::transaction::{self, Transaction};
use ruma::api::federation::transactions::send_transaction_message::v1::Request;

use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Keys of servers that are slow to answer may have to be fetched. What is not done by then goes on by itself.
const DEADLINE: Duration = Duration::from_secs(60);

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.server(send).deadline(DEADLINE);
}

async fn send(ctx: Ctx, request: Request) -> Outcome<Reply> {
    let txn = Transaction {
        origin: ctx.origin()?.to_owned(),
        txn_id: request.transaction_id.to_string(),
        claimed_origin: request.origin,
        pdus: request.pdus,
        edus: request.edus.into_iter().map(ruma::serde::Raw::into_json).collect(),
    };
    let answer = transaction::receive(&ctx.hub, txn).await?;
    Ok(Reply::json_bytes(answer.as_bytes().to_vec()))
}
