//! The stages of a request whose endpoint is known: admit, limit, read, run. Nothing depends on the endpoint's types.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_web::web;
use actors::error::{DomainError, Outcome};
use actors::federation::SignedRequest;
use actors::security::Incident;
use actors::session::identity::Identity;
use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, Either, select};
use futures_util::stream::unfold;
use futures_util::{FutureExt as _, StreamExt as _};
use http::Method;
use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use ruma::OwnedServerName;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::{AbortHandle, JoinError};
use tokio::time::timeout;
use tracing::{Instrument as _, Span};

use super::auth::{self, Policy};
use super::context::{BodyStream, Ctx, RequestInfo};
use super::endpoint::{BodyKind, Call, Endpoint};
use super::limits::Class;
use super::reply::Reply;
use super::ruma::require_object;
use super::state::{Backend, HttpState};

/// How long a client may take to send a body, or the next piece of a streamed one.
const BODY_DEADLINE: Duration = Duration::from_secs(120);
/// How much of a refused body is read to keep the connection, and for how long.
const DISCARD_BYTES: usize = 1024 * 1024;
const DISCARD_DEADLINE: Duration = Duration::from_secs(1);
/// Pieces of a streamed body that may wait for the handler.
const BODY_PIECES: usize = 8;

/// A request on its way.
pub(super) struct Work<'s, H> {
    pub state: &'s HttpState<H>,
    pub endpoint: &'s Endpoint<H>,
    pub info: RequestInfo,
    pub args: Vec<String>,
    pub span: Span,
}

