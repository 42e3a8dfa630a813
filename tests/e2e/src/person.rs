//! A person with a stock client: `matrix-sdk` with its own sync loop and its own end-to-end encryption.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use matrix_sdk::{
    Client, Room, RoomMemberships, RoomState,
    authentication::matrix::MatrixSession,
    config::{RequestConfig, SyncSettings},
    deserialized_responses::EncryptionInfo,
    ruma::{
        OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
        api::client::{
            account::register,
            filter::{FilterDefinition, RoomEventFilter, RoomFilter},
            room::create_room::{self, v3::RoomPreset},
            sync::sync_events::v3::Filter,
            uiaa::{AuthData, Dummy, MatrixUserIdentifier, Password, UiaaInfo, UserIdentifier},
        },
        events::{
            InitialStateEvent,
            room::{
                encrypted::OriginalSyncRoomEncryptedEvent,
                encryption::RoomEncryptionEventContent,
                message::{MessageType, OriginalSyncRoomMessageEvent, RoomMessageEventContent},
            },
        },
    },
};
use tokio::task::JoinHandle;

/// How long anything that must come may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(45);
pub const PASSWORD: &str = "correct horse battery staple";

/// A message that the sync loop has handed to the client's event handlers.
#[derive(Clone, Debug)]
pub struct Seen {
    pub room: OwnedRoomId,
    pub event_id: OwnedEventId,
    pub sender: OwnedUserId,
    /// Was it encrypted on its way, and could be decrypted?
    pub decrypted: bool,
    pub message: MessageType,
}

impl Seen {
    pub fn body(&self) -> &str {
        self.message.body()
    }
}

/// What came through /sync, in order.
#[derive(Debug, Default)]
pub struct Inbox {
    pub messages: Vec<Seen>,
    /// Encrypted events whose key never came.
    pub undecrypted: Vec<OwnedEventId>,
}

/// One logged-in client. The sync loop runs until the value is dropped; when the server goes away it tries again
/// from the client's last token, as an application does.
#[derive(Debug)]
pub struct Person {
    pub client: Client,
    inbox: Arc<Mutex<Inbox>>,
    sync: JoinHandle<()>,
}

impl Person {
    /// Registers through user-interactive authentication and starts to sync.
    pub async fn register(base: &str, localpart: &str) -> Self {
        let client = build(base).await;
        let request = |auth| {
            let mut request = register::v3::Request::new();
            request.username = Some(localpart.to_owned());
            request.password = Some(PASSWORD.to_owned());
            request.initial_device_display_name = Some("end-to-end test".to_owned());
            request.auth = auth;
            request
        };
        if let Err(error) = client.matrix_auth().register(request(None)).await {
            let asked = error
                .as_uiaa_response()
                .unwrap_or_else(|| panic!("registration was refused: {error}"));
            let mut dummy = Dummy::new();
            dummy.session = asked.session.clone();
            let answer = client
                .matrix_auth()
                .register(request(Some(AuthData::Dummy(dummy))))
                .await;
            answer.expect("m.login.dummy completes the registration");
        }
        assert!(
            client.session_meta().is_some(),
            "a registration without inhibit_login logs in"
        );
        Self::start(client)
    }

    /// A further device of an account.
    pub async fn login(base: &str, localpart: &str) -> Self {
        let client = build(base).await;
        let login = client.matrix_auth().login_username(localpart, PASSWORD);
        login
            .initial_device_display_name("second device")
            .send()
            .await
            .expect("the password is right");
        Self::start(client)
    }

    fn start(client: Client) -> Self {
        let inbox = Arc::<Mutex<Inbox>>::default();
        let messages = inbox.clone();
        client.add_event_handler(
            async move |event: OriginalSyncRoomMessageEvent, room: Room, encryption: Option<EncryptionInfo>| {
                lock(&messages).messages.push(Seen {
                    room: room.room_id().to_owned(),
                    event_id: event.event_id,
                    sender: event.sender,
                    decrypted: encryption.is_some(),
                    message: event.content.msgtype,
                });
            },
        );
        let undecrypted = inbox.clone();
        client.add_event_handler(async move |event: OriginalSyncRoomEncryptedEvent| {
            lock(&undecrypted).undecrypted.push(event.event_id);
        });
        let sync = tokio::spawn(sync_for_ever(client.clone()));
        Self { client, inbox, sync }
    }

    pub fn user_id(&self) -> &UserId {
        self.client.user_id().expect("this client is logged in")
    }

    pub fn device_id(&self) -> OwnedDeviceId {
        self.client.device_id().expect("this client is logged in").to_owned()
    }

