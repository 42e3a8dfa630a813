//! New rooms: from the options of `POST /createRoom` to the create event and the drafts that follow it. Pure.
//!
//! The order of events is the endpoint's. Spec: client-server API, "Creation"; room version 12 for creators.

use std::collections::HashMap;
use std::sync::Arc;

use ruma::api::client::room::Visibility;
use ruma::api::client::room::create_room::v3::{Request, RoomPreset};
use ruma::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use ruma::room_version_rules::RoomVersionRules;
use ruma::serde::Raw;
use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, RoomVersionId};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::commands::{Create, Draft};
use super::membership::Profile;
use super::plan::{Origin, seal, unsealed_create};
use super::rules;
use crate::error::{DomainError, Outcome};

/// Events of one new room at most.
const MAX_EVENTS: usize = 500;
/// Invites of one new room at most.
const MAX_INVITES: usize = 200;

/// What a new room is made from.
pub struct Options<'a> {
    /// The client's wishes.
    pub request: &'a Request,
    /// Who creates it.
    pub creator: &'a OwnedUserId,
    /// Profiles of the creator and of invited local users.
    pub profiles: &'a HashMap<OwnedUserId, Profile>,
    /// The version if the client names none.
    pub default_version: &'a RoomVersionId,
    /// Unix milliseconds.
    pub now: i64,
    /// This server.
    pub origin: &'a Origin,
}

/// A room ready to be created.
#[derive(Debug)]
pub struct NewRoom {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// What the room's writer is told.
    pub create: Create,
    /// Its alias, also in `create`.
    pub alias: Option<OwnedRoomAliasId>,
    /// Invites that other servers have to sign: for when the room is there.
    pub invites: Vec<Draft>,
}

/// Builds a new room.
///
/// # Errors
/// `M_UNSUPPORTED_ROOM_VERSION`, `M_BAD_JSON`, `M_INVALID_PARAM`, `M_TOO_LARGE`, `M_THREEPID_DENIED`.
pub fn build(options: &Options<'_>) -> Outcome<NewRoom> {
    let request = options.request;
    if !request.invite_3pid.is_empty() {
        let message = "this server uses no identity server, so it cannot invite by e-mail address or phone number";
        return Err(DomainError::matrix(403, "M_THREEPID_DENIED", message));
    }
    let version = request.room_version.as_ref().unwrap_or(options.default_version);
    let rules = rules::rules_for(version)
        .ok_or_else(|| DomainError::unsupported_room_version(format!("room version {version} is not supported")))?;
    let builder = Builder {
        options,
        version,
        rules,
        preset: preset(request),
        invites: invites(options)?,
    };
    let create = builder.create_event()?;
    let room_id = create.room_id.clone();
    let alias = builder.alias()?;
    let mut drafts = builder.basics(alias.as_deref())?;
    drafts.extend(builder.wishes()?);
    let (own, invites) = builder.invitations();
    drafts.extend(own);
    if drafts.len() > MAX_EVENTS {
        return Err(DomainError::too_large(format!(
            "a new room may have at most {MAX_EVENTS} events"
        )));
    }
    let aliases = alias
        .iter()
        .map(|alias| (alias.to_string(), options.creator.to_string()))
        .collect();
    let create = Create {
        version: version.to_string(),
        create_pdu: create.json.to_string(),
        drafts,
        aliases,
        published: request.visibility == Visibility::Public,
    };
    Ok(NewRoom {
        room_id,
        create,
        alias,
        invites,
    })
}

fn preset(request: &Request) -> RoomPreset {
    match (&request.preset, &request.visibility) {
        (Some(preset), _) => preset.clone(),
        (None, Visibility::Public) => RoomPreset::PublicChat,
        (None, _) => RoomPreset::PrivateChat,
    }
}

/// Everybody to invite, once.
fn invites(options: &Options<'_>) -> Outcome<Vec<OwnedUserId>> {
    let mut invites = Vec::new();
    for user in &options.request.invite {
        if user == options.creator {
            return Err(DomainError::forbidden("you cannot invite yourself"));
        }
        if !invites.contains(user) {
            invites.push(user.clone());
        }
    }
    if invites.len() > MAX_INVITES {
        return Err(DomainError::too_large(format!(
            "a new room may have at most {MAX_INVITES} invites"
        )));
    }
    Ok(invites)
}

