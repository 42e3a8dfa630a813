//! Send-to-device messages (client-server API, "Send-to-Device messaging").

use actors::error::Outcome;
use actors::session::to_device::{Contents, Messages};
use ruma::api::client::to_device::send_event_to_device;

use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.guest(send)
        .also("/_matrix/client/unstable/sendToDevice/{event_type}/{txn_id}");
}

async fn send(ctx: Ctx, request: send_event_to_device::v3::Request) -> Outcome<Reply> {
    let identity = ctx.user()?;
    let contents: Contents = request
        .messages
        .into_iter()
        .map(|(user, devices)| {
            let devices = devices.into_iter();
            let devices = devices.map(|(device, content)| (device.to_string(), content.into_json()));
            (user, devices.collect())
        })
        .collect();
    let messages = Messages {
        device_id: identity.device_id.clone(),
        event_type: request.event_type.to_string(),
        txn_id: request.txn_id.to_string(),
        contents,
    };
    ctx.hub.sessions().send_to_device(&identity.user_id, messages).await?;
    Ok(Reply::empty())
}