impl<H: Backend> Work<'_, H> {
    /// All stages.
    pub async fn run(mut self, payload: &mut web::Payload) -> Outcome<Reply> {
        require_ownership(self.state)?;
        self.admit_address()?;
        let lane = if self.endpoint.long_poll {
            &self.state.long_polls
        } else {
            &self.state.requests
        };
        let busy = |_| DomainError::unavailable("too many requests in progress");
        let permit = lane.clone().try_acquire_owned().map_err(busy)?;
        let identity = self.authenticate().await?;
        if let Some(identity) = &identity {
            self.span.record("user", identity.user_id.as_str());
            self.endpoint.policy.admit(identity, self.endpoint.log_out)?;
            self.state.hub.seen(identity, &self.info);
        }
        // Servers are counted by name, which is not known before the signature has been checked.
        if self.endpoint.policy != Policy::Server {
            self.count(identity.as_deref())?;
        }
        self.check_length()?;
        if self.endpoint.body == BodyKind::Stream {
            return self.stream(payload, identity, permit).await;
        }
        self.info.body = read(payload, self.endpoint.body_limit).await?;
        let origin = self.verify().await?;
        if self.endpoint.body == BodyKind::Json {
            self.mend()?;
        }
        let (state, waits) = (self.state, self.endpoint.long_poll);
        let reply = self.spawn(identity, origin, None, permit).await;
        // What was waited for or refused meanwhile may be old; an acknowledged write is in the database.
        if reply.is_err() || waits {
            require_ownership(state)?;
        }
        reply
    }

    /// Keeps blocked addresses out, whatever they want.
    fn admit_address(&self) -> Outcome<()> {
        if !self.state.hub.is_blocked(self.info.ip) {
            return Ok(());
        }
        self.state.hub.refused(Incident::AddressRefused, &self.info);
        Err(DomainError::forbidden("Your address is blocked on this server"))
    }

    /// Whose token it is. Comes before the body is looked at.
    async fn authenticate(&self) -> Outcome<Option<Arc<Identity>>> {
        let policy = self.endpoint.policy;
        if !policy.takes_token() {
            return Ok(None);
        }
        match auth::token(&self.info.headers, &self.info.query) {
            Some(token) => {
                let hub = &self.state.hub;
                let identified = on_io(hub.io(), hub.clone().identify(token)).await;
                if let Err(error) = &identified
                    && is_no_token(error)
                {
                    hub.refused(Incident::TokenRefused, &self.info);
                }
                identified.map(Some)
            }
            None if policy.needs_token() => Err(DomainError::missing_token("missing access token")),
            None => Ok(None),
        }
    }

    /// Counts the request against its caller's limit.
    fn count(&self, identity: Option<&Identity>) -> Outcome<()> {
        let Some(class) = self.endpoint.class else {
            return Ok(());
        };
        match identity {
            Some(identity) if identity.unlimited => Ok(()),
            Some(identity) => {
                let user = &identity.user_id;
                match self.state.hub.rate_limit(user) {
                    Some(own) if class != Class::Login => self.state.limits.check_own(class, user, own),
                    _ => self.state.limits.check(class, user),
                }
            }
            None => self.state.limits.check(class, &self.info.ip),
        }
    }

    /// Which server signed it, where that is asked.
    async fn verify(&self) -> Outcome<Option<OwnedServerName>> {
        if self.endpoint.policy != Policy::Server {
            return Ok(None);
        }
        let is_signed = self.info.headers.contains_key(AUTHORIZATION);
        if !is_signed && self.endpoint.unsigned.is_some_and(|may| may(&self.state.config)) {
            self.count(None)?;
            return Ok(None);
        }
        let signed = SignedRequest {
            method: self.info.method.clone(),
            uri: self.info.uri.clone(),
            headers: self.info.headers.clone(),
            body: self.info.body.clone(),
        };
        let hub = &self.state.hub;
        let origin = on_io(hub.io(), hub.clone().origin(signed)).await?;
        if let Some(class) = self.endpoint.class {
            self.state.limits.check(class, &origin)?;
        }
        Ok(Some(origin))
    }

    fn check_length(&self) -> Outcome<()> {
        let limit = self.endpoint.body_limit;
        let length = self
            .info
            .header(&CONTENT_LENGTH)
            .and_then(|length| length.parse::<u64>().ok());
        let fits = length.is_none_or(|length| usize::try_from(length).is_ok_and(|length| length <= limit));
        if fits { Ok(()) } else { Err(too_large(limit)) }
    }

    /// Makes a JSON body of an empty one, refuses what is no object, and applies the endpoint's fix.
    fn mend(&mut self) -> Outcome<()> {
        if matches!(self.info.method, Method::GET | Method::HEAD) {
            return Ok(());
        }
        if self.info.body.is_empty() {
            self.info.body = Bytes::from_static(b"{}");
        }
        require_object(&self.info.body)?;
        if let Some(fix) = self.endpoint.fix {
            let mut value = self.info.json()?;
            fix(&mut value, &self.info);
            self.info.body = value.to_string().into();
        }
        Ok(())
    }

    /// Runs the handler as a task of the shared runtime. It goes on when the client hangs up, unless it only waits.
    async fn spawn(
        self,
        identity: Option<Arc<Identity>>,
        origin: Option<OwnedServerName>,
        stream: Option<BodyStream>,
        permit: OwnedSemaphorePermit,
    ) -> Outcome<Reply> {
        let Self {
            state,
            endpoint,
            info,
            args,
            span,
        } = self;
        let ctx = Ctx {
            hub: state.hub.clone(),
            config: state.config.clone(),
            limits: state.limits.clone(),
            identity,
            origin,
            request: info,
        };
        let run = endpoint.run.clone();
        let work = async move {
            // Parsing belongs to the task as well.
            let outcome = run(ctx, Call { args, stream }).await;
            drop(permit);
            outcome
        };
        let task = state.hub.io().spawn(work.instrument(span));
        let _abandoned = endpoint.abandoned.then(|| AbortOnDrop(task.abort_handle()));
        let late = |_| DomainError::unavailable("the handler missed its deadline");
        timeout(endpoint.deadline, task).await.map_err(late)?.map_err(broken)?
    }

    /// Runs the handler while the body is still arriving.
    async fn stream(
        self,
        payload: &mut web::Payload,
        identity: Option<Arc<Identity>>,
        permit: OwnedSemaphorePermit,
    ) -> Outcome<Reply> {
        let limit = self.endpoint.body_limit;
        let (to_handler, pieces) = mpsc::channel(BODY_PIECES);
        let answer = pin!(self.spawn(identity, None, Some(body_stream(pieces)), permit));
        let feed = pin!(feed(payload, limit, to_handler));
        match select(feed, answer).await {
            Either::Left(((), answer)) => answer.await,
            Either::Right((answer, _)) => answer,
        }
    }
}

