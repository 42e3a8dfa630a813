//! Local users: lists, one user, making and changing one.

use actors::error::{DomainError, Outcome};
use actors::flows;
use actors::session::account::Registration;
use actors::session::{localpart, password};
use entities::store::admin::users::{ListedUser, UserFilter, UserOrder};
use http::{Method, StatusCode};
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::params::{flag, local_id, local_user, plain, set_next, slice};
use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// Registers the endpoints.
pub fn routes(t: &mut Table) {
    let admin = Policy::Admin;
    t.raw(Method::GET, "/_synapse/admin/v2/users", admin, list)
        .also("/_synapse/admin/v1/users");
    t.raw(Method::GET, "/_synapse/admin/v3/users", admin, list_tristate);
    t.raw(Method::GET, "/_synapse/admin/v2/users/{user_id}", admin, one)
        .also("/_synapse/admin/v1/users/{user_id}");
    t.raw(Method::PUT, "/_synapse/admin/v2/users/{user_id}", admin, put);
    t.raw(Method::DELETE, "/_synapse/admin/v1/users/{user_id}", admin, delete);
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/username_available",
        admin,
        username_available,
    );
    t.raw(
        Method::GET,
        "/_synapse/admin/v1/search_users/{target_user_id}",
        admin,
        search,
    );
}

/// As lists show a user: in the names of Synapse's interface and of the reference beside it.
fn shown(user: &ListedUser) -> Value {
    json!({
        "name": user.user_id,
        "user_id": user.user_id,
        "displayname": plain(user.displayname.as_deref()),
        "avatar_url": plain(user.avatar_url.as_deref()),
        "is_guest": user.is_guest,
        "admin": user.is_admin,
        "user_type": user.user_type,
        "deactivated": user.deactivated,
        "erased": user.erased,
        "locked": user.locked,
        "suspended": user.suspended,
        "shadow_banned": user.shadow_banned.unwrap_or(false),
        "approved": true,
        "creation_ts": user.created_ts,
        "last_seen_ts": user.last_seen_ts,
    })
}

fn order(ctx: &Ctx) -> Outcome<UserOrder> {
    Ok(match ctx.request.query_param("order_by").as_deref() {
        None | Some("name" | "user_id") => UserOrder::Name,
        Some("displayname") => UserOrder::Displayname,
        Some("is_guest") => UserOrder::Guest,
        Some("admin") => UserOrder::Admin,
        Some("user_type") => UserOrder::UserType,
        Some("deactivated") => UserOrder::Deactivated,
        Some("shadow_banned") => UserOrder::ShadowBanned,
        Some("avatar_url") => UserOrder::AvatarUrl,
        Some("creation_ts") => UserOrder::Created,
        Some("last_seen_ts") => UserOrder::LastSeen,
        Some("locked") => UserOrder::Locked,
        Some(_) => return Err(DomainError::invalid_param("unknown order_by")),
    })
}

/// Deactivated users only where they are asked for.
async fn list(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let deactivated = match flag(&ctx, "deactivated")? {
        Some(true) => None,
        _ => Some(false),
    };
    page(&ctx, deactivated).await
}

/// Only deactivated users, none of them, or all.
async fn list_tristate(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let deactivated = flag(&ctx, "deactivated")?;
    page(&ctx, deactivated).await
}

async fn page(ctx: &Ctx, deactivated: Option<bool>) -> Outcome<Reply> {
    let (user_id, name) = (ctx.request.query_param("user_id"), ctx.request.query_param("name"));
    let filter = UserFilter {
        user_id: user_id.as_deref(),
        name: name.as_deref(),
        guests: flag(ctx, "guests")?.filter(|wanted| !wanted),
        deactivated,
        admins: flag(ctx, "admins")?,
        locked: match flag(ctx, "locked")? {
            Some(true) | None => None,
            Some(false) => Some(false),
        },
    };
    let slice = slice(ctx, false)?;
    let (users, total) = ctx.hub.env().store.list_users(&filter, order(ctx)?, slice).await?;
    let mut answer = json!({ "users": users.iter().map(shown).collect::<Vec<_>>(), "total": total });
    set_next(&mut answer, slice, users.len(), total);
    Reply::json(&answer)
}

/// One user in full. Its registration is told in seconds, as Synapse does here and nowhere else.
async fn details(ctx: &Ctx, user: &UserId) -> Outcome<Value> {
    let env = ctx.hub.env();
    let missing = || DomainError::not_found("User not found");
    let listed = env.store.listed_user(user.as_str()).await?.ok_or_else(missing)?;
    let mut body = shown(&listed);
    body["creation_ts"] = (listed.created_ts / 1_000).into();
    body["consent_version"] = Value::Null;
    body["consent_server_notice_sent"] = Value::Null;
    body["consent_ts"] = Value::Null;
    body["appservice_id"] = Value::Null;
    let emails = env.store.emails_of(user.as_str()).await?;
    let shown = emails.iter().map(|email| {
        json!({
            "medium": "email",
            "address": email.address,
            "validated_at": email.validated_ts,
            "added_at": email.added_ts,
        })
    });
    body["threepids"] = shown.collect::<Vec<_>>().into();
    body["external_ids"] = json!([]);
    Ok(body)
}

async fn one(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let user = local_id(&ctx, &request, 0)?;
    Reply::json(&details(&ctx, &user).await?)
}

