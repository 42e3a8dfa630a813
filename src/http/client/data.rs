//! What the chapters on a user's own data share.

use actors::error::{DomainError, Outcome};
use actors::session::commands::{SessionCommand, SessionReply};
use actors::session::data::{DataCommand, DataReply};
use ruma::UserId;

use crate::http::context::Ctx;

/// Asks the session of the user behind the request.
///
/// # Errors
/// What the command says.
pub async fn ask(ctx: &Ctx, command: DataCommand) -> Outcome<DataReply> {
    let user = &ctx.user()?.user_id;
    match ctx.hub.sessions().ask(user, SessionCommand::Data(command)).await? {
        SessionReply::Data(reply) => Ok(reply),
        other => Err(DomainError::internal(format!("a session answered {other:?}"))),
    }
}

/// Refuses what concerns somebody else.
///
/// # Errors
/// `M_FORBIDDEN`.
pub fn require_own(ctx: &Ctx, user: &UserId) -> Outcome<()> {
    match ctx.user()?.user_id == user {
        true => Ok(()),
        false => Err(DomainError::forbidden("That is another user's")),
    }
}

/// The refusal of what suspended users may not do (client-server API, "Account suspension").
#[must_use]
pub fn suspended() -> DomainError {
    DomainError::matrix(
        403,
        "M_USER_SUSPENDED",
        "you cannot do this while your account is suspended",
    )
}
