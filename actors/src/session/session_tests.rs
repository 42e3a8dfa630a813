//! Sessions over real databases: whatever a command publishes equals what is read back, and tokens end when they must.

use std::sync::Arc;

use entities::store::Store;
use entities::testing::each_backend;
use ruma::{OwnedUserId, user_id};

use super::account::{AccountCommand, AccountReply, NewDevice, NewSession, Refreshing, Registration};
use super::commands::{SessionCommand, SessionReply};
use super::devices::DeviceCommand;
use super::identity::Identity;
use super::kind::{Session, SessionKind};
use super::{auth, load, password};
use crate::clock::Clock;
use crate::env::{Env, Parts};
use crate::error::{DomainError, Outcome};
use crate::key::ServerKey;
use crate::rng::Rng;
use crate::settings::Settings;
use crate::stream::fact::FactKind;
use crate::supervisor::{Managed as _, Ran};

async fn env(store: Store) -> Arc<Env> {
    let parts = Parts {
        settings: Settings {
            argon2_memory_kib: 8,
            argon2_iterations: 1,
            ..Settings::default()
        },
        server_name: "hs".try_into().expect("a server name"),
        key: ServerKey::new(&[7; 32], "a"),
        store,
        clock: Clock::system(),
        rng: Rng::seeded(1),
        io: tokio::runtime::Handle::current(),
    };
    Env::open(parts).await.expect("the database answers")
}

/// Alice's actor without its mailbox.
struct Alice {
    env: Arc<Env>,
    state: Arc<Session>,
}

fn alice_id() -> OwnedUserId {
    user_id!("@alice:hs").to_owned()
}

fn device(id: Option<&str>, refreshing: Refreshing) -> NewDevice {
    NewDevice {
        device_id: id.map(Into::into),
        display_name: Some("Name".to_owned()),
        refreshing,
        password_proved: true,
        ip: None,
        user_agent: None,
    }
}

impl Alice {
    async fn registered(store: Store) -> (Self, NewSession) {
        let env = env(store).await;
        let hash = password::hash(&env, "secret").await.expect("a hash");
        let mut alice = Self {
            env,
            state: Arc::new(Session { view: None }),
        };
        let new = Registration {
            password_hash: Some(hash),
            guest: false,
            admin: false,
            displayname: Some("Alice".to_owned()),
            device: Some(device(Some("A"), Refreshing::No)),
        };
        let session = alice.session(AccountCommand::Register(Box::new(new))).await;
        (alice, session)
    }

    /// Runs one command; the view it leaves must be what the database holds.
    async fn run(&mut self, command: SessionCommand) -> Outcome<SessionReply> {
        let key: Arc<str> = alice_id().as_str().into();
        let ran = SessionKind::run(self.env.clone(), key, self.state.clone(), vec![command]).await;
        let Ran::Done { state, mut replies } = ran else {
            panic!("nothing is in doubt here");
        };
        self.state = state;
        let stored = load::from_store(&self.env, &alice_id()).await.expect("a read");
        let shared = load::view(&self.env, &alice_id()).await.expect("a read");
        assert_eq!(
            format!("{:?}", self.state.view.as_deref()),
            format!("{:?}", stored.as_ref())
        );
        assert_eq!(format!("{:?}", shared.as_deref()), format!("{:?}", stored.as_ref()));
        replies.pop().expect("a reply")
    }

    async fn account(&mut self, command: AccountCommand) -> Outcome<SessionReply> {
        self.run(SessionCommand::Account(command)).await
    }

    async fn session(&mut self, command: AccountCommand) -> NewSession {
        match self.account(command).await {
            Ok(SessionReply::Account(AccountReply::Session(session))) => *session,
            other => panic!("a session was expected: {other:?}"),
        }
    }

    async fn login(&mut self, id: Option<&str>, refreshing: Refreshing) -> NewSession {
        self.session(AccountCommand::Login(Box::new(device(id, refreshing))))
            .await
    }

    async fn who(&self, session: &NewSession) -> Result<Arc<Identity>, String> {
        let found = auth::identify(&self.env, session.access_token.expose()).await;
        found.map_err(|error| errcode(&error))
    }
}

fn errcode(error: &DomainError) -> String {
    error.errcode().unwrap_or_default().to_owned()
}

fn unknown() -> Result<Arc<Identity>, String> {
    Err("M_UNKNOWN_TOKEN".to_owned())
}