/// Whether a token is none at all; one that has only expired was one.
fn is_no_token(error: &DomainError) -> bool {
    match error {
        DomainError::Matrix { errcode, extra, .. } => {
            errcode == "M_UNKNOWN_TOKEN" && extra.get("soft_logout") != Some(&true.into())
        }
        _ => false,
    }
}

/// What this process knows is old once another one has taken the database over.
fn require_ownership<H: Backend>(state: &HttpState<H>) -> Outcome<()> {
    match state.hub.is_fenced() {
        true => Err(DomainError::unavailable("another process has taken over the database")),
        false => Ok(()),
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn too_large(limit: usize) -> DomainError {
    DomainError::too_large(format!("the body may have {limit} bytes at most"))
}

fn broken(error: JoinError) -> DomainError {
    DomainError::internal(format!("handler: {error}"))
}

/// Polls once where we are, since most answers are in a cache, and moves to the shared runtime to wait.
async fn on_io<T: Send + 'static>(io: &Handle, mut future: BoxFuture<'static, Outcome<T>>) -> Outcome<T> {
    let first = {
        // Timers and tasks that the first poll makes have to belong to that runtime.
        let _runtime = io.enter();
        future.poll_unpin(&mut Context::from_waker(Waker::noop()))
    };
    match first {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => io.spawn(future).await.map_err(broken)?,
    }
}

/// The whole body.
async fn read(payload: &mut web::Payload, limit: usize) -> Outcome<Bytes> {
    let whole = async {
        // Most bodies arrive in one piece, which needs no copy.
        let mut only = Bytes::new();
        let mut body = BytesMut::new();
        while let Some(piece) = payload.next().await {
            let piece = piece.map_err(|e| DomainError::not_json(format!("the body broke off: {e}")))?;
            if only.len() + body.len() + piece.len() > limit {
                return Err(too_large(limit));
            }
            if only.is_empty() && body.is_empty() {
                only = piece;
            } else {
                body.extend_from_slice(&std::mem::take(&mut only));
                body.extend_from_slice(&piece);
            }
        }
        Ok(if body.is_empty() { only } else { body.freeze() })
    };
    let late = |_| DomainError::matrix(408, "M_UNKNOWN", "the body did not arrive in time");
    timeout(BODY_DEADLINE, whole).await.map_err(late)?
}

/// Reads what is left of a refused request's body, if that is little and soon there. Otherwise the connection has to be
/// closed, which the client may notice before it has read the answer.
pub(super) async fn discard(payload: &mut web::Payload) {
    let rest = async {
        let mut total = 0;
        while let Some(Ok(piece)) = payload.next().await {
            total += piece.len();
            if total > DISCARD_BYTES {
                return;
            }
        }
    };
    // Late is as good as too much.
    let _late = timeout(DISCARD_DEADLINE, rest).await;
}

/// `None` marks the end, so that a sender that was dropped on the way is no end.
type Piece = io::Result<Option<Bytes>>;

/// Hands a body over piece by piece.
async fn feed(payload: &mut web::Payload, limit: usize, to_handler: mpsc::Sender<Piece>) {
    let mut total = 0_usize;
    loop {
        let piece = match timeout(BODY_DEADLINE, payload.next()).await {
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
            Ok(None) => Ok(None),
            Ok(Some(Err(e))) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, e.to_string())),
            Ok(Some(Ok(piece))) => {
                total = total.saturating_add(piece.len());
                if total > limit {
                    Err(io::ErrorKind::FileTooLarge.into())
                } else {
                    Ok(Some(piece))
                }
            }
        };
        let more = matches!(piece, Ok(Some(_)));
        if to_handler.send(piece).await.is_err() || !more {
            return;
        }
    }
}

fn body_stream(pieces: mpsc::Receiver<Piece>) -> BodyStream {
    unfold(Some(pieces), |pieces| async {
        let mut pieces = pieces?;
        match pieces.recv().await {
            Some(Ok(Some(piece))) => Some((Ok(piece), Some(pieces))),
            Some(Ok(None)) => None,
            Some(Err(e)) => Some((Err(e), None)),
            None => Some((Err(io::ErrorKind::UnexpectedEof.into()), None)),
        }
    })
    .boxed()
}
