//! Push rules (client-server API, "Push Rules: API").

use std::sync::Arc;

use actors::error::{DomainError, Outcome};
use actors::session::data::{DataCommand, PushRuleChange, ruleset_content};
use actors::session::view::UserView;
use http::Method;
use ruma::api::client::push::{
    PushRule, delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled, get_pushrules_all,
    get_pushrules_global_scope, set_pushrule, set_pushrule_actions, set_pushrule_enabled,
};
use ruma::push::RuleKind;
use serde_json::{Value, json};

use super::data::ask;
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest, RequestInfo};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.user(all);
    t.user(global);
    t.user(one);
    t.user(set).fix(complete);
    t.user(remove);
    t.user(enabled);
    t.user(set_enabled);
    t.user(actions);
    t.user(set_actions);
    t.raw(
        Method::GET,
        "/_matrix/client/v3/pushrules",
        Policy::User,
        all_without_slash,
    )
    .also("/_matrix/client/r0/pushrules");
}

/// Rules without conditions need not say so.
fn complete(body: &mut Value, _info: &RequestInfo) {
    if let Some(body) = body.as_object_mut() {
        body.entry("conditions").or_insert_with(|| json!([]));
    }
}

async fn view(ctx: &Ctx) -> Outcome<Arc<UserView>> {
    let view = ctx.hub.sessions().view(&ctx.user()?.user_id).await?;
    view.ok_or_else(|| DomainError::not_found("Unknown user"))
}

async fn all(ctx: Ctx, _request: get_pushrules_all::v3::Request) -> Outcome<Reply> {
    Reply::json(&ruleset_content(&view(&ctx).await?.push_rules))
}

async fn all_without_slash(ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    Reply::json(&ruleset_content(&view(&ctx).await?.push_rules))
}

async fn global(ctx: Ctx, _request: get_pushrules_global_scope::v3::Request) -> Outcome<Reply> {
    Reply::json(&ruleset_content(&view(&ctx).await?.push_rules)["global"])
}

async fn rule(ctx: &Ctx, kind: RuleKind, rule_id: &str) -> Outcome<PushRule> {
    let kind = known(kind)?;
    let view = view(ctx).await?;
    let rule = view.push_rules.get(kind, rule_id).map(PushRule::from);
    rule.ok_or_else(|| DomainError::not_found("The push rule was not found."))
}

fn known(kind: RuleKind) -> Outcome<RuleKind> {
    match kind {
        RuleKind::Override | RuleKind::Underride | RuleKind::Sender | RuleKind::Room | RuleKind::Content => Ok(kind),
        _ => Err(DomainError::invalid_param("unknown kind of push rule")),
    }
}

async fn one(ctx: Ctx, request: get_pushrule::v3::Request) -> Outcome<Reply> {
    Reply::json(&rule(&ctx, request.kind, &request.rule_id).await?)
}

async fn enabled(ctx: Ctx, request: get_pushrule_enabled::v3::Request) -> Outcome<Reply> {
    let rule = rule(&ctx, request.kind, &request.rule_id).await?;
    Reply::json(&json!({ "enabled": rule.enabled }))
}

async fn actions(ctx: Ctx, request: get_pushrule_actions::v3::Request) -> Outcome<Reply> {
    let rule = rule(&ctx, request.kind, &request.rule_id).await?;
    Reply::json(&json!({ "actions": rule.actions }))
}

async fn change(ctx: &Ctx, change: PushRuleChange) -> Outcome<Reply> {
    ask(ctx, DataCommand::PushRule(Box::new(change))).await?;
    Ok(Reply::empty())
}

async fn set(ctx: Ctx, request: set_pushrule::v3::Request) -> Outcome<Reply> {
    let insert = PushRuleChange::Insert {
        rule: request.rule,
        after: request.after,
        before: request.before,
    };
    change(&ctx, insert).await
}

async fn remove(ctx: Ctx, request: delete_pushrule::v3::Request) -> Outcome<Reply> {
    let remove = PushRuleChange::Remove {
        kind: known(request.kind)?,
        rule_id: request.rule_id,
    };
    change(&ctx, remove).await
}

async fn set_enabled(ctx: Ctx, request: set_pushrule_enabled::v3::Request) -> Outcome<Reply> {
    let enable = PushRuleChange::Enable {
        kind: known(request.kind)?,
        rule_id: request.rule_id,
        enabled: request.enabled,
    };
    change(&ctx, enable).await
}

async fn set_actions(ctx: Ctx, request: set_pushrule_actions::v3::Request) -> Outcome<Reply> {
    let act = PushRuleChange::Act {
        kind: known(request.kind)?,
        rule_id: request.rule_id,
        actions: request.actions,
    };
    change(&ctx, act).await
}