    pub fn session(&self) -> MatrixSession {
        self.client.matrix_auth().session().expect("this client is logged in")
    }

    pub fn inbox(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.inbox)
    }

    pub fn room(&self, room: &RoomId) -> Room {
        self.client
            .get_room(room)
            .unwrap_or_else(|| panic!("{} does not know {room}", self.user_id()))
    }

    /// Makes a private room and invites; it is encrypted from the start if asked for.
    pub async fn create_room(&self, name: &str, encrypted: bool, invite: &[&UserId]) -> OwnedRoomId {
        let mut request = create_room::v3::Request::new();
        request.name = Some(name.to_owned());
        request.preset = Some(RoomPreset::PrivateChat);
        request.invite = invite.iter().map(|user| (*user).to_owned()).collect();
        if encrypted {
            let content = RoomEncryptionEventContent::with_recommended_defaults();
            request.initial_state = vec![InitialStateEvent::with_empty_state_key(content).to_raw_any()];
        }
        let room = self
            .client
            .create_room(request)
            .await
            .expect("a user may create a room");
        room.room_id().to_owned()
    }

    /// Waits for the invitation and accepts it.
    pub async fn accept(&self, room: &RoomId) {
        let invited = || {
            self.client
                .get_room(room)
                .is_some_and(|room| room.state() == RoomState::Invited)
        };
        eventually("the invitation", async || invited().then_some(())).await;
        self.room(room).join().await.expect("an invited user may join");
    }

    /// Waits until this client knows the other's device.
    pub async fn knows_device(&self, other: &Person) {
        let (user, device) = (other.user_id().to_owned(), other.device_id());
        eventually("the other's device", async || {
            let found = self.client.encryption().get_device(&user, &device).await.ok()?;
            found.map(|_| ())
        })
        .await;
    }

    /// Waits until this client has seen so many joined members.
    pub async fn sees_members(&self, room: &RoomId, count: usize) {
        eventually("the members", async || {
            let room = self
                .client
                .get_room(room)
                .filter(|room| room.state() == RoomState::Joined)?;
            let members = room.members_no_sync(RoomMemberships::JOIN).await.ok()?;
            (members.len() == count).then_some(())
        })
        .await;
    }

    pub async fn say(&self, room: &RoomId, body: &str) -> OwnedEventId {
        let content = RoomMessageEventContent::text_plain(body);
        self.room(room)
            .send(content)
            .await
            .expect("a member may send")
            .response
            .event_id
    }

    /// Waits for a message by its body.
    pub async fn hears(&self, room: &RoomId, body: &str) -> Seen {
        let found = || {
            let inbox = self.inbox();
            inbox
                .messages
                .iter()
                .find(|seen| seen.room == room && seen.body() == body)
                .cloned()
        };
        eventually(body, async || found()).await
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        self.sync.abort();
    }
}

fn lock(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn build(base: &str) -> Client {
    // The tests look at every refusal themselves.
    let requests = RequestConfig::new().disable_retry().timeout(Duration::from_secs(30));
    let client = Client::builder()
        .homeserver_url(base)
        .request_config(requests)
        .build()
        .await;
    client.expect("a client with a memory store can be built")
}

async fn sync_for_ever(client: Client) {
    // Nothing may be left out of a timeline, so that lost and doubled messages show.
    let mut timeline = RoomEventFilter::default();
    timeline.limit = Some(1_000_u32.into());
    let mut room = RoomFilter::default();
    room.timeline = timeline;
    let mut filter = FilterDefinition::default();
    filter.room = room;
    loop {
        // The loop takes up the last token that the client has stored.
        let settings = SyncSettings::new().timeout(Duration::from_secs(10));
        let ended = client
            .sync(settings.filter(Filter::FilterDefinition(filter.clone())))
            .await;
        if ended.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The password stage for an endpoint that has asked for user-interactive authentication.
pub fn password_stage(user: &UserId, asked: &UiaaInfo) -> AuthData {
    let identifier = UserIdentifier::Matrix(MatrixUserIdentifier::new(user.to_string()));
    let mut password = Password::new(identifier, PASSWORD.to_owned());
    password.session = asked.session.clone();
    AuthData::Password(password)
}

/// Looks again and again until there is something; fails the test when patience runs out.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "did not come: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A value that must become equal to another one.
pub async fn becomes<T: PartialEq + Debug>(what: &str, expected: T, mut look: impl AsyncFnMut() -> T) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look().await;
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {found:?} instead of {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
