use std::ffi::OsString;
use std::path::Path;

use super::*;

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect()
}

fn parsed(text: &str) -> Config {
    parse("config.toml", text, []).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    match parse("config.toml", text, []) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => assert_eq!(error.to_string(), format!("config.toml: {expected}")),
    }
}

#[track_caller]
fn refused_from(environment: &[(&str, &str)], expected: &str) {
    match parse("config.toml", "", variables(environment)) {
        Ok(_) => panic!("accepted: {environment:?}"),
        Err(error) => assert_eq!(error.to_string(), expected),
    }
}

/// The shipped file with its commented-out keys switched on.
fn template_with_everything() -> String {
    let is_key = |line: &str| {
        let name = line.split(" = ").next().unwrap_or_default();
        line.contains(" = ") && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let switched_on = |line: &'static str| match line.strip_prefix("# ") {
        Some(rest) if is_key(rest) => rest,
        _ => line,
    };
    TEMPLATE
        .lines()
        .map(switched_on)
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn the_shipped_file_is_the_defaults() {
    assert_eq!(parsed(TEMPLATE), Config::default());
    assert_eq!(parsed(""), Config::default());
}

#[test]
fn the_shipped_file_has_every_key() {
    let everything: toml::Table = template_with_everything().parse().expect("the examples are TOML");
    let everything = serde_json::to_value(everything).expect("a table of plain values is JSON");
    let mut in_file = Vec::new();
    flatten(String::new(), everything.clone(), &mut in_file);
    let in_file: Vec<&str> = in_file.iter().map(|(path, _)| path.as_str()).collect();
    let config = Config::default().flattened();
    for (path, _) in &config {
        assert!(in_file.contains(&path.as_str()), "config.toml lacks {path}");
    }
    assert_eq!(in_file.len(), config.len(), "no key stands there twice");

    let listener = serde_json::to_value(Listener::default()).expect("a listener is JSON");
    for name in listener.as_object().expect("a listener is a table").keys() {
        assert!(
            everything["listeners"][0].get(name).is_some(),
            "config.toml lacks listeners.{name}"
        );
    }
}

#[test]
fn the_examples_in_the_shipped_file_are_good() {
    let config = parsed(&template_with_everything());
    assert_eq!(
        config.client_base_url().map(BaseUrl::as_str),
        Some("https://matrix.example.org")
    );
    assert_eq!(
        config.registration.shared_secret.as_ref().map(Secret::expose),
        Some("a long random text")
    );
}

#[test]
fn the_environment_beats_the_file_and_the_file_the_defaults() {
    let text = "server_name = \"file.example\"\n[logging]\nlevel = \"warn\"\n[rate_limits.login]\nburst = 7\n";
    let environment = variables(&[
        ("SYNAPSE_RUST_SERVER_NAME", "env.example"),
        ("SYNAPSE_RUST_DATABASE__URL", "postgres://matrix:hunter2@db/matrix"),
        ("SYNAPSE_RUST_RATE_LIMITS__LOGIN__PER_SECOND", "3"),
        ("SYNAPSE_RUST_FEDERATION__ENABLED", "false"),
        ("SYNAPSE_RUST_FEDERATION__IP_RANGE_BLOCKLIST", r#"["10.0.0.0/8"]"#),
        ("SYNAPSE_RUST_TEST_POSTGRES", "not ours"),
        ("SYNAPSE_RUST_BIN", "not ours"),
        ("OTHER", "not ours either"),
    ]);
    let config = parse("config.toml", text, environment).expect("all of it is good");
    assert_eq!(config.server_name, "env.example");
    assert_eq!(config.database.url.expose(), "postgres://matrix:hunter2@db/matrix");
    assert_eq!(config.database.max_connections, 24, "a default");
    assert_eq!(config.logging.level, "warn", "from the file");
    assert_eq!(
        config.rate_limits.login,
        RateLimit {
            per_second: 3.0,
            burst: 7
        },
        "from all three"
    );
    assert!(!config.federation.enabled);
    assert_eq!(config.federation.ip_range_blocklist.len(), 1);
}

#[test]
fn strings_in_the_environment_may_look_like_anything() {
    let environment = variables(&[
        ("SYNAPSE_RUST_REGISTRATION__SHARED_SECRET", "00123"),
        ("SYNAPSE_RUST_DEFAULT_ROOM_VERSION", "10"),
        ("SYNAPSE_RUST_TURN__PASSWORD", "true"),
        ("SYNAPSE_RUST_TURN__USERNAME", "[x]"),
    ]);
    let config = parse("config.toml", "", environment).expect("all of it is good");
    assert_eq!(config.registration.shared_secret, Some(Secret::new("00123")));
    assert_eq!(config.default_room_version, RoomVersionId::V10);
    assert_eq!(config.turn.password, Some(Secret::new("true")));
    assert_eq!(config.turn.username.as_deref(), Some("[x]"));
}

#[test]
fn a_whole_list_of_listeners_can_come_from_the_environment() {
    let value = r#"[{bind_addresses=["::"],port=80,resources=["client"]},{port=81,resources=["metrics"]}]"#;
    let config = parse("config.toml", "", variables(&[("SYNAPSE_RUST_LISTENERS", value)])).expect("it is good");
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.listeners[1].port, 81);
    assert!(config.listeners[1].serves(Resource::Metrics) && !config.listeners[1].serves(Resource::Client));
}

#[test]
fn unknown_keys_are_named() {
    refused(
        "server_nam = \"x\"",
        "server_nam: unknown key; known here: server_name, public_baseurl, signing_key_path, old_signing_keys, \
         default_room_version, listeners, database, logging, registration, email, passwords, tokens, ui_auth, rate_limits, \
         federation, policy_server, http_client, room_directory, user_directory, user_limits, presence, \
         media, voice, turn, rtc, delayed_events, client_well_known, server_well_known, support, actors, compat",
    );
    refused(
        "[database]\nurI = \"x\"",
        "database.urI: unknown key; known here: url, max_connections",
    );
    refused(
        "[rate_limits.login]\nrate = 1",
        "rate_limits.login.rate: unknown key; known here: per_second, burst",
    );
    refused(
        "[[listeners]]\nport = 1\nhost = \"x\"",
        "listeners.0.host: unknown key; known here: bind_addresses, port, tls, tls_certificate_path, \
         tls_private_key_path, x_forwarded, resources",
    );
    refused_from(
        &[("SYNAPSE_RUST_DATABASE__POOL", "3")],
        "environment variable SYNAPSE_RUST_DATABASE__POOL: database.pool: unknown key; known here: url, \
         max_connections",
    );
}

#[test]
fn wrong_types_are_named() {
    refused(
        "[database]\nmax_connections = \"many\"",
        "database.max_connections: wrong type: found string \"many\", expected a whole number that is not negative",
    );
    refused(
        "server_name = 3",
        "server_name: wrong type: found signed int `3`, expected a string",
    );
    refused(
        "database = 3",
        "database: wrong type: found signed int `3`, expected a table",
    );
    refused(
        "[registration]\nshared_secret = 3",
        "registration.shared_secret: wrong type: expected a string",
    );
    refused(
        "[[listeners]]\nbind_addresses = [\"127.0.0.1\", 1]",
        "listeners.0.bind_addresses.1: wrong type: found signed int `1`, expected IP address",
    );
    refused_from(
        &[("SYNAPSE_RUST_FEDERATION__ENABLED", "maybe")],
        "environment variable SYNAPSE_RUST_FEDERATION__ENABLED: federation.enabled: wrong type: found string \
         \"maybe\", expected a boolean",
    );
    refused_from(
        &[("SYNAPSE_RUST_", "x")],
        "environment variable SYNAPSE_RUST_: : expected names separated by `__`",
    );
}

#[test]
fn impossible_values_are_named() {
    refused(
        "server_name = \"a b\"",
        "server_name: server name is not a valid IP address or domain name",
    );
    refused(
        "default_room_version = \"13\"",
        "default_room_version: room version `13` is not supported: 1 to 12 are",
    );
    refused("signing_key_path = \"\"", "signing_key_path: a file name is needed");
    let old = |id: &str, key: &str| format!("{{ key_id = \"{id}\", public_key = \"{key}\", expired_ts = 1 }}");
    let good = old("ed25519:a", &"A".repeat(43));
    refused(
        &format!("old_signing_keys = [{}]", old("a", "")),
        "old_signing_keys.0.key_id: `a` is not `ed25519:` and letters, digits and `_`",
    );
    refused(
        &format!("old_signing_keys = [{good}, {good}]"),
        "old_signing_keys.1.key_id: `ed25519:a` stands above already",
    );
    refused(
        &format!("old_signing_keys = [{good}, {}]", old("ed25519:b", "AAAA")),
        "old_signing_keys.1.public_key: not base64 of the 32 bytes of an ed25519 public key",
    );
    refused(
        "[federation]\ntrusted_key_servers = [\"a b\"]",
        "federation.trusted_key_servers.0: server name is not a valid IP address or domain name",
    );
    refused(
        "public_baseurl = \"ftp://x\"",
        "public_baseurl: expected an http or https URL, found the scheme `ftp`",
    );
    refused(
        "public_baseurl = \"x\"",
        "public_baseurl: not a URL: relative URL without a base",
    );
    refused(
        "public_baseurl = \"http://x/?a=b\"",
        "public_baseurl: a base URL has neither query nor fragment",
    );
    refused(
        "public_baseurl = \"http://u@x\"",
        "public_baseurl: a base URL has neither user name nor password",
    );
    refused(
        "[database]\nurl = \"mysql://x/y\"",
        "database.url: unknown kind of database: expected sqlite:// or postgres://",
    );
    refused(
        "[database]\nurl = \"postgres://x\"",
        "database.url: a PostgreSQL URL needs the database's name: postgres://user:password@host/name",
    );
    refused(
        "[database]\nmax_connections = 2",
        "database.max_connections: 2 is too small: at least 8",
    );
    refused(
        "[user_limits]\nfilters = 0",
        "user_limits.filters: 0 is too small: at least 1",
    );
    refused(
        "[logging]\nlevel = \"loud=very\"",
        "logging.level: `loud=very` is not a level (error, warn, info, debug, trace) or list of directives",
    );
    refused(
        "[logging]\nformat = \"xml\"",
        "logging.format: impossible value: found `xml`, expected one of text, json",
    );
    refused(
        "[compat]\nr0_profile = \"x\"",
        "compat.r0_profile: impossible value: found `x`, expected one of seed, matrix",
    );
    refused(
        "[federation]\nip_range_blocklist = [\"10.0.0.0/8\", \"10/8\"]",
        "federation.ip_range_blocklist.1: `10/8` is not a range of addresses like 10.0.0.0/8",
    );
    refused(
        "[rate_limits.media]\nper_second = 0",
        "rate_limits.media.per_second: 0 is impossible: between 0.0001 and 1000000 (rate_limits.enabled = false \
         switches off)",
    );
    refused(
        "[rate_limits.media]\nburst = 0",
        "rate_limits.media.burst: 0 is too small: at least 1",
    );
    refused(
        "[passwords]\nparallelism = 4\nmemory_kib = 31",
        "passwords.memory_kib: 31 is too small: at least 32",
    );
    refused(
        "[tokens]\naccess_token_lifetime_secs = 0",
        "tokens.access_token_lifetime_secs: 0 is too small: at least 1",
    );
    refused(
        "[registration]\nshared_secret = \" \"",
        "registration.shared_secret: an empty secret protects nothing; leave the key out to switch it off",
    );
    refused(
        "[media]\nurl_preview_enabled = true\nurl_preview_ip_range_blocklist = []",
        "media.url_preview_ip_range_blocklist: previews need a blocklist: without one users read the server's own \
         network through it",
    );
    refused(
        "[turn]\nuris = [\"turn:x\"]",
        "turn.shared_secret: missing: turn.uris need shared_secret, or username and password",
    );
    refused(
        "[server_well_known]\ndelegate_to = \"https://x\"",
        "server_well_known.delegate_to: `https://x` is not a server name (host or host:port)",
    );
    refused(
        "[[support.contacts]]\nrole = \"m.role.admin\"",
        "support.contacts.0: a contact needs matrix_id or email_address",
    );
}

#[test]
fn listeners_must_fit_together() {
    refused("listeners = []", "listeners: at least one listener is needed");
    refused(
        "[[listeners]]\nbind_addresses = []",
        "listeners.0.bind_addresses: at least one address is needed",
    );
    refused(
        "[[listeners]]\nresources = []",
        "listeners.0.resources: at least one resource is needed",
    );
    refused(
        "[[listeners]]\nresources = [\"client\", \"client\"]",
        "listeners.0.resources: a resource is named twice",
    );
    refused(
        "[[listeners]]\ntls = true\ntls_certificate_path = \"cert.pem\"",
        "listeners.0.tls_private_key_path: missing: `tls = true` needs certificate and private key",
    );
    refused(
        "[[listeners]]\nport = 1\n[[listeners]]\nport = 1\n",
        "listeners.1.port: 127.0.0.1 port 1 is already taken above",
    );
    assert_eq!(
        parsed("[[listeners]]\nport = 0\n[[listeners]]\nport = 0\n")
            .listeners
            .len(),
        2
    );
}

#[test]
fn text_that_is_not_toml_is_shown_with_its_place() {
    let error = parse("config.toml", "server_name = \n", []).expect_err("a value is missing");
    let text = error.to_string();
    assert!(
        matches!(error, ConfigError::Syntax { .. }) && text.contains("line 1"),
        "{text}"
    );
}

#[test]
fn a_named_file_must_be_there() {
    let error = load_with(Some(Path::new("/nonexistent/config.toml")), []).expect_err("there is no such file");
    assert!(
        error.to_string().starts_with("cannot read /nonexistent/config.toml: "),
        "{error}"
    );
}

#[test]
fn secrets_are_never_shown() {
    let text = "[database]\nurl = \"postgres://matrix:hunter2@db/matrix\"\n\
                [registration]\nshared_secret = \"hunter2\"\n[turn]\nshared_secret = \"hunter2\"\npassword = \"hunter2\"\n";
    let config = parsed(text);
    assert_eq!(
        config.registration.shared_secret.as_ref().map(Secret::expose),
        Some("hunter2")
    );
    let shown = format!(
        "{config:?} {}",
        serde_json::to_string(&config).expect("a configuration is JSON")
    );
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("postgres://matrix:redacted@db/matrix"), "{shown}");
}

