//! Types of single configuration values. Each checks itself while it is parsed, so that the error carries the key's path.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::Url;

/// What stands where a secret would be shown.
const REDACTED: &str = "[redacted]";

/// A value that never reaches logs: `Debug` and `Serialize` show a placeholder.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself; for use at the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

/// Where the database is: `sqlite://path` or `postgres://user:password@host:port/name`.
/// `Debug` and `Serialize` leave the password out.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DatabaseUrl(String);

/// The two databases the server runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseKind {
    Sqlite,
    Postgres,
}

impl DatabaseUrl {
    /// The URL with its password; for opening the database.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn kind(&self) -> DatabaseKind {
        if self.0.starts_with("sqlite:") {
            DatabaseKind::Sqlite
        } else {
            DatabaseKind::Postgres
        }
    }

    /// The URL for people: without the password.
    pub fn redacted(&self) -> String {
        let Ok(mut url) = Url::parse(&self.0) else {
            return self.0.clone();
        };
        if url.password().is_none() {
            return self.0.clone();
        }
        match url.set_password(Some("redacted")) {
            Ok(()) => url.to_string(),
            Err(()) => REDACTED.to_owned(),
        }
    }
}

impl TryFrom<String> for DatabaseUrl {
    type Error = &'static str;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        if let Some(path) = value.strip_prefix("sqlite:") {
            if path.trim_start_matches('/').is_empty() {
                return Err("a SQLite URL needs a file: sqlite://data/synapse-rust.db");
            }
            if path.contains(":memory:") || path.contains("mode=memory") {
                return Err("the SQLite database must be a file: what is in memory only would be lost");
            }
            return Ok(Self(value));
        }
        let Ok(url) = Url::parse(&value) else {
            return Err("not a database URL: expected sqlite://path or postgres://user:password@host/name");
        };
        match url.scheme() {
            "postgres" | "postgresql" if url.path().trim_start_matches('/').is_empty() => {
                Err("a PostgreSQL URL needs the database's name: postgres://user:password@host/name")
            }
            "postgres" | "postgresql" => Ok(Self(value)),
            _ => Err("unknown kind of database: expected sqlite:// or postgres://"),
        }
    }
}

impl FromStr for DatabaseUrl {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Self::try_from(value.to_owned())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}

/// An absolute `http` or `https` URL without query and fragment, kept without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BaseUrl(String);

impl BaseUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BaseUrl {
    type Error = String;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        let url = Url::parse(&value).map_err(|error| format!("not a URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!(
                "expected an http or https URL, found the scheme `{}`",
                url.scheme()
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("a base URL has neither query nor fragment".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a base URL has neither user name nor password".to_owned());
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

impl FromStr for BaseUrl {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Self::try_from(value.to_owned())
    }
}

impl From<BaseUrl> for String {
    fn from(url: BaseUrl) -> Self {
        url.0
    }
}

/// A range of addresses in CIDR notation; a bare address is the range of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpRange(IpNet);

impl IpRange {
    pub fn net(&self) -> &IpNet {
        &self.0
    }

    /// Whether `address` lies in the range; an IPv4 address in IPv6 clothes (`::ffff:a.b.c.d`) counts as the IPv4 one.
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for IpRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.parse::<std::net::IpAddr>().map(IpNet::from);
        bare.or_else(|_| text.parse::<IpNet>())
            .map(|net| Self(net.trunc()))
            .map_err(|_| format!("`{text}` is not a range of addresses like 10.0.0.0/8"))
    }
}

impl TryFrom<String> for IpRange {
    type Error = String;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        value.parse()
    }
}

impl From<IpRange> for String {
    fn from(range: IpRange) -> Self {
        range.0.to_string()
    }
}

/// Ranges nobody should reach through this server: private, link-local, multicast and documentation addresses.
pub fn non_public_ranges() -> Vec<IpRange> {
    const RANGES: [&str; 21] = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
        "::/128",
        "::1/128",
        "2001:db8::/32",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    ];
    RANGES
        .iter()
        .map(|range| range.parse().expect("the ranges above are well-formed"))
        .collect()
}
