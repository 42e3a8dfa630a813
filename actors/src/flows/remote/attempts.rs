//! Several servers asked for the same, one after the other: when to go on, and what the user is told in the end.

use std::time::Duration;

use ruma::{RoomId, ServerName};
use tokio::time::Instant;

use crate::error::{DomainError, Outcome};

/// After so many servers have said no, the others will say the same.
const MAX_REFUSALS: u32 = 3;

/// The time that a handshake may take.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    end: Instant,
}

impl Budget {
    /// From now on.
    #[must_use]
    pub fn new(time: Duration) -> Self {
        Self {
            end: Instant::now() + time,
        }
    }

    /// What is left of it, `most` at most.
    #[must_use]
    pub fn left(&self, most: Duration) -> Duration {
        self.end.saturating_duration_since(Instant::now()).min(most)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.left(Duration::MAX).is_zero()
    }
}

/// Why an attempt came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// The other server's doing.
    Theirs(DomainError),
    /// This server's: another server would not help.
    Ours(DomainError),
}

impl From<DomainError> for Failure {
    fn from(error: DomainError) -> Self {
        match error {
            DomainError::Internal(_) => Self::Ours(error),
            _ => Self::Theirs(error),
        }
    }
}

/// What the servers answered that were asked in vain.
#[derive(Debug)]
pub struct Attempts<'a> {
    /// For people: what was to be done.
    what: &'static str,
    room_id: &'a RoomId,
    asked: u32,
    refusals: u32,
    /// The first answer of the most telling kind.
    answer: Option<(Weight, DomainError)>,
}

/// How much an answer tells the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// The server does not answer, or answers nonsense.
    Silent,
    /// It does not know the room.
    Unknown,
    /// It cannot decide.
    Unable,
    /// It says no.
    Refused,
}

impl<'a> Attempts<'a> {
    /// None so far.
    #[must_use]
    pub fn new(what: &'static str, room_id: &'a RoomId) -> Self {
        Self {
            what,
            room_id,
            asked: 0,
            refusals: 0,
            answer: None,
        }
    }

    /// Notes that a server was asked in vain.
    ///
    /// # Errors
    /// What the user is told when it makes no sense to ask another one.
    pub fn note(&mut self, server: &ServerName, failure: Failure) -> Outcome<()> {
        let error = match failure {
            Failure::Theirs(error) => error,
            Failure::Ours(error) => return Err(error),
        };
        tracing::info!(room_id = %self.room_id, %server, %error, "cannot {} by way of a server", self.what);
        self.asked += 1;
        if is_final(&error) {
            return Err(told(error, self.what));
        }
        let weight = weight(&error);
        self.refusals += u32::from(weight == Weight::Refused);
        if self.answer.as_ref().is_none_or(|(heaviest, _)| *heaviest < weight) {
            self.answer = Some((weight, error));
        }
        if self.refusals < MAX_REFUSALS {
            Ok(())
        } else {
            Err(self.verdict())
        }
    }

    /// What the user is told after all of them.
    #[must_use]
    pub fn verdict(&mut self) -> DomainError {
        let (what, room_id) = (self.what, self.room_id);
        match self.answer.take() {
            Some((Weight::Silent, DomainError::Overloaded { retry_after_ms })) => {
                DomainError::Overloaded { retry_after_ms }
            }
            Some((Weight::Silent, _)) => {
                let asked = self.asked;
                let message = format!("Failed to {what} {room_id}: none of the {asked} servers asked gave an answer");
                DomainError::matrix(502, "M_UNKNOWN", message)
            }
            Some((_, error)) => told(error, what),
            None => DomainError::not_found(format!(
                "Cannot {what} {room_id}: no servers that are in the room have been provided"
            )),
        }
    }
}

/// Whether every server would say so.
fn is_final(error: &DomainError) -> bool {
    matches!(
        error.errcode(),
        Some("M_INCOMPATIBLE_ROOM_VERSION" | "M_UNSUPPORTED_ROOM_VERSION")
    )
}