struct Builder<'a> {
    options: &'a Options<'a>,
    version: &'a RoomVersionId,
    rules: Arc<RoomVersionRules>,
    preset: RoomPreset,
    invites: Vec<OwnedUserId>,
}

#[derive(Deserialize)]
struct InitialState {
    r#type: String,
    #[serde(default)]
    state_key: String,
    content: Box<RawValue>,
}

impl Builder<'_> {
    fn trusted(&self) -> bool {
        self.preset == RoomPreset::TrustedPrivateChat
    }

    fn state(&self, kind: &str, content: &Value) -> Draft {
        self.state_at(kind, "", content)
    }

    fn state_at(&self, kind: &str, state_key: &str, content: &Value) -> Draft {
        Draft::state(self.options.creator.clone(), kind, state_key, raw(content))
    }

    fn create_event(&self) -> Outcome<super::event::Pdu> {
        let Options {
            request,
            creator,
            now,
            origin,
            ..
        } = self.options;
        let mut content: CanonicalJsonObject = match &request.creation_content {
            Some(wish) => object(wish, "creation_content")?,
            None => CanonicalJsonObject::new(),
        };
        content.insert("room_version".to_owned(), self.version.to_string().into());
        let flags = &self.rules.authorization;
        if flags.use_room_create_sender {
            content.remove("creator");
        } else {
            content.insert("creator".to_owned(), creator.to_string().into());
        }
        if flags.additional_room_creators && self.trusted() {
            let mut creators = match content.remove("additional_creators") {
                Some(CanonicalJsonValue::Array(creators)) => creators,
                _ => Vec::new(),
            };
            for user in &self.invites {
                let user = CanonicalJsonValue::from(user.to_string());
                if !creators.contains(&user) {
                    creators.push(user);
                }
            }
            if !creators.is_empty() {
                content.insert("additional_creators".to_owned(), creators.into());
            }
        }
        let room_id = if flags.room_create_event_id_as_room_id {
            None
        } else {
            let id = format!("!{}:{}", origin.rng.alphanumeric(18), origin.server);
            Some(RoomId::parse(id).map_err(|e| DomainError::internal(format!("room id: {e}")))?)
        };
        seal(
            unsealed_create(creator.as_str(), content, room_id.as_deref(), *now),
            &self.rules,
            origin,
        )
    }

    fn alias(&self) -> Outcome<Option<OwnedRoomAliasId>> {
        let Some(name) = &self.options.request.room_alias_name else {
            return Ok(None);
        };
        let bad = |why: &str| DomainError::invalid_param(format!("room_alias_name {why}"));
        if name.is_empty() || name.contains([':', '\0']) || name.chars().any(char::is_whitespace) {
            return Err(bad("is empty or holds a colon, a NUL or white space"));
        }
        let alias = RoomAliasId::parse(format!("#{name}:{}", self.options.origin.server))
            .map_err(|e| bad(&format!("is not valid: {e}")))?;
        Ok(Some(alias))
    }

    /// The creator's join, power levels, the alias and what the preset brings.
    fn basics(&self, alias: Option<&RoomAliasId>) -> Outcome<Vec<Draft>> {
        let creator = self.options.creator;
        let mut drafts = vec![
            self.state_at("m.room.member", creator.as_str(), &self.member(creator, "join")),
            self.state("m.room.power_levels", &self.power_levels()?),
        ];
        if let Some(alias) = alias {
            drafts.push(self.state("m.room.canonical_alias", &json!({ "alias": alias })));
        }
        let (join_rule, guests) = match self.preset {
            RoomPreset::PublicChat => ("public", "forbidden"),
            _ => ("invite", "can_join"),
        };
        let preset = [
            ("m.room.join_rules", json!({ "join_rule": join_rule })),
            ("m.room.history_visibility", json!({ "history_visibility": "shared" })),
            ("m.room.guest_access", json!({ "guest_access": guests })),
        ];
        let wished = self.initial_state()?;
        let wished = |kind: &str| {
            wished
                .iter()
                .any(|state| state.r#type == kind && state.state_key.is_empty())
        };
        drafts.extend(
            preset
                .iter()
                .filter(|(kind, _)| !wished(kind))
                .map(|(kind, content)| self.state(kind, content)),
        );
        Ok(drafts)
    }

    fn initial_state(&self) -> Outcome<Vec<InitialState>> {
        let parse = |wish: &Raw<_>| {
            serde_json::from_str::<InitialState>(wish.json().get())
                .map_err(|e| DomainError::bad_json(format!("initial_state: {e}")))
        };
        self.options.request.initial_state.iter().map(parse).collect()
    }

    /// `initial_state`, `name` and `topic`.
    fn wishes(&self) -> Outcome<Vec<Draft>> {
        let request = self.options.request;
        let overridden = |state: &InitialState| {
            state.state_key.is_empty()
                && match state.r#type.as_str() {
                    "m.room.name" => request.name.is_some(),
                    "m.room.topic" => request.topic.is_some(),
                    _ => false,
                }
        };
        let states = self.initial_state()?.into_iter().filter(|state| !overridden(state));
        let draft = |s: InitialState| Draft::state(self.options.creator.clone(), &s.r#type, &s.state_key, s.content);
        let mut drafts: Vec<_> = states.map(draft).collect();
        if let Some(name) = &request.name {
            drafts.push(self.state("m.room.name", &json!({ "name": name })));
        }
        if let Some(topic) = &request.topic {
            let text = json!([{ "body": topic, "mimetype": "text/plain" }]);
            drafts.push(self.state(
                "m.room.topic",
                &json!({ "topic": topic, "m.topic": { "m.text": text } }),
            ));
        }
        Ok(drafts)
    }

    /// Those of this server's users, and those of others.
    fn invitations(&self) -> (Vec<Draft>, Vec<Draft>) {
        let invite = |user: &OwnedUserId| {
            let mut content = self.member(user, "invite");
            if self.options.request.is_direct {
                content["is_direct"] = true.into();
            }
            self.state_at("m.room.member", user.as_str(), &content)
        };
        let (own, others): (Vec<_>, Vec<_>) =
            (self.invites.iter()).partition(|user| user.server_name() == self.options.origin.server);
        (
            own.into_iter().map(invite).collect(),
            others.into_iter().map(invite).collect(),
        )
    }

    fn member(&self, user: &OwnedUserId, membership: &str) -> Value {
        let mut content = json!({ "membership": membership });
        if let Some(profile) = self.options.profiles.get(user) {
            for (name, value) in [
                ("displayname", &profile.displayname),
                ("avatar_url", &profile.avatar_url),
            ] {
                if let Some(value) = value {
                    content[name] = value.clone().into();
                }
            }
        }
        content
    }

    /// The default levels with the client's on top, key by key.
    fn power_levels(&self) -> Outcome<Value> {
        let privileged = self.rules.authorization.explicitly_privilege_room_creators;
        let mut users = Map::new();
        if !privileged {
            users.insert(self.options.creator.to_string(), 100.into());
            let trusted = if self.trusted() { self.invites.as_slice() } else { &[] };
            users.extend(trusted.iter().map(|user| (user.to_string(), Value::from(100))));
        }
        let mut levels = json!({
            "users": users,
            "users_default": 0,
            "events": {
                "m.room.avatar": 50,
                "m.room.canonical_alias": 50,
                "m.room.encryption": 100,
                "m.room.history_visibility": 100,
                "m.room.name": 50,
                "m.room.power_levels": 100,
                "m.room.server_acl": 100,
                // Creators of version 12 stand above any number; nobody else should end the room.
                "m.room.tombstone": if privileged { 150 } else { 100 },
            },
            "events_default": 0,
            "state_default": 50,
            "ban": 50,
            "kick": 50,
            "redact": 50,
            "invite": if self.preset == RoomPreset::PublicChat { 50 } else { 0 },
            "historical": 100,
        });
        if let Some(wish) = &self.options.request.power_level_content_override {
            let wish: Map<String, Value> = serde_json::from_str(wish.json().get())
                .map_err(|e| DomainError::bad_json(format!("power_level_content_override: {e}")))?;
            for (name, value) in wish {
                levels[name] = value;
            }
        }
        Ok(levels)
    }
}

fn raw(content: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(content).expect("a JSON value serializes")
}

fn object<T>(wish: &Raw<T>, name: &str) -> Outcome<CanonicalJsonObject> {
    serde_json::from_str(wish.json().get()).map_err(|e| DomainError::bad_json(format!("{name}: {e}")))
}
