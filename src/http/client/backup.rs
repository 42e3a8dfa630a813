//! The room key backup (client-server API, "Server-side key backups").

use std::collections::BTreeMap;

use actors::error::{DomainError, Outcome};
use actors::session::backup::{self, BackedUp, BackupCommand, BackupReply, Info, Rooms, Scope};
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::http::auth::Policy;
use crate::http::context::{Ctx, RawRequest};
use crate::http::endpoint::Table;
use crate::http::limits::Class;
use crate::http::reply::Reply;

/// Largest body with keys, bytes: clients send a few hundred sessions at a time.
const KEYS_BODY: usize = 8 * 1024 * 1024;
/// What the reference beside the specification takes where no algorithm is given.
const SEED_ALGORITHM: &str = "m.megolm.v1.aes-sha2";

/// One endpoint below `room_keys`, on all generations of paths.
macro_rules! on {
    ($table:ident, $method:ident, $path:literal, $handler:ident) => {
        $table
            .raw(
                Method::$method,
                concat!("/_matrix/client/v3/room_keys", $path),
                Policy::User,
                $handler,
            )
            .also(concat!("/_matrix/client/r0/room_keys", $path))
            .also(concat!("/_matrix/client/unstable/room_keys", $path))
            .limit(Class::Default)
            .body_limit(KEYS_BODY)
    };
}

/// Registers the chapter.
pub fn routes(t: &mut Table) {
    on!(t, GET, "/version", latest);
    on!(t, POST, "/version", create);
    on!(t, GET, "/version/{version}", version_info);
    on!(t, PUT, "/version/{version}", update);
    on!(t, DELETE, "/version/{version}", delete);
    on!(t, GET, "/keys", get_keys);
    on!(t, GET, "/keys/{room_id}", get_keys);
    on!(t, GET, "/keys/{room_id}/{session_id}", get_keys);
    on!(t, PUT, "/keys", put_keys);
    on!(t, PUT, "/keys/{room_id}", put_keys);
    on!(t, PUT, "/keys/{room_id}/{session_id}", put_keys);
    on!(t, DELETE, "/keys", delete_keys);
    on!(t, DELETE, "/keys/{room_id}", delete_keys);
    on!(t, DELETE, "/keys/{room_id}/{session_id}", delete_keys);
    // The reference beside the specification names the version in the path; versions are numbers, so neither of
    // `version` and `keys` is one.
    on!(t, GET, "/{version}", get_version_keys);
    on!(t, PUT, "/{version}", put_room_list);
    on!(t, POST, "/{version}/keys", put_room_lists);
    on!(t, GET, "/{version}/keys/{room_id}", get_version_room);
    on!(t, GET, "/{version}/keys/{room_id}/{session_id}", get_version_session);
    on!(t, POST, "/recover", recover);
}

/// A version's number; 0, which no version has, for anything else.
fn number(version: &str) -> i64 {
    let number = version.parse::<i64>().unwrap_or(0);
    if number > 0 && number.to_string() == version {
        number
    } else {
        0
    }
}

fn queried_version(ctx: &Ctx) -> Outcome<i64> {
    let version = ctx.request.query_param("version");
    let version = version.ok_or_else(|| DomainError::missing_param("version is missing"))?;
    Ok(number(&version))
}

fn path_version(request: &RawRequest) -> Outcome<i64> {
    request.arg(0).map(number)
}

/// What the path below `keys` names; `args` are those after the version.
fn scope(args: &[String]) -> Scope {
    match args {
        [] => Scope::All,
        [room] => Scope::Room(room.clone()),
        [room, session, ..] => Scope::Session(room.clone(), session.clone()),
    }
}

fn parse<T: DeserializeOwned>(json: &RawValue) -> Outcome<T> {
    serde_json::from_str(json.get()).map_err(|error| {
        let text = error.to_string();
        match text.starts_with("missing field") {
            true => DomainError::missing_param(text),
            false => DomainError::bad_json(text),
        }
    })
}

async fn latest(ctx: Ctx, _request: RawRequest) -> Outcome<Reply> {
    let versions = backup::list(ctx.hub.env(), &ctx.user()?.user_id).await?;
    let Some(current) = versions.last() else {
        if ctx.seed_profile() {
            return Reply::json(&json!({ "versions": [] }));
        }
        return Err(DomainError::not_found("No current backup version").with("versions", json!([])));
    };
    let mut answer = shown(current)?;
    answer["versions"] = versions.iter().map(shown).collect::<Outcome<Vec<Value>>>()?.into();
    Reply::json(&answer)
}

