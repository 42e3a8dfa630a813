//! The keys that this server signs with (server-server API, "Retrieving server keys"). As a notary it vouches for no keys
//! but its own.

use actors::clock::Millis;
use actors::error::{DomainError, Outcome};
use actors::key::ServerKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::Method;
use ruma::api::federation::discovery::{get_remote_server_keys, get_remote_server_keys_batch, get_server_keys};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, ServerName};
use serde_json::json;

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::reply::Reply;

/// How long others may rely on the keys without asking again; the specification has servers believe a week at most.
const VALIDITY_MS: Millis = 7 * 24 * 60 * 60 * 1_000;

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    t.open(own);
    // With the id of a key in the path, as before version 1.6 of the specification; all keys are answered anyway.
    t.raw(Method::GET, "/_matrix/key/v2/server/{key_id}", Policy::Open, own_raw)
        .also("/_matrix/federation/v2/server");
    t.open(query);
    t.raw(
        Method::GET,
        "/_matrix/key/v2/query/{server_name}/{key_id}",
        Policy::Open,
        query_one_key,
    )
    .also("/_matrix/federation/v2/query/{server_name}/{key_id}");
    t.open(query_batch);
}

async fn own(ctx: Ctx, _: get_server_keys::v2::Request) -> Outcome<Reply> {
    Reply::json(&document_of(&ctx)?)
}

async fn own_raw(ctx: Ctx, _: RawRequest) -> Outcome<Reply> {
    Reply::json(&document_of(&ctx)?)
}

async fn query(ctx: Ctx, request: get_remote_server_keys::v2::Request) -> Outcome<Reply> {
    known(&ctx, request.server_name == ctx.hub.env().server_name)
}

async fn query_one_key(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let name: ruma::OwnedServerName = request.parse(0)?;
    known(&ctx, name == ctx.hub.env().server_name)
}

async fn query_batch(ctx: Ctx, request: get_remote_server_keys_batch::v2::Request) -> Outcome<Reply> {
    known(&ctx, request.server_keys.contains_key(&ctx.hub.env().server_name))
}

/// Servers whose keys are not known are left out of the answer.
fn known(ctx: &Ctx, asked_for_own: bool) -> Outcome<Reply> {
    let documents = if asked_for_own {
        vec![document_of(ctx)?]
    } else {
        Vec::new()
    };
    Reply::json(&json!({ "server_keys": documents }))
}

fn document_of(ctx: &Ctx) -> Outcome<CanonicalJsonObject> {
    let env = ctx.hub.env();
    document(&env.server_name, &env.key, env.clock.now_ms())
}

/// The server's keys, signed with themselves.
fn document(server: &ServerName, key: &ServerKey, now: Millis) -> Outcome<CanonicalJsonObject> {
    let internal = |error: &dyn std::fmt::Display| DomainError::internal(format!("key document: {error}"));
    let value = json!({
        "server_name": server,
        "valid_until_ts": now.saturating_add(VALIDITY_MS),
        "verify_keys": { key.id(): { "key": STANDARD_NO_PAD.encode(key.public_key()) } },
        "old_verify_keys": {},
    });
    let CanonicalJsonValue::Object(mut object) = value.try_into().map_err(|error| internal(&error))? else {
        return Err(DomainError::internal("key document: not an object"));
    };
    ruma::signatures::sign_json(server.as_str(), key, &mut object).map_err(|error| internal(&error))?;
    Ok(object)
}

#[cfg(test)]
mod tests {
    use ruma::serde::Base64;
    use ruma::server_name;
    use ruma::signatures::PublicKeyMap;

    use super::*;

    #[test]
    fn the_document_is_signed_with_the_key_it_names() {
        let (server, key) = (server_name!("example.org"), ServerKey::new(&[7; 32], "a_1"));
        let mut signed = document(server, &key, 1_000).expect("the document can be signed");
        let shown = serde_json::to_value(&signed).expect("canonical JSON is JSON");
        assert_eq!(shown["server_name"], "example.org");
        assert_eq!(shown["valid_until_ts"], 1_000 + 604_800_000);
        let public = shown["verify_keys"]["ed25519:a_1"]["key"]
            .as_str()
            .expect("the key is there");
        let public = Base64::parse(public).expect("the key is base64");
        assert_eq!(public.as_bytes(), key.public_key());

        let keys = PublicKeyMap::from([("example.org".to_owned(), [("ed25519:a_1".to_owned(), public)].into())]);
        ruma::signatures::verify_json(&keys, &signed).expect("the signature is good");
        signed.insert("valid_until_ts".to_owned(), CanonicalJsonValue::Integer(0.into()));
        assert!(ruma::signatures::verify_json(&keys, &signed).is_err());
    }
}
