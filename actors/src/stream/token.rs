//! Tokens that clients hold: positions in the stream, as text.
//!
//! `s<pos>` is a place in the live stream (`/sync`); `t<depth>-<pos>` a place in a room's history (`/messages`).

use entities::ids::StreamPos;

use crate::error::{DomainError, Outcome};

/// A place that a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// After everything up to and including this position.
    Live(StreamPos),
    /// In a room's history, after the event at this position; the depth is for people who read logs.
    History {
        /// The event's depth.
        depth: i64,
        /// Its position, negative for events fetched later.
        pos: StreamPos,
    },
}

impl Token {
    /// The position, whichever kind it is.
    #[must_use]
    pub fn pos(self) -> StreamPos {
        match self {
            Self::Live(pos) | Self::History { pos, .. } => pos,
        }
    }

    /// Reads a token; also `s<min>~<writer>.<pos>…`, of which the smallest position counts.
    ///
    /// # Errors
    /// `M_INVALID_PARAM` for anything else.
    pub fn parse(text: &str) -> Outcome<Self> {
        let bad = || DomainError::invalid_param("unknown token");
        let number = |text: &str| text.parse::<i64>().map_err(|_| bad());
        if let Some(rest) = text.strip_prefix('s') {
            let min = rest.split_once(['~', '_']).map_or(rest, |(min, _)| min);
            let pos = number(min)?;
            return if pos < 0 {
                Err(bad())
            } else {
                Ok(Self::Live(StreamPos(pos)))
            };
        }
        let (depth, pos) = text
            .strip_prefix('t')
            .and_then(|rest| rest.split_once('-'))
            .ok_or_else(bad)?;
        Ok(Self::History {
            depth: number(depth)?,
            pos: StreamPos(number(pos)?),
        })
    }
}

/// The token of `/sync`: a live position, and how far the device's inbox was delivered if not up to there
/// (`s<pos>_<inbox>`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncToken {
    /// Everything else is known up to here.
    pub pos: StreamPos,
    /// To-device messages are known up to here.
    pub inbox: StreamPos,
}

impl SyncToken {
    /// Reads a token; one that `/messages` gave is accepted too.
    ///
    /// # Errors
    /// `M_INVALID_PARAM` for anything else.
    pub fn parse(text: &str) -> Outcome<Self> {
        let Some((live, inbox)) = text.split_once('_') else {
            let pos = Token::parse(text)?.pos();
            return Ok(Self { pos, inbox: pos });
        };
        let inbox = inbox.parse().map_err(|_| DomainError::invalid_param("unknown token"))?;
        Ok(Self {
            pos: Token::parse(live)?.pos(),
            inbox: StreamPos(inbox),
        })
    }
}

impl std::fmt::Display for SyncToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pos == self.inbox {
            write!(f, "s{}", self.pos)
        } else {
            write!(f, "s{}_{}", self.pos, self.inbox)
        }
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Live(pos) => write!(f, "s{pos}"),
            Self::History { depth, pos } => write!(f, "t{depth}-{pos}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_round_trip() {
        for token in [
            Token::Live(StreamPos(0)),
            Token::Live(StreamPos(12)),
            Token::History {
                depth: 4,
                pos: StreamPos(9),
            },
            Token::History {
                depth: 4,
                pos: StreamPos(-9),
            },
        ] {
            assert_eq!(Token::parse(&token.to_string()).ok(), Some(token));
        }
    }

    #[test]
    fn a_vector_token_counts_as_its_minimum() {
        assert_eq!(Token::parse("s5~2.7~3.9").ok(), Some(Token::Live(StreamPos(5))));
    }

    #[test]
    fn a_sync_token_may_lag_behind_with_its_inbox() {
        let token = SyncToken {
            pos: StreamPos(9),
            inbox: StreamPos(4),
        };
        assert_eq!(token.to_string(), "s9_4");
        assert_eq!(SyncToken::parse("s9_4").ok(), Some(token));
        assert_eq!(Token::parse("s9_4").ok(), Some(Token::Live(StreamPos(9))));
        assert!(SyncToken::parse("s9_x").is_err());
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "s", "s-1", "x5", "t5", "t1-", "t-", "sxx", "s99999999999999999999"] {
            assert!(Token::parse(text).is_err(), "{text}");
        }
    }
}
