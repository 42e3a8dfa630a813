//! Commands over real databases: what they publish is what is read back, and others are told.

use std::sync::Arc;

use entities::store::Store;
use entities::testing::each_backend;
use entities::user;
use ruma::api::client::sync::sync_events::v3::Filter;
use ruma::push::RuleKind;
use ruma::{OwnedUserId, room_id, user_id};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{DataCommand, DataReply, PushRuleChange, filters, ruleset_content, run};
use crate::clock::Clock;
use crate::env::{Env, Parts};
use crate::error::Outcome;
use crate::key::ServerKey;
use crate::rng::Rng;
use crate::session::load;
use crate::session::view::UserView;
use crate::settings::Settings;

struct Alice {
    env: Arc<Env>,
    view: UserView,
}

fn alice_id() -> OwnedUserId {
    user_id!("@alice:hs").to_owned()
}

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("serializes")
}

impl Alice {
    async fn registered(store: Store) -> Self {
        let row = user::Model {
            user_id: alice_id().to_string(),
            password_hash: None,
            is_admin: false,
            is_guest: false,
            deactivated: false,
            erased: false,
            locked: false,
            suspended: false,
            created_ts: 0,
        };
        store.create_user(&row, &[], None).await.expect("a free name");
        let parts = Parts {
            settings: Settings::default(),
            server_name: "hs".try_into().expect("a server name"),
            key: ServerKey::new(&[7; 32], "a"),
            store,
            clock: Clock::system(),
            rng: Rng::seeded(1),
            io: tokio::runtime::Handle::current(),
        };
        let env = Env::open(parts).await.expect("the database answers");
        let view = load::fresh(alice_id());
        Self { env, view }
    }

    async fn ask(&mut self, command: DataCommand) -> Outcome<DataReply> {
        let (reply, changed) = run(&self.env, &self.view, command).await?;
        self.view = changed.unwrap_or_else(|| self.view.clone());
        Ok(reply)
    }

    async fn set(&mut self, kind: &str, content: Value) -> Outcome<DataReply> {
        let command = DataCommand::SetAccountData {
            room_id: None,
            kind: kind.to_owned(),
            content: raw(&content),
        };
        self.ask(command).await
    }

    /// The view as the database has it.
    async fn stored(&self) -> UserView {
        let stored = load::from_store(&self.env, &alice_id()).await.expect("readable");
        stored.expect("alice is there")
    }
}

#[tokio::test]
async fn the_view_follows_what_is_stored() {
    each_backend(|db| async move {
        let mut alice = Alice::registered(db.store().await).await;
        let feed = alice.env.feeds.open(&alice_id(), 0);
        let before = alice.env.visible();
        let ignored = json!({ "ignored_users": { "@mallory:x": {}, "nonsense": {} } });
        alice.set("m.ignored_user_list", ignored).await.expect("valid");
        assert!(alice.view.ignored.contains(user_id!("@mallory:x")));
        let enable = PushRuleChange::Enable {
            kind: RuleKind::Override,
            rule_id: ".m.rule.master".to_owned(),
            enabled: true,
        };
        alice
            .ask(DataCommand::PushRule(Box::new(enable)))
            .await
            .expect("it is there");
        let name = DataCommand::SetProfileField {
            name: "displayname".to_owned(),
            value: Some(json!("Alice \"A\"")),
        };
        alice.ask(name).await.expect("valid");
        let stored = alice.stored().await;
        assert_eq!(stored.ignored, alice.view.ignored);
        assert_eq!(stored.profile, alice.view.profile);
        assert_eq!(stored.displayname().as_deref(), Some("Alice \"A\""));
        let content = |view: &UserView| ruleset_content(&view.push_rules);
        assert_eq!(content(&stored), content(&alice.view));
        assert!(stored.push_rules.override_[0].enabled);
        let changes = feed.changes(before, alice.env.visible()).expect("the feed was open");
        assert!(changes.account_data && !changes.room_account_data);
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there_need_not_be_removed() {
    each_backend(|db| async move {
        let mut alice = Alice::registered(db.store().await).await;
        let before = alice.env.visible();
        alice.set("org.example", json!({})).await.expect("valid");
        let untag = DataCommand::SetTag {
            room_id: room_id!("!r:hs").to_owned(),
            tag: "u.x".to_owned(),
            info: None,
        };
        alice.ask(untag).await.expect("valid");
        let unname = DataCommand::SetProfileField {
            name: "displayname".to_owned(),
            value: None,
        };
        alice.ask(unname).await.expect("valid");
        assert_eq!(alice.env.visible(), before, "nothing was written");
        for kind in ["m.push_rules", "m.fully_read"] {
            let refused = alice.set(kind, json!({ "x": 1 })).await.expect_err("the server's");
            assert_eq!(refused.errcode(), Some("M_BAD_JSON"));
        }
    })
    .await;
}

#[tokio::test]
async fn filters_are_found_by_their_number() {
    each_backend(|db| async move {
        let mut alice = Alice::registered(db.store().await).await;
        let create = |limit: u32| DataCommand::CreateFilter {
            json: json!({ "room": { "timeline": { "limit": limit } } }).to_string(),
        };
        let mut numbers = Vec::new();
        for limit in [1, 2, 1] {
            match alice.ask(create(limit)).await.expect("valid") {
                DataReply::Filter(number) => numbers.push(number),
                DataReply::Done => panic!("a filter has a number"),
            }
        }
        assert_eq!(numbers[0], numbers[2]);
        assert_ne!(numbers[0], numbers[1]);
        let resolve =
            async |id: &str| filters::resolve(&alice.env, &alice_id(), Some(Filter::FilterId(id.to_owned()))).await;
        for _ in 0..2 {
            let filter = resolve(&numbers[1].to_string()).await.expect("stored");
            assert_eq!(filter.room.timeline.limit, Some(2_u32.into()));
        }
        for unknown in ["99", "-1", "x", "{"] {
            let refused = resolve(unknown).await.expect_err("unknown");
            assert_eq!(refused.errcode(), Some("M_INVALID_PARAM"));
        }
        let everything = filters::resolve(&alice.env, &alice_id(), None).await.expect("always");
        assert!(everything.is_empty());
    })
    .await;
}
