//! `register-user`: on the running server through the shared-secret API, on a stopped one straight in the database.

use std::net::IpAddr;
use std::time::Duration;

use actors::clock::Clock;
use actors::rng::Rng;
use actors::session::{account, localpart, password};
use entities::error::StoreError;
use entities::user;
use hmac::{Hmac, KeyInit as _, Mac as _};
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::json;
use sha1::Sha1;

use super::{Failure, RegisterUser, prompt, small_runtime};
use crate::boot;
use crate::config::{Config, Resource, Secret};

/// Hashing a password on a busy machine takes a while.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Somebody to register.
struct NewUser {
    id: OwnedUserId,
    password: String,
    admin: bool,
}

pub(super) fn run(config: &Config, args: RegisterUser) -> Result<(), Failure> {
    let base = match &args.server_url {
        Some(url) => Some(url.as_str().to_owned()),
        None => local_url(config),
    };
    let named = args.server_url.is_some();
    let user = complete(config, args)?;
    let outcome = small_runtime()?.block_on(async {
        match base {
            None => {
                let detail = "no listener has the resource `admin`; add it, or name the server with --server-url";
                Err(Failure::Usage(detail.to_owned()))
            }
            Some(base) => match ask(&base).await? {
                Some(answer) => on_server(&base, answer, config.registration.shared_secret.as_ref(), &user).await,
                None if named => Err(Failure::Failed(format!("nobody answers at {base}"))),
                None => in_database(config, &user).await,
            },
        }
    });
    outcome?;
    println!(
        "registered {}{}",
        user.id,
        if user.admin { ", an administrator" } else { "" }
    );
    Ok(())
}

/// Asks for what the arguments leave open.
fn complete(config: &Config, args: RegisterUser) -> Result<NewUser, Failure> {
    let missing = |name: &str| Failure::Usage(format!("--{name} is needed (there is no terminal to ask on)"));
    let asking = prompt::can_ask();
    let name = match args.user {
        Some(name) => name,
        None if asking => prompt::ask("User name: ")?,
        None => return Err(missing("user")),
    };
    let id = user_id(config, &name)?;
    let password = match args.password {
        Some(password) => password,
        None if asking => prompt::new_password()?,
        None => return Err(missing("password")),
    };
    if password.is_empty() {
        return Err(Failure::Usage("the password is empty".to_owned()));
    }
    let admin = match (args.admin, args.no_admin) {
        (false, false) if asking => prompt::confirm("Make this user an administrator?")?,
        (admin, _) => admin,
    };
    Ok(NewUser { id, password, admin })
}

/// A full user id of this server from `alice` or `@alice:server.name`.
fn user_id(config: &Config, name: &str) -> Result<OwnedUserId, Failure> {
    let invalid = |detail: &dyn std::fmt::Display| Failure::Usage(format!("user name `{name}`: {detail}"));
    let local = match name.strip_prefix('@') {
        None => name,
        Some(full) => match full.split_once(':') {
            Some((local, server)) if config.server_name == server => local,
            _ => return Err(invalid(&format!("this server is {}", config.server_name))),
        },
    };
    localpart::user_id(local, &config.server_name).map_err(|error| invalid(&error))
}