fn shown(info: &Info) -> Outcome<Value> {
    serde_json::to_value(info).map_err(|error| DomainError::internal(format!("backup: {error}")))
}

async fn version_info(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let version = path_version(&request)?;
    Reply::json(&backup::info(ctx.hub.env(), &ctx.user()?.user_id, version).await?)
}

#[derive(Deserialize)]
struct VersionBody {
    algorithm: Option<String>,
    auth_data: Option<Box<RawValue>>,
    version: Option<String>,
}

fn missing(name: &str) -> DomainError {
    DomainError::missing_param(format!("{name} is missing"))
}

async fn create(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let body: VersionBody = request.json()?;
    let seed = ctx.seed_profile();
    let algorithm = body.algorithm.or_else(|| seed.then(|| SEED_ALGORITHM.to_owned()));
    let nothing = || RawValue::from_string("{}".to_owned()).ok();
    let auth_data = body.auth_data.or_else(|| seed.then(nothing).flatten());
    let command = BackupCommand::Create {
        algorithm: algorithm.ok_or_else(|| missing("algorithm"))?,
        auth_data: auth_data.ok_or_else(|| missing("auth_data"))?,
    };
    match ctx.hub.sessions().backup(&ctx.user()?.user_id, command).await? {
        BackupReply::Created(version) => Reply::json(&json!({ "version": version.to_string() })),
        _ => Err(DomainError::internal("a backup was created without a version")),
    }
}

async fn update(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let body: VersionBody = request.json()?;
    let (user, version) = (&ctx.user()?.user_id, path_version(&request)?);
    if body.version.is_some_and(|named| number(&named) != version) {
        return Err(DomainError::invalid_param("The version is not the one in the path"));
    }
    let seed = ctx.seed_profile();
    if body.algorithm.is_none() && !seed {
        return Err(missing("algorithm"));
    }
    match body.auth_data {
        Some(auth_data) => {
            let algorithm = body.algorithm;
            let command = BackupCommand::Update {
                version,
                algorithm,
                auth_data,
            };
            ctx.hub.sessions().backup(user, command).await?;
        }
        None if seed => {
            backup::info(ctx.hub.env(), user, version).await?;
        }
        None => return Err(missing("auth_data")),
    }
    Reply::json(&json!({ "version": version.to_string() }))
}

async fn delete(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let version = path_version(&request)?;
    let command = BackupCommand::Delete { version };
    ctx.hub.sessions().backup(&ctx.user()?.user_id, command).await?;
    Reply::json(&json!({ "deleted": true, "version": version.to_string() }))
}

async fn keys(ctx: &Ctx, version: i64, scope: &Scope) -> Outcome<Rooms> {
    backup::keys(ctx.hub.env(), &ctx.user()?.user_id, version, scope).await
}

/// `{room: {"sessions": {…}}}`
fn rooms_shown(rooms: &Rooms) -> Value {
    let room =
        |(room, sessions): (&String, &BTreeMap<String, BackedUp>)| (room.clone(), json!({ "sessions": sessions }));
    rooms.iter().map(room).collect::<Map<_, _>>().into()
}

fn only_session(rooms: Rooms) -> Outcome<BackedUp> {
    let session = rooms.into_values().next().and_then(|room| room.into_values().next());
    session.ok_or_else(|| DomainError::not_found("Key not found"))
}

async fn get_keys(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (version, scope) = (queried_version(&ctx)?, scope(&request.args));
    let mut rooms = keys(&ctx, version, &scope).await?;
    match scope {
        Scope::All => Reply::json(&json!({ "rooms": rooms_shown(&rooms) })),
        Scope::Room(room) => Reply::json(&json!({ "sessions": rooms.remove(&room).unwrap_or_default() })),
        Scope::Session(..) => Reply::json(&only_session(rooms)?),
    }
}

async fn get_version_keys(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let version = path_version(&request)?;
    let info = backup::info(ctx.hub.env(), &ctx.user()?.user_id, version).await?;
    let rooms = keys(&ctx, version, &Scope::All).await?;
    Reply::json(&json!({ "rooms": rooms_shown(&rooms), "etag": info.etag }))
}

async fn get_version_room(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let rooms = keys(&ctx, path_version(&request)?, &Scope::Room(request.arg(1)?.to_owned())).await?;
    Reply::json(&json!({ "rooms": rooms_shown(&rooms) }))
}

