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
            let min = rest.split_once('~').map_or(rest, |(min, _)| min);
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
    fn anything_else_is_refused() {
        for text in ["", "s", "s-1", "x5", "t5", "t1-", "t-", "sxx", "s99999999999999999999"] {
            assert!(Token::parse(text).is_err(), "{text}");
        }
    }
}