#[test]
fn ranges_hold_addresses_in_both_clothes() {
    let blocked = |text: &str| {
        let address = text.parse().expect("an address");
        Config::default()
            .federation
            .ip_range_blocklist
            .iter()
            .any(|range| range.contains(address))
    };
    for address in [
        "127.0.0.1",
        "10.1.2.3",
        "::1",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "fe80::1",
        "255.255.255.255",
    ] {
        assert!(blocked(address), "{address}");
    }
    for address in ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "172.32.0.1"] {
        assert!(!blocked(address), "{address}");
    }
    let one: IpRange = "192.0.2.7".parse().expect("a bare address is a range");
    assert_eq!(String::from(one), "192.0.2.7/32");
}

#[test]
fn an_open_door_is_pointed_out() {
    assert_eq!(
        warnings(&Config::default()),
        Vec::<String>::new(),
        "only this machine can reach the default server"
    );
    let open = parsed("[[listeners]]\nbind_addresses = [\"0.0.0.0\"]");
    assert!(
        warnings(&open)[0].starts_with("registration.enabled_without_verification"),
        "{:?}",
        warnings(&open)
    );
    let guarded = parsed("[registration]\nrequire_token = true\n[[listeners]]\nbind_addresses = [\"0.0.0.0\"]");
    assert_eq!(warnings(&guarded), Vec::<String>::new());
}
