//! Registration (client-server API, "Account registration").

use actors::error::{DomainError, Outcome};
use actors::session::account::Registration;
use actors::session::email::{self, Proved};
use actors::session::uia::{self, Attempt, Authorised, Bound, Flow, Stage};
use actors::session::{localpart, password};
use ruma::OwnedUserId;
use ruma::api::client::account::register::v3::Request;
use ruma::api::client::account::register::{LoginType, RegistrationKind};
use ruma::api::client::account::{check_registration_token_validity, get_username_availability};
use serde_json::json;

use super::tokens::{logged_in, new_device};
use super::uia::fix_auth;
use crate::config;
use crate::http::context::Ctx;
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

const DUMMY: &[Flow] = &[&[Stage::Dummy]];
const DUMMY_OR_EMAIL: &[Flow] = &[&[Stage::Dummy], &[Stage::Email]];
const EMAIL: &[Flow] = &[&[Stage::Email]];
const TOKEN: &[Flow] = &[&[Stage::RegistrationToken]];
const TOKEN_OR_BOTH: &[Flow] = &[&[Stage::RegistrationToken], &[Stage::RegistrationToken, Stage::Email]];
const BOTH: &[Flow] = &[&[Stage::RegistrationToken, Stage::Email]];
/// How often another generated name is tried when one is taken.
const ATTEMPTS: usize = 5;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.open(register).limit(Class::Registration).fix(fix_auth);
    t.open(available).limit(Class::Registration);
    t.open(token_validity).limit(Class::Registration);
}

/// What somebody has to do to register.
fn flows(policy: &config::Registration, mail: bool) -> &'static [Flow] {
    let token = policy.require_token || !(policy.enabled_without_verification || policy.require_email);
    match (token, policy.require_email, mail) {
        (false, false, false) => DUMMY,
        (false, false, true) => DUMMY_OR_EMAIL,
        (false, true, _) => EMAIL,
        (true, false, false) => TOKEN,
        (true, false, true) => TOKEN_OR_BOTH,
        (true, true, _) => BOTH,
    }
}

fn require_enabled(ctx: &Ctx) -> Outcome<()> {
    match ctx.config.registration.enabled {
        true => Ok(()),
        false => Err(DomainError::forbidden("Registration is disabled")),
    }
}

async fn register(ctx: Ctx, request: Request) -> Outcome<Reply> {
    match &request.kind {
        RegistrationKind::User => {}
        RegistrationKind::Guest => return register_guest(&ctx, request).await,
        _ => return Err(DomainError::invalid_param("kind must be user or guest")),
    }
    if matches!(request.login_type, Some(LoginType::ApplicationService)) {
        return Err(DomainError::missing_token(
            "This is not the token of an application service",
        ));
    }
    require_enabled(&ctx)?;
    let wanted = match &request.username {
        Some(name) => Some(localpart::user_id(name, &ctx.hub.env().server_name)?),
        None => None,
    };
    if let Some(user) = &wanted {
        ctx.hub
            .sessions()
            .check_free(user)
            .await
            .map_err(|error| taken(&ctx, error))?;
    }
    let authorised = authorise(&ctx, &request).await?;
    let email = check_email(&ctx, authorised.as_ref()).await?;
    let password = request.password.as_deref();
    let password = password.ok_or_else(|| DomainError::missing_param("password is missing"))?;
    let password_hash = password::hash(ctx.hub.env(), password).await?;
    let device = new_device(
        &ctx,
        request.device_id,
        request.initial_device_display_name,
        request.refresh_token,
        true,
    );
    let new = Registration {
        password_hash: Some(password_hash),
        guest: false,
        admin: false,
        displayname: None,
        device: (!request.inhibit_login).then_some(device),
    };
    let token = authorised
        .as_ref()
        .and_then(|authorised| authorised.registration_token.clone());
    use_token(&ctx, token.as_deref()).await?;
    let made = create(&ctx, wanted, new, email).await;
    let done = match (made, token) {
        (Ok(done), _) => done,
        (Err(error), token) => {
            if let Some(token) = token {
                ctx.hub.env().store.release_registration_token(&token).await?;
            }
            return Err(taken(&ctx, error));
        }
    };
    if let Some(Authorised { session, .. }) = authorised {
        ctx.hub.env().uia.finish(&session);
    }
    Ok(done)
}

