//! Receipts and read markers (client-server API, "Receipts", "Read and unread markers").

use actors::error::{DomainError, Outcome};
use actors::room::commands::SetReceipt;
use actors::session::data::DataCommand;
use ruma::api::client::read_marker::set_read_marker;
use ruma::api::client::receipt::create_receipt;
use ruma::{OwnedEventId, RoomId};
use serde_json::Value;

use super::data::ask;
use crate::http::context::{Ctx, RequestInfo};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

const FULLY_READ: &str = "m.fully_read";
const READ: &str = "m.read";
const READ_PRIVATE: &str = "m.read.private";

/// Bytes of a thread's id, which is that of an event.
const MAX_THREAD_ID: usize = 255;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.user(receipt).fix(drop_null_thread);
    t.user(markers);
}

/// `null` counts as absent.
fn drop_null_thread(body: &mut Value, _info: &RequestInfo) {
    if let Some(body) = body.as_object_mut()
        && body.get("thread_id").is_some_and(Value::is_null)
    {
        body.remove("thread_id");
    }
}

async fn receipt(ctx: Ctx, request: create_receipt::v3::Request) -> Outcome<Reply> {
    let thread_id = thread_id(&ctx)?;
    let kind = request.receipt_type.to_string();
    match kind.as_str() {
        FULLY_READ if thread_id.is_some() => {
            return Err(DomainError::invalid_param(
                "m.fully_read is not compatible with thread_id",
            ));
        }
        FULLY_READ => fully_read(&ctx, &request.room_id, request.event_id).await?,
        READ | READ_PRIVATE => read(&ctx, &request.room_id, kind, thread_id, request.event_id).await?,
        _ => {
            let message = "receiptType must be m.read, m.read.private or m.fully_read";
            return Err(DomainError::invalid_param(message));
        }
    }
    Ok(Reply::empty())
}

fn thread_id(ctx: &Ctx) -> Outcome<Option<String>> {
    let body: Value = ctx.request.json()?;
    match &body["thread_id"] {
        Value::Null => Ok(None),
        Value::String(thread) if (1..=MAX_THREAD_ID).contains(&thread.len()) => Ok(Some(thread.clone())),
        _ => Err(DomainError::invalid_param(
            "thread_id must be a string of 1 to 255 bytes",
        )),
    }
}

async fn markers(ctx: Ctx, request: set_read_marker::v3::Request) -> Outcome<Reply> {
    let room_id = &request.room_id;
    if let Some(event_id) = request.fully_read {
        fully_read(&ctx, room_id, event_id).await?;
    }
    if let Some(event_id) = request.read_receipt {
        read(&ctx, room_id, READ.to_owned(), None, event_id).await?;
    }
    if let Some(event_id) = request.private_read_receipt {
        read(&ctx, room_id, READ_PRIVATE.to_owned(), None, event_id).await?;
    }
    Ok(Reply::empty())
}

async fn fully_read(ctx: &Ctx, room_id: &RoomId, event_id: OwnedEventId) -> Outcome<()> {
    let room_id = room_id.to_owned();
    ask(ctx, DataCommand::MoveFullyRead { room_id, event_id }).await?;
    Ok(())
}

async fn read(
    ctx: &Ctx,
    room_id: &RoomId,
    kind: String,
    thread_id: Option<String>,
    event_id: OwnedEventId,
) -> Outcome<()> {
    let receipt = SetReceipt {
        user: ctx.user()?.user_id.clone(),
        kind,
        thread_id,
        event_id,
        ts: None,
    };
    actors::presence::active(ctx.hub.env(), &receipt.user);
    ctx.hub.rooms().set_receipt(room_id, receipt).await
}