macro_rules! on_each_backend {
    ($(async fn $name:ident($store:ident) $body:block)*) => {
        $(#[tokio::test]
        async fn $name() {
            each_backend(|db| async move {
                let $store = db.store().await;
                $body
            })
            .await;
        })*
    };
}

on_each_backend! {
    async fn tokens_end_with_their_device(store) {
        let (mut alice, first) = Alice::registered(store).await;
        let mut facts = alice.env.journal.subscribe();
        let second = alice.login(Some("B"), Refreshing::No).await;
        let told = facts.recv().await.expect("a batch of facts");
        assert!(matches!(&told[0].kind, FactKind::DeviceList { user } if *user == alice_id()));
        assert_eq!(told[0].users.as_ref(), [alice_id()]);
        assert_eq!(alice.who(&first).await.expect("known").device_id.as_str(), "A");

        let again = alice.login(Some("B"), Refreshing::No).await;
        assert_eq!(alice.who(&second).await, unknown());
        alice.who(&again).await.expect("known");

        let delete = DeviceCommand::Delete { device_ids: vec!["B".into(), "NONE".into()] };
        alice.run(SessionCommand::Devices(delete)).await.expect("done");
        assert_eq!(alice.who(&again).await, unknown());
        // The same id once more: the former device's token stays dead.
        alice.login(Some("B"), Refreshing::No).await;
        assert_eq!(alice.who(&again).await, unknown());

        alice.account(AccountCommand::LogoutAll).await.expect("done");
        assert_eq!(alice.who(&first).await, unknown());
    }

    async fn the_first_use_of_a_new_token_ends_the_old_ones(store) {
        let (mut alice, _) = Alice::registered(store).await;
        let first = alice.login(Some("B"), Refreshing::Expiring).await;
        let refresh_of = |session: &NewSession| AccountCommand::Refresh {
            token_hash: session.refresh_token.as_ref().expect("a refresh token").hash(),
        };
        let second = alice.session(refresh_of(&first)).await;
        alice.who(&first).await.expect("still known");
        assert!(second.expires_in_ms.is_some());
        alice.who(&second).await.expect("known");
        assert_eq!(alice.who(&first).await, unknown());
        let refused = alice.account(refresh_of(&first)).await.expect_err("it is used up");
        assert_eq!(errcode(&refused), "M_UNKNOWN_TOKEN");

        let lasting = alice.login(Some("C"), Refreshing::Lasting).await;
        assert_eq!(alice.session(refresh_of(&lasting)).await.expires_in_ms, None);
    }

    async fn rights_change_at_once(store) {
        let (mut alice, first) = Alice::registered(store).await;
        assert!(!alice.who(&first).await.expect("known").is_admin);
        let flags = |admin, locked| AccountCommand::SetFlags { admin, locked, suspended: None };
        alice.account(flags(Some(true), None)).await.expect("done");
        assert!(alice.who(&first).await.expect("known").is_admin);
        alice.account(flags(None, Some(true))).await.expect("done");
        let locked = alice.who(&first).await.expect("known");
        assert!(locked.is_locked && locked.is_admin);
        let login = AccountCommand::Login(Box::new(device(None, Refreshing::No)));
        assert_eq!(errcode(&alice.account(login).await.expect_err("locked")), "M_USER_LOCKED");
    }

    async fn deactivation_leaves_a_name_that_nobody_gets(store) {
        let (mut alice, first) = Alice::registered(store).await;
        assert_eq!(password::verify(&alice.env, Some(&alice_id()), "secret").await.ok(), Some(true));
        alice.account(AccountCommand::Deactivate { erase: true }).await.expect("done");
        assert_eq!(alice.who(&first).await, unknown());
        assert_eq!(password::verify(&alice.env, Some(&alice_id()), "secret").await.ok(), Some(false));
        alice.account(AccountCommand::Deactivate { erase: false }).await.expect("done again");
        let new = Registration {
            password_hash: None,
            guest: false,
            admin: false,
            displayname: None,
            device: None,
        };
        let again = AccountCommand::Register(Box::new(new));
        assert_eq!(errcode(&alice.account(again).await.expect_err("taken")), "M_USER_IN_USE");
        let login = AccountCommand::Login(Box::new(device(None, Refreshing::No)));
        assert_eq!(errcode(&alice.account(login).await.expect_err("gone")), "M_USER_DEACTIVATED");
    }
}
