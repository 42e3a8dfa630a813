//! JSON answers made of stored texts: nothing is parsed again, and large answers are sent in pieces.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use crate::error::{DomainError, Outcome};

/// Bytes of one piece, about.
const PIECE: usize = 128 * 1024;

/// A JSON object that is being written.
#[derive(Debug)]
pub struct Document {
    parts: Vec<Part>,
    len: usize,
}

#[derive(Debug)]
enum Part {
    Fixed(&'static str),
    Own(String),
    Stored(Arc<str>),
}

impl Part {
    fn text(&self) -> &str {
        match self {
            Self::Fixed(text) => text,
            Self::Own(text) => text,
            Self::Stored(text) => text,
        }
    }
}

impl Default for Document {
    fn default() -> Self {
        Self::new()
    }
}

impl Document {
    /// `{}`
    #[must_use]
    pub fn new() -> Self {
        let mut document = Self {
            parts: Vec::new(),
            len: 0,
        };
        document.push(Part::Fixed("{"));
        document
    }

    fn push(&mut self, part: Part) {
        self.len += part.text().len();
        self.parts.push(part);
    }

    fn name(&mut self, name: &'static str) {
        let comma = if self.parts.len() > 1 { "," } else { "" };
        self.push(Part::Own(format!("{comma}\"{name}\":")));
    }

    /// With a member. Names are those of the specification: nothing in them needs escaping.
    ///
    /// # Errors
    /// `Internal` when the value does not serialise.
    pub fn with(mut self, name: &'static str, value: &impl Serialize) -> Outcome<Self> {
        let text = serde_json::to_string(value).map_err(|e| DomainError::internal(format!("{name}: {e}")))?;
        self.name(name);
        self.push(Part::Own(text));
        Ok(self)
    }

    /// With a member whose value is JSON already.
    #[must_use]
    pub fn with_stored(mut self, name: &'static str, json: Arc<str>) -> Self {
        self.name(name);
        self.push(Part::Stored(json));
        self
    }

    /// With a list of values that are JSON already.
    #[must_use]
    pub fn with_list(mut self, name: &'static str, items: impl IntoIterator<Item = Arc<str>>) -> Self {
        self.name(name);
        self.push(Part::Fixed("["));
        for (at, item) in items.into_iter().enumerate() {
            if at > 0 {
                self.push(Part::Fixed(","));
            }
            self.push(Part::Stored(item));
        }
        self.push(Part::Fixed("]"));
        self
    }

    /// The number of bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a JSON object is never empty text")]
    pub fn len(&self) -> usize {
        self.len + 1
    }

    /// The text, in pieces.
    pub fn pieces(self) -> impl Iterator<Item = Bytes> + Send + use<> {
        let end = Part::Fixed("}");
        let mut parts = self.parts.into_iter().chain([end]);
        std::iter::from_fn(move || {
            let mut piece = BytesMut::new();
            while piece.len() < PIECE
                && let Some(part) = parts.next()
            {
                piece.extend_from_slice(part.text().as_bytes());
            }
            (!piece.is_empty()).then(|| piece.freeze())
        })
    }

    /// The text, whole.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.len());
        self.pieces().for_each(|piece| whole.extend_from_slice(&piece));
        whole.freeze()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn documents_are_json_of_the_length_they_tell() {
        let empty = Document::new();
        assert_eq!(empty.len(), 2);
        assert_eq!(&empty.into_bytes()[..], b"{}");

        let document = Document::new()
            .with_list("none", [])
            .with("number", &5)
            .expect("serialises")
            .with_list("some", [Arc::from("{\"a\":1}"), Arc::from("[]")])
            .with_stored("one", Arc::from("null"));
        let len = document.len();
        let bytes = document.into_bytes();
        assert_eq!(bytes.len(), len);
        let value: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(
            value,
            json!({ "none": [], "number": 5, "some": [{"a": 1}, []], "one": null })
        );
    }

    #[test]
    fn large_documents_come_in_pieces() {
        let item: Arc<str> = Arc::from(format!("\"{}\"", "x".repeat(998)));
        let document = Document::new().with_list("items", vec![item; 1_000]);
        let len = document.len();
        let pieces: Vec<Bytes> = document.pieces().collect();
        assert!(pieces.len() > 5 && pieces.iter().all(|piece| piece.len() < PIECE + 1_001));
        assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), len);
        let value: Value = serde_json::from_slice(&pieces.concat()).expect("JSON");
        assert_eq!(value["items"].as_array().map(Vec::len), Some(1_000));
    }
}
