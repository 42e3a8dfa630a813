//! Defaults, then the file, then the environment; the first thing wrong is the one error.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::error::{Error as FigmentError, Kind};
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Value};
use figment::{Figment, Profile};

use super::{Config, validate};

/// Prefix of environment variables; the rest is the key's path with `__` for each dot.
pub const ENV_PREFIX: &str = "SYNAPSE_RUST_";

/// Variables that configure tests, not the server: one name, and a prefix.
const TEST_BINARY: &str = "SYNAPSE_RUST_BIN";
const TEST_PREFIX: &str = "SYNAPSE_RUST_TEST_";

/// Read when `--config` is not given and it exists.
pub const DEFAULT_PATH: &str = "config.toml";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    /// The file is not TOML; `detail` has line and column.
    #[error("{origin}: {detail}")]
    Syntax { origin: String, detail: String },
    /// The value at `key` (dotted path) cannot be used.
    #[error("{origin}: {key}: {detail}")]
    Key {
        origin: String,
        key: String,
        detail: String,
    },
}

/// The environment's variables with [`ENV_PREFIX`].
struct Environment(Vec<Variable>);

struct Variable {
    name: String,
    /// Dotted path of the key.
    key: String,
    value: String,
}

impl Environment {
    fn read(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut found = Vec::new();
        for (name, value) in variables {
            let Some(name) = name.to_str().map(str::to_owned) else {
                continue;
            };
            let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
                continue;
            };
            if name == TEST_BINARY || name == actors::failpoint::VARIABLE || name.starts_with(TEST_PREFIX) {
                continue;
            }
            let key = rest.to_ascii_lowercase().replace("__", ".");
            let Ok(value) = value.into_string() else {
                let detail = "the value is not UTF-8".to_owned();
                return Err(ConfigError::Key {
                    origin: format!("environment variable {name}"),
                    key,
                    detail,
                });
            };
            if key.split('.').any(str::is_empty) {
                let detail = "expected names separated by `__`".to_owned();
                return Err(ConfigError::Key {
                    origin: format!("environment variable {name}"),
                    key,
                    detail,
                });
            }
            found.push(Variable { name, key, value });
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self(found))
    }

    /// The variable that set `key` or something above it.
    fn origin(&self, key: &str) -> Option<&Variable> {
        self.0.iter().find(|variable| {
            key.strip_prefix(variable.key.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// The file's values overlaid with the variables; those in `verbatim` are strings whatever they look like.
    fn overlay(&self, mut figment: Figment, verbatim: &BTreeSet<String>) -> Figment {
        for variable in &self.0 {
            let value = if verbatim.contains(&variable.key) {
                Value::from(variable.value.clone())
            } else {
                match variable.value.parse::<Value>() {
                    Ok(value) => value,
                    Err(never) => match never {},
                }
            };
            let nested = figment::util::nest(&variable.key, value);
            let dict: Dict = nested.into_dict().unwrap_or_default();
            figment = figment.merge(Serialized::from(dict, Profile::Default));
        }
        figment
    }
}

/// Loads and validates: built-in defaults, then the file at `path` (`None`: `./config.toml` if it is there), then
/// the process's environment. Opens nothing but the file.
pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
    load_with(path, std::env::vars_os())
}

/// [`load`] with the variables given.
pub fn load_with(
    path: Option<&Path>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, ConfigError> {
    let default = Path::new(DEFAULT_PATH);
    let path = match path {
        Some(path) => Some(path),
        None => default.try_exists().unwrap_or(false).then_some(default),
    };
    let Some(path) = path else {
        return parse("built-in defaults", "", variables);
    };
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    parse(&path.display().to_string(), &text, variables)
}

/// Parses `text` (called `origin` in errors) over the defaults and under the variables, and validates.
pub fn parse(
    origin: &str,
    text: &str,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, ConfigError> {
    let environment = Environment::read(variables)?;
    let base = Figment::from(Serialized::defaults(Config::default())).merge(Toml::string(text));
    // A variable like `12345` looks like a number; only the key's type tells that it is a password.
    let mut verbatim = BTreeSet::new();
    let config = loop {
        match environment.overlay(base.clone(), &verbatim).extract::<Config>() {
            Ok(config) => break config,
            Err(error) => {
                let wants_string = matches!(&error.kind, Kind::InvalidType(_, expected) if expected.contains("string"));
                let source = environment.origin(&error.path.join("."));
                match source {
                    Some(variable) if wants_string && verbatim.insert(variable.key.clone()) => {}
                    _ => return Err(explain(origin, &environment, error)),
                }
            }
        }
    };
    validate::validate(&config).map_err(|problem| ConfigError::Key {
        origin: origin_of(origin, &environment, &problem.key),
        key: problem.key,
        detail: problem.detail,
    })?;
    Ok(config)
}

fn origin_of(origin: &str, environment: &Environment, key: &str) -> String {
    match environment.origin(key) {
        Some(variable) => format!("environment variable {}", variable.name),
        None => origin.to_owned(),
    }
}

fn explain(origin: &str, environment: &Environment, error: FigmentError) -> ConfigError {
    let mut path = error.path.clone();
    let secret = path
        .last()
        .is_some_and(|key| matches!(key.as_str(), "shared_secret" | "password" | "url"));
    let detail = match error.kind {
        Kind::UnknownField(name, expected) => {
            if path.last() != Some(&name) {
                path.push(name);
            }
            format!("unknown key; known here: {}", expected.join(", "))
        }
        Kind::MissingField(name) => {
            path.push(name.into_owned());
            "missing".to_owned()
        }
        Kind::InvalidType(_, expected) if secret => format!("wrong type: expected {}", type_name(&expected)),
        Kind::InvalidType(found, expected) => format!("wrong type: found {found}, expected {}", type_name(&expected)),
        Kind::InvalidValue(found, expected) => format!("impossible value: found {found}, expected {expected}"),
        Kind::UnknownVariant(name, expected) => {
            format!(
                "impossible value: found `{name}`, expected one of {}",
                expected.join(", ")
            )
        }
        Kind::Message(detail) if path.is_empty() => {
            return ConfigError::Syntax {
                origin: origin.to_owned(),
                detail: detail.trim_end().to_owned(),
            };
        }
        other => other.to_string(),
    };
    let key = path.join(".");
    ConfigError::Key {
        origin: origin_of(origin, environment, &key),
        key,
        detail,
    }
}

/// The program's words for types in those of TOML.
fn type_name(expected: &str) -> &str {
    match expected {
        "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "f64" => "a number",
        "a sequence" => "a list",
        name if name.starts_with("struct ") => "a table",
        name => name,
    }
}
