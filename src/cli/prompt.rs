//! Questions on the terminal.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::{Command, Stdio};

use super::Failure;

/// Whether there is somebody to ask.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal()
}

/// One line, without blanks around it.
pub(super) fn ask(question: &str) -> Result<String, Failure> {
    Ok(read_line(question)?.trim().to_owned())
}

/// `no` unless the answer starts with y.
pub(super) fn confirm(question: &str) -> Result<bool, Failure> {
    Ok(ask(&format!("{question} [y/N]: "))?
        .to_ascii_lowercase()
        .starts_with('y'))
}

/// A new password, typed twice without being shown.
pub(super) fn new_password() -> Result<String, Failure> {
    let hidden = HiddenInput::start();
    let first = read_line("Password: ")?;
    eprintln!();
    let second = read_line("The same again: ")?;
    eprintln!();
    drop(hidden);
    if first == second {
        Ok(first)
    } else {
        Err(Failure::Usage("the two passwords differ".to_owned()))
    }
}

fn read_line(question: &str) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::Failed(format!("standard input: {error}"));
    eprint!("{question}");
    io::stderr().flush().map_err(failed)?;
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line).map_err(failed)? == 0 {
        return Err(Failure::Usage("no answer".to_owned()));
    }
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// While it lives the terminal does not show what is typed.
struct HiddenInput;

impl HiddenInput {
    fn start() -> Self {
        set_echo("-echo");
        Self
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        set_echo("echo");
    }
}

/// Where there is no `stty` the password is seen while typed, which is better than no way to give it.
fn set_echo(mode: &str) {
    let _ = Command::new("stty")
        .arg(mode)
        .stdin(Stdio::inherit())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}