fn weight(error: &DomainError) -> Weight {
    match error {
        DomainError::Matrix { errcode, .. } if errcode.starts_with("M_UNABLE_TO_") => Weight::Unable,
        DomainError::Matrix { status: 404 | 405, .. } => Weight::Unknown,
        DomainError::Matrix { status: 400..500, .. } => Weight::Refused,
        _ => Weight::Silent,
    }
}

/// What a client is told of another server's refusal. A request that the other server finds faulty is this server's mistake,
/// not the client's (server-server API, `send_join` and `invite`, status 400).
#[must_use]
pub fn told(error: DomainError, what: &str) -> DomainError {
    match error {
        DomainError::Matrix { errcode, message, .. }
            if matches!(
                errcode.as_ref(),
                "M_MISSING_PARAM" | "M_INVALID_PARAM" | "M_BAD_JSON" | "M_NOT_JSON" | "M_UNRECOGNIZED"
            ) =>
        {
            DomainError::matrix(
                502,
                "M_UNKNOWN",
                format!("Failed to {what}: the other server says: {message}"),
            )
        }
        DomainError::Unavailable { .. } => DomainError::matrix(
            502,
            "M_UNKNOWN",
            format!("Failed to {what}: the other server does not answer"),
        ),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, server_name};

    use super::*;

    fn after(errors: Vec<DomainError>) -> (u16, String) {
        let mut attempts = Attempts::new("join", room_id!("!r:s"));
        let mut ended = None;
        for error in errors {
            assert!(ended.is_none(), "it goes on after {ended:?}");
            ended = attempts.note(server_name!("s"), error.into()).err();
        }
        match ended.unwrap_or_else(|| attempts.verdict()) {
            DomainError::Matrix { status, errcode, .. } => (status, errcode.into_owned()),
            DomainError::Overloaded { .. } => (429, String::new()),
            other => panic!("{other:?}"),
        }
    }

    fn matrix(status: u16, errcode: &'static str) -> DomainError {
        DomainError::matrix(status, errcode, "theirs")
    }

    #[test]
    fn the_most_telling_answer_is_handed_on() {
        let silent = || DomainError::unavailable("no route");
        let is = |errors, status, errcode: &str| assert_eq!(after(errors), (status, errcode.to_owned()));
        is(vec![], 404, "M_NOT_FOUND");
        is(vec![silent(), silent()], 502, "M_UNKNOWN");
        is(vec![silent(), matrix(404, "M_NOT_FOUND"), silent()], 404, "M_NOT_FOUND");
        is(
            vec![matrix(404, "M_NOT_FOUND"), matrix(403, "M_FORBIDDEN")],
            403,
            "M_FORBIDDEN",
        );
        let unable = || matrix(400, "M_UNABLE_TO_GRANT_JOIN");
        is(
            vec![unable(), unable(), unable(), unable(), silent()],
            400,
            "M_UNABLE_TO_GRANT_JOIN",
        );
        is(vec![unable(), matrix(403, "M_FORBIDDEN")], 403, "M_FORBIDDEN");
        is(vec![DomainError::Overloaded { retry_after_ms: 7 }], 429, "");
    }

    #[test]
    fn what_every_server_would_say_ends_the_attempts() {
        let version = matrix(400, "M_INCOMPATIBLE_ROOM_VERSION").with("room_version", "99");
        let mut attempts = Attempts::new("join", room_id!("!r:s"));
        let ended = attempts.note(server_name!("s"), version.into()).expect_err("at once");
        let DomainError::Matrix { extra, .. } = ended else {
            panic!("a Matrix error");
        };
        assert_eq!(extra["room_version"], "99");
        let refusals = vec![matrix(403, "M_FORBIDDEN"); 3];
        assert_eq!(after(refusals), (403, "M_FORBIDDEN".to_owned()));
        let ours = attempts.note(server_name!("s"), DomainError::internal("a bug").into());
        assert!(matches!(ours, Err(DomainError::Internal(_))));
    }

    #[test]
    fn our_mistakes_are_not_the_clients() {
        assert_eq!(
            after(vec![matrix(400, "M_INVALID_PARAM")]),
            (502, "M_UNKNOWN".to_owned())
        );
        assert_eq!(after(vec![matrix(400, "M_BAD_JSON")]), (502, "M_UNKNOWN".to_owned()));
    }
}