async fn get_version_session(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (room, session) = (request.arg(1)?, request.arg(2)?);
    let scope = Scope::Session(room.to_owned(), session.to_owned());
    let found = only_session(keys(&ctx, path_version(&request)?, &scope).await?)?;
    Reply::json(&json!({
        "room_id": room,
        "session_id": session,
        "first_message_index": found.first_message_index,
        "forwarded_count": found.forwarded_count,
        "is_verified": found.is_verified,
        "session_data": found.session_data,
    }))
}

#[derive(Deserialize)]
struct RecoverBody {
    version: String,
    rooms: Option<Vec<String>>,
}

/// Not in the specification: the keys of a version, of some rooms only.
async fn recover(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let body: RecoverBody = request.json()?;
    let mut rooms = keys(&ctx, number(&body.version), &Scope::All).await?;
    let count = |rooms: &Rooms| rooms.values().map(BTreeMap::len).sum::<usize>();
    let total = count(&rooms);
    if let Some(wanted) = body.rooms {
        rooms.retain(|room, _| wanted.contains(room));
    }
    Reply::json(&json!({
        "rooms": rooms_shown(&rooms),
        "total_keys": total,
        "recovered_keys": count(&rooms),
    }))
}

#[derive(Deserialize)]
struct RoomBody {
    sessions: Box<RawValue>,
}

#[derive(Deserialize)]
struct RoomsBody {
    rooms: BTreeMap<String, RoomBody>,
}

/// A session as the reference beside the specification lists it.
#[derive(Deserialize)]
struct Listed {
    session_id: String,
    #[serde(default)]
    first_message_index: u64,
    #[serde(default)]
    forwarded_count: u64,
    #[serde(default)]
    is_verified: bool,
    session_data: Box<RawValue>,
}

/// Sessions by id, from a map as the specification has it or from a list.
fn sessions(body: &RoomBody) -> Outcome<BTreeMap<String, BackedUp>> {
    if !body.sessions.get().starts_with('[') {
        return parse(&body.sessions);
    }
    let list: Vec<Listed> = parse(&body.sessions)?;
    let by_id = |listed: Listed| {
        let session = BackedUp {
            first_message_index: listed.first_message_index,
            forwarded_count: listed.forwarded_count,
            is_verified: listed.is_verified,
            session_data: listed.session_data,
        };
        (listed.session_id, session)
    };
    Ok(list.into_iter().map(by_id).collect())
}

fn all_sessions(rooms: BTreeMap<String, RoomBody>) -> Outcome<Rooms> {
    let room = |(room, body): (String, RoomBody)| Ok((room, sessions(&body)?));
    rooms.into_iter().map(room).collect()
}

async fn store(ctx: &Ctx, command: BackupCommand) -> Outcome<Reply> {
    match ctx.hub.sessions().backup(&ctx.user()?.user_id, command).await? {
        BackupReply::State { count, etag } => Reply::json(&json!({ "count": count, "etag": etag.to_string() })),
        _ => Err(DomainError::internal("a backup was changed without a state")),
    }
}

async fn put_keys(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let version = queried_version(&ctx)?;
    let rooms = match scope(&request.args) {
        Scope::All => all_sessions(request.json::<RoomsBody>()?.rooms)?,
        Scope::Room(room) => Rooms::from([(room, sessions(&request.json()?)?)]),
        Scope::Session(room, session) => Rooms::from([(room, BTreeMap::from([(session, request.json()?)]))]),
    };
    store(&ctx, BackupCommand::Put { version, rooms }).await
}

async fn delete_keys(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let (version, scope) = (queried_version(&ctx)?, scope(&request.args));
    store(&ctx, BackupCommand::DeleteKeys { version, scope }).await
}

#[derive(Deserialize)]
struct ListBody {
    room_id: Option<String>,
    sessions: Option<Box<RawValue>>,
    rooms: Option<BTreeMap<String, RoomBody>>,
}

/// The keys of one room, or of several as the specification has them.
async fn put_room_list(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let version = path_version(&request)?;
    let body: ListBody = request.json()?;
    let mut rooms = all_sessions(body.rooms.unwrap_or_default())?;
    if let Some(list) = body.sessions {
        let room = body.room_id.ok_or_else(|| missing("room_id"))?;
        rooms.insert(room, sessions(&RoomBody { sessions: list })?);
    }
    store(&ctx, BackupCommand::Put { version, rooms }).await
}

async fn put_room_lists(ctx: Ctx, request: RawRequest) -> Outcome<Reply> {
    let version = path_version(&request)?;
    let rooms = all_sessions(request.json()?)?;
    store(&ctx, BackupCommand::Put { version, rooms }).await
}