/// An address that has become another's since it was proved is refused before there is an account.
async fn check_email(ctx: &Ctx, authorised: Option<&Authorised>) -> Outcome<Option<Proved>> {
    let Some(proved) = authorised.and_then(|authorised| authorised.email.clone()) else {
        return Ok(None);
    };
    match email::owner(ctx.hub.env(), &proved.address).await? {
        None => Ok(Some(proved)),
        Some(_) => Err(email::in_use()),
    }
}

/// `None` where nothing has to be proved: without verification, a name and a password are enough for an implied
/// `m.login.dummy`.
async fn authorise(ctx: &Ctx, request: &Request) -> Outcome<Option<Authorised>> {
    let flows = flows(&ctx.config.registration, ctx.hub.env().mail.is_some());
    let complete = request.username.is_some() && request.password.is_some();
    if request.auth.is_none() && complete && flows.starts_with(DUMMY) {
        return Ok(None);
    }
    let attempt = Attempt {
        bound: bound(),
        flows,
        auth: request.auth.as_ref(),
    };
    uia::authorise(ctx.hub.env(), attempt).await.map(Some)
}

/// Clients ask for the flows before they know the name, so that a session is good for any registration.
fn bound() -> Bound {
    Bound::new("register", None, b"")
}

/// Counts the registration against the token that was shown. It may have been used up since.
async fn use_token(ctx: &Ctx, token: Option<&str>) -> Outcome<()> {
    let env = ctx.hub.env();
    let Some(token) = token else { return Ok(()) };
    if env.store.use_registration_token(token, env.clock.now_ms()).await? {
        return Ok(());
    }
    Err(uia::refuse(
        env,
        bound(),
        flows(&ctx.config.registration, env.mail.is_some()),
        "The registration token does not serve any more",
    ))
}

async fn create(ctx: &Ctx, wanted: Option<OwnedUserId>, new: Registration, email: Option<Proved>) -> Outcome<Reply> {
    let env = ctx.hub.env();
    let server = &env.server_name;
    if let Some(user) = wanted {
        return create_as(ctx, user, new, email).await;
    }
    for _ in 1..ATTEMPTS {
        let user = if new.guest {
            localpart::guest(&env.rng, server)?
        } else {
            localpart::random(&env.rng, server)?
        };
        match create_as(ctx, user, new.clone(), email.clone()).await {
            Err(error) if error.errcode() == Some("M_USER_IN_USE") => {}
            done => return done,
        }
    }
    Err(DomainError::unavailable("no free user name found"))
}

async fn create_as(ctx: &Ctx, user: OwnedUserId, new: Registration, email: Option<Proved>) -> Outcome<Reply> {
    let session = ctx.hub.sessions().register(&user, new).await?;
    if let Some(proved) = email {
        ctx.hub.sessions().add_email(&user, proved).await?;
    }
    match session {
        Some(session) => Reply::json(&logged_in(ctx, &session)),
        None => Reply::json(&json!({ "user_id": user, "home_server": user.server_name() })),
    }
}

/// The reference beside the specification answers 409 for a taken name.
fn taken(ctx: &Ctx, mut error: DomainError) -> DomainError {
    if let DomainError::Matrix { status, errcode, .. } = &mut error
        && errcode == "M_USER_IN_USE"
        && ctx.seed_profile()
    {
        *status = 409;
    }
    error
}

/// Of what a guest sends only the device's name counts.
async fn register_guest(ctx: &Ctx, request: Request) -> Outcome<Reply> {
    if !ctx.config.registration.allow_guest_access {
        return Err(DomainError::guest_forbidden("Guests are not welcome here"));
    }
    let device = new_device(ctx, None, request.initial_device_display_name, false, false);
    let new = Registration {
        password_hash: None,
        guest: true,
        admin: false,
        displayname: None,
        device: Some(device),
    };
    create(ctx, None, new, None).await
}

async fn available(ctx: Ctx, request: get_username_availability::v3::Request) -> Outcome<Reply> {
    require_enabled(&ctx)?;
    let user = localpart::user_id(&request.username, &ctx.hub.env().server_name)?;
    let free = ctx.hub.sessions().check_free(&user).await;
    free.map_err(|error| error.with("available", false))?;
    Reply::json(&json!({ "available": true }))
}

async fn token_validity(ctx: Ctx, request: check_registration_token_validity::v1::Request) -> Outcome<Reply> {
    require_enabled(&ctx)?;
    let valid = uia::is_registration_token_valid(ctx.hub.env(), &request.token).await?;
    Reply::json(&json!({ "valid": valid }))
}