/// Where this machine reaches the administration API of the server with this configuration.
fn local_url(config: &Config) -> Option<String> {
    let mut listeners: Vec<_> = config
        .listeners
        .iter()
        .filter(|listener| listener.serves(Resource::Admin))
        .collect();
    listeners.sort_by_key(|listener| listener.tls);
    let listener = listeners.first()?;
    let scheme = if listener.tls { "https" } else { "http" };
    let host = match listener.bind_addresses.first()? {
        IpAddr::V4(address) if address.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) if address.is_unspecified() => "[::1]".to_owned(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    Some(format!("{scheme}://{host}:{}", listener.port))
}

fn client(base: &str) -> Result<reqwest::Client, Failure> {
    // The certificate names the server, not the loopback address; nobody else can answer there.
    let own_machine = ["https://127.", "https://[::1]", "https://localhost"]
        .iter()
        .any(|start| base.starts_with(start));
    reqwest::Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .tls_danger_accept_invalid_certs(own_machine)
        .build()
        .map_err(|error| Failure::Failed(format!("HTTP client: {error}")))
}

#[derive(Deserialize)]
struct NonceAnswer {
    nonce: String,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    errcode: String,
    #[serde(default)]
    error: String,
}

fn register_url(base: &str) -> String {
    format!("{base}/_synapse/admin/v1/register")
}

/// Asks for a word to sign; `None` if nobody listens there.
async fn ask(base: &str) -> Result<Option<reqwest::Response>, Failure> {
    match client(base)?.get(register_url(base)).send().await {
        Ok(response) => Ok(Some(response)),
        Err(error) if error.is_connect() => Ok(None),
        Err(error) => Err(Failure::Failed(format!("{base}: {error}"))),
    }
}

/// Registers on the server that gave `answer` to [`ask`].
async fn on_server(
    base: &str,
    answer: reqwest::Response,
    secret: Option<&Secret>,
    user: &NewUser,
) -> Result<(), Failure> {
    let Some(secret) = secret else {
        let detail =
            format!("the server at {base} is running: set registration.shared_secret (and restart), or stop it");
        return Err(Failure::Usage(detail));
    };
    let NonceAnswer { nonce } = read_answer(base, answer).await?;
    let name = user.id.localpart();
    let body = json!({
        "nonce": nonce,
        "username": name,
        "password": user.password,
        "admin": user.admin,
        "mac": mac(secret.expose(), &nonce, name, &user.password, user.admin),
    });
    let sent = client(base)?.post(register_url(base)).json(&body).send().await;
    let response = sent.map_err(|error| Failure::Failed(format!("{base}: {error}")))?;
    read_answer::<serde_json::Value>(base, response).await.map(|_| ())
}

/// Writes the user into the database. The journal is left alone: should the server run after all, it keeps running.
async fn in_database(config: &Config, user: &NewUser) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
    let store = boot::open_store(config).await.map_err(|error| failed(&error))?;
    let hash = password::hash_now(&boot::settings(config), &Rng::system(), &user.password);
    let row = user::Model {
        user_id: user.id.to_string(),
        password_hash: Some(hash.map_err(|error| failed(&error))?.into_inner()),
        is_admin: user.admin,
        is_guest: false,
        deactivated: false,
        erased: false,
        locked: false,
        suspended: false,
        created_ts: Clock::system().now_ms(),
    };
    let made = store.create_user(&row, &[], None).await;
    let closed = store.close().await;
    match made {
        Err(StoreError::Duplicate(_)) => return Err(failed(&account::taken())),
        outcome => outcome.map_err(|error| failed(&error))?,
    }
    closed.map_err(|error| failed(&error))
}

async fn read_answer<T: serde::de::DeserializeOwned>(base: &str, response: reqwest::Response) -> Result<T, Failure> {
    let status = response.status();
    let body = response
        .bytes()
        .await
        .map_err(|error| Failure::Failed(format!("{base}: {error}")))?;
    if !status.is_success() {
        return Err(Failure::Failed(match serde_json::from_slice::<ErrorAnswer>(&body) {
            Ok(answer) => format!("{base}: {} {}", answer.errcode, answer.error),
            Err(_) => format!("{base}: HTTP status {status}"),
        }));
    }
    serde_json::from_slice(&body)
        .map_err(|_| Failure::Failed(format!("{base}: the answer is not the registration API's")))
}

/// HMAC-SHA1 in hexadecimal of `nonce NUL user NUL password NUL admin|notadmin` with the shared secret as the key.
pub(super) fn mac(secret: &str, nonce: &str, user: &str, password: &str, admin: bool) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    let admin = if admin { "admin" } else { "notadmin" };
    mac.update([nonce, user, password, admin].join("\0").as_bytes());
    mac.finalize()
        .into_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
