//! Uploads as a JSON envelope `{content, content_type, filename}`, as the API reference beside the specification has them.

use actors::media::Label;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// An opened envelope.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What the uploader says about the file.
    pub label: Label,
    /// The file.
    pub content: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    content: Content,
    content_type: Option<String>,
    filename: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Base64(String),
    Bytes(Vec<u8>),
}

/// The envelope, or `None` where the JSON is a file in its own right.
#[must_use]
pub fn open(json: &[u8]) -> Option<Envelope> {
    let shape: Shape = serde_json::from_slice(json).ok()?;
    let content = match shape.content {
        Content::Base64(text) => STANDARD.decode(text.as_bytes()).ok()?,
        Content::Bytes(bytes) => bytes,
    };
    Some(Envelope {
        label: Label {
            content_type: shape.content_type,
            name: shape.filename,
        },
        content,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_are_told_from_files() {
        let envelope = open(br#"{"content": "aGk=", "content_type": "text/plain", "filename": "a.txt"}"#);
        let label = Label {
            content_type: Some("text/plain".to_owned()),
            name: Some("a.txt".to_owned()),
        };
        assert_eq!(
            envelope,
            Some(Envelope {
                label,
                content: b"hi".to_vec()
            })
        );
        assert_eq!(
            open(br#"{"content": [104, 105]}"#).map(|e| e.content),
            Some(b"hi".to_vec())
        );
        for file in [
            &br#"{"content": "no base64!"}"#[..],
            br#"{"content": [300]}"#,
            br#"{"content": "aGk=", "x": 1}"#,
            b"[]",
        ] {
            assert_eq!(open(file), None);
        }
    }
}
