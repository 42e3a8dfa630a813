//! The API reference, endpoint by endpoint: each of its 177 is asked, with the request that it gives as an example, and
//! must answer every documented field with a value of the documented type. What was seen is the table in
//! `docs/reference-endpoints.md`.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use toml::{Table, Value, toml};

use crate::common::{db::Backend, server::SHARED_SECRET};

mod accounts;
mod admin;
mod book;
mod federation;
mod friends;
mod keys;
mod media;
mod rooms;
mod shapes;
mod world;

async fn every_endpoint(backend: Backend) {
    let mut world = world::World::start(backend).await;
    accounts::walk(&mut world).await;
    rooms::walk(&mut world).await;
    keys::walk(&mut world).await;
    media::walk(&mut world).await;
    friends::walk(&mut world).await;
    federation::walk(&mut world).await;
    admin::walk(&mut world).await;
    let faults = &world.book.faults;
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert_eq!(world.book.missing(), Vec::<String>::new());
    world.book.compare();
}

crate::federation::both_backends! { every_endpoint }

/// What the endpoints need of the configuration: mail, TURN, open directories.
fn configure(config: &mut Table, mail_port: u16) {
    let mut email = toml! {
        smtp_host = "127.0.0.1"
        encryption = "none"
        from = "Homeserver <noreply@localhost>"
    };
    email.insert("smtp_port".to_owned(), Value::Integer(mail_port.into()));
    config.insert("email".to_owned(), Value::Table(email));
    let turn = toml! {
        uris = ["turn:127.0.0.1:3478?transport=udp"]
        stun_uris = ["stun:127.0.0.1:3478"]
        shared_secret = "the secret of the tests"
        allow_guests = true
    };
    config.insert("turn".to_owned(), Value::Table(turn));
    let mut directory = Table::new();
    directory.insert("allow_public_rooms_without_auth".to_owned(), Value::Boolean(true));
    config.insert("room_directory".to_owned(), Value::Table(directory));
}

/// The MAC of a registration with the shared secret, as Synapse's tools make it.
fn mac(nonce: &str, user: &str, password: &str, admin: bool) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(SHARED_SECRET.as_bytes()).expect("a key of any length is good");
    let admin = if admin { "admin" } else { "notadmin" };
    mac.update([nonce, user, password, admin].join("\0").as_bytes());
    mac.finalize().into_bytes().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string succeeds");
        hex
    })
}
