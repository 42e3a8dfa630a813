use clap::CommandFactory as _;

use super::*;

fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("synapse-rust").chain(arguments.iter().copied()))
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn without_a_command_it_serves() {
    let cli = parse(&["--config", "x.toml"]).expect("an option is enough");
    assert!(cli.command.is_none());
    assert_eq!(cli.config, Some(PathBuf::from("x.toml")));
    assert_eq!(parse(&[]).expect("nothing is enough").config, None);
}

#[test]
fn the_file_can_be_named_before_and_after_the_command() {
    for arguments in [["-c", "x.toml", "check-config"], ["check-config", "-c", "x.toml"]] {
        let cli = parse(&arguments).expect("both orders are good");
        assert!(matches!(cli.command, Some(Command::CheckConfig)));
        assert_eq!(cli.config, Some(PathBuf::from("x.toml")));
    }
}

#[test]
fn a_user_is_an_administrator_or_not() {
    let cli = parse(&["register-user", "--user", "alice", "--password", "pw", "--admin"]).expect("all is given");
    let Some(Command::RegisterUser(args)) = cli.command else {
        panic!("another command")
    };
    assert_eq!(
        (args.user.as_deref(), args.password.as_deref(), args.admin),
        (Some("alice"), Some("pw"), true)
    );
    assert!(parse(&["register-user", "--admin", "--no-admin"]).is_err());
    assert!(parse(&["register-user", "--server-url", "ftp://x"]).is_err());
}

#[test]
fn mistakes_are_usage_errors() {
    for arguments in [["--no-such-option"], ["no-such-command"], ["--config"]] {
        assert_eq!(parse(&arguments).expect_err("a mistake").exit_code(), 2);
    }
    assert!(parse(&["generate-config", "--server-name", "a b"]).is_err());
}

#[test]
fn help_names_every_command() {
    let help = Cli::command().render_long_help().to_string();
    for name in [
        "generate-config",
        "generate-signing-key",
        "register-user",
        "migrate",
        "check-config",
        "--config",
    ] {
        assert!(help.contains(name), "{name} is missing in:\n{help}");
    }
    assert!(help.contains("Exit codes") && help.contains("SIGHUP"));
}

#[test]
fn the_generated_file_is_good_and_has_the_name() {
    let name = ruma::owned_server_name!("example.org:8448");
    let config = config::parse("generated", &files::config_for(&name), []).expect("the file is good");
    assert_eq!(
        config,
        Config {
            server_name: name,
            ..Config::default()
        }
    );
}

#[test]
fn the_mac_is_synapse_s() {
    // Made with the Python of Synapse's documentation: hmac.new(key, digestmod=hashlib.sha1).
    assert_eq!(
        register::mac("shared_secret", "thisisanonce", "pepper_roni", "pizza", true),
        "48715842ad67d5dc9a9ee938a3bda4fcfae8d7c7"
    );
    assert_eq!(
        register::mac("shared_secret", "thisisanonce", "pepper_roni", "pizza", false),
        "cf2391885316861a8e3871bfdcd223ab3913221d"
    );
}
