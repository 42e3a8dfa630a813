//! The administration interface.

mod deletion;
mod guards;
mod media;
mod rooms;
mod security;
mod server;
mod users;

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{
    client::{AnswerExt, PASSWORD, User, encode},
    server::TestServer,
};

/// Below which everything lies.
const V1: &str = "/_synapse/admin/v1";
const V2: &str = "/_synapse/admin/v2";
/// How long work in the background may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An administrator, made by the command line through the shared secret.
async fn admin(server: &TestServer) -> User {
    let made = server.run_command(&["register-user", "--user", "root", "--password", PASSWORD, "--admin"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    User::login(&server.client, "root").await
}

fn path(base: &str, template: &str, arguments: &[&str]) -> String {
    let mut parts = template.split("{}");
    let mut path = format!("{base}/{}", parts.next().unwrap_or_default());
    for (part, argument) in parts.zip(arguments) {
        path.push_str(&encode(argument));
        path.push_str(part);
    }
    path
}

/// Asks until the answer satisfies the predicate.
async fn until(user: &User, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = user.get(path).await.ok();
        if wanted(&answer) {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "{path} does not come to be as wanted: {answer:#}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The values of a member in a list of objects.
fn all<'a>(list: &'a Value, member: &str) -> Vec<&'a str> {
    let entries = list.as_array().map_or(&[][..], Vec::as_slice);
    entries.iter().filter_map(|entry| entry[member].as_str()).collect()
}