/// What is absent stays.
#[derive(Deserialize)]
struct Account {
    password: Option<String>,
    logout_devices: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    displayname: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    avatar_url: Option<Option<String>>,
    admin: Option<bool>,
    deactivated: Option<bool>,
    locked: Option<bool>,
    suspended: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    user_type: Option<Option<String>>,
    threepids: Option<Vec<Value>>,
    external_ids: Option<Vec<Value>>,
}

/// Tells `null` from what is absent.
fn given<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(value).map(Some)
}

impl Account {
    /// Refuses what there is not, before anything is done.
    fn check(&self) -> Outcome<()> {
        if self.threepids.as_ref().is_some_and(|all| !all.is_empty()) {
            return Err(DomainError::invalid_param(
                "users prove their mail addresses themselves: they are not set here (threepids)",
            ));
        }
        if self.external_ids.as_ref().is_some_and(|all| !all.is_empty()) {
            return Err(DomainError::invalid_param(
                "this server has no single sign-on (external_ids)",
            ));
        }
        if self.deactivated == Some(true) && self.admin == Some(true) {
            return Err(DomainError::invalid_param("a deactivated user is no administrator"));
        }
        Ok(())
    }
}

/// Makes a user (201) or changes one (200).
async fn put(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let user = local_id(&ctx, &request, 0)?;
    let account: Account = request.json()?;
    account.check()?;
    let own = ctx.user()?.user_id == user;
    if own && (account.admin == Some(false) || account.deactivated == Some(true)) {
        return Err(DomainError::invalid_param(
            "You may not take your own rights or your own account away",
        ));
    }
    let status = match ctx.hub.sessions().view(&user).await? {
        Some(view) => {
            change(&ctx, &user, &account, view.deactivated).await?;
            StatusCode::OK
        }
        None => {
            make(&ctx, &user, &account).await?;
            StatusCode::CREATED
        }
    };
    finish(&ctx, &user, &account).await?;
    Ok(Reply::json(&details(&ctx, &user).await?)?.with_status(status))
}

async fn make(ctx: &Ctx, user: &OwnedUserId, account: &Account) -> Outcome<()> {
    let env = ctx.hub.env();
    // The id must be one that a user could register.
    let named = localpart::user_id(user.localpart(), &env.server_name)?;
    if named != *user {
        return Err(DomainError::invalid_username("user names are in lower case"));
    }
    let password_hash = match &account.password {
        Some(new) => Some(password::hash(env, new).await?),
        None => None,
    };
    let registration = Registration {
        password_hash,
        guest: false,
        admin: account.admin.unwrap_or(false),
        displayname: account.displayname.clone().flatten(),
        device: None,
    };
    ctx.hub.sessions().register(user, registration).await.map(|_| ())
}

async fn change(ctx: &Ctx, user: &UserId, account: &Account, deactivated: bool) -> Outcome<()> {
    let sessions = ctx.hub.sessions();
    if deactivated && account.deactivated == Some(false) {
        return sessions.reactivate(user, account.password.as_deref()).await;
    }
    if let Some(new) = &account.password {
        let keep = (ctx.user()?.user_id == user).then(|| ctx.user().map(|own| own.device_id.clone()));
        sessions
            .set_password(user, new, account.logout_devices.unwrap_or(true), keep.transpose()?)
            .await?;
    }
    Ok(())
}

/// What is alike for new users and those that are there.
async fn finish(ctx: &Ctx, user: &UserId, account: &Account) -> Outcome<()> {
    let sessions = ctx.hub.sessions();
    if account.admin.is_some() || account.locked.is_some() || account.suspended.is_some() {
        sessions
            .set_flags(user, account.admin, account.locked, account.suspended)
            .await?;
    }
    for (name, value) in [
        ("displayname", &account.displayname),
        ("avatar_url", &account.avatar_url),
    ] {
        if let Some(value) = value {
            let value = value.clone().filter(|text| !text.is_empty()).map(Value::String);
            flows::profile::set_field(&ctx.hub, user, name.to_owned(), value).await?;
        }
    }
    if let Some(kind) = &account.user_type {
        let kind = kind.clone();
        ctx.hub.env().security.decide(user, |row| row.user_type = kind).await?;
    }
    if account.deactivated == Some(true) {
        flows::deactivate::deactivate(&ctx.hub, user, false).await?;
    }
    Ok(())
}

/// The end of the account, with everything that its user has said of itself.
async fn delete(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (user, _) = local_user(&ctx, &request, 0).await?;
    if ctx.user()?.user_id == user {
        return Err(DomainError::invalid_param("You may not delete your own account here"));
    }
    flows::deactivate::deactivate(&ctx.hub, &user, true).await?;
    Reply::json(&json!({ "deleted": true }))
}

async fn username_available(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    let name = ctx.request.query_param("username");
    let name = name.ok_or_else(|| DomainError::missing_param("username is missing"))?;
    let user = localpart::user_id(&name, &ctx.hub.env().server_name)?;
    ctx.hub.sessions().check_free(&user).await?;
    Reply::json(&json!({ "available": true }))
}

/// The local users whose id or name holds `term`; the user in the path only has to be one of this server.
async fn search(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    local_id(&ctx, &request, 0)?;
    let term = ctx.request.query_param("term");
    let term = term.ok_or_else(|| DomainError::missing_param("term is missing"))?;
    let filter = UserFilter {
        name: Some(&term),
        ..UserFilter::default()
    };
    let slice = slice(&ctx, false)?;
    let store = &ctx.hub.env().store;
    let (users, _) = store.list_users(&filter, UserOrder::Name, slice).await?;
    Reply::json(&users.iter().map(shown).collect::<Vec<_>>())
}
