//! Answers of `/_matrix/federation/v1/media/download`: `multipart/mixed` with a JSON object and then the media, or where it
//! lies (server-server API, "Content Repository"; RFC 2046 §5.1).

use std::io::{self, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue, LOCATION};
use percent_encoding::percent_decode_str;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::Upload;
use crate::error::{DomainError, Outcome};

/// Bytes before the media: the JSON part and the headers.
const MAX_HEAD: usize = 64 * 1024;
/// Bytes read from a file at a time.
const PIECE: usize = 64 * 1024;
/// Characters of a boundary (RFC 2046).
const MAX_BOUNDARY: usize = 70;

/// What the second part holds.
#[derive(Debug)]
pub(super) enum Content {
    /// The media: its headers, and its place in the answer.
    Media {
        headers: HeaderMap,
        start: u64,
        length: u64,
    },
    /// A URL.
    Elsewhere(String),
}

/// The boundary that a `Content-Type` names.
pub(super) fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().to_ascii_lowercase().starts_with("multipart/") {
        return None;
    }
    let named = |parameter: &str| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"').to_owned();
        let fits = !value.is_empty() && value.len() <= MAX_BOUNDARY;
        (name.trim().eq_ignore_ascii_case("boundary") && fits).then_some(value)
    };
    parameters.split(';').find_map(named)
}

fn nonsense(what: &str) -> DomainError {
    DomainError::matrix(
        502,
        "M_UNKNOWN",
        format!("the other server's media answer makes no sense: {what}"),
    )
}

/// Finds the second part of an answer that lies in a file.
///
/// # Errors
/// 502 where there is none.
pub(super) async fn read(path: &Path, boundary: &str) -> Outcome<Content> {
    let failed = |error: io::Error| super::disk(&error);
    let mut file = File::open(path).await.map_err(failed)?;
    let size = file.metadata().await.map_err(failed)?.len();
    let mut head = Vec::new();
    (&mut file)
        .take(MAX_HEAD as u64)
        .read_to_end(&mut head)
        .await
        .map_err(failed)?;
    let (headers, start) = second_part(&head, boundary).ok_or_else(|| nonsense("no second part"))?;
    if let Some(url) = headers.get(LOCATION) {
        let url = url.to_str().map_err(|_| nonsense("a redirect to no URL"))?;
        return Ok(Content::Elsewhere(url.to_owned()));
    }
    // The end is `\r\n--boundary--`, perhaps with white space behind it.
    let close = format!("\r\n--{boundary}--");
    let from = size.saturating_sub(close.len() as u64 + 1_024).max(start as u64);
    file.seek(SeekFrom::Start(from)).await.map_err(failed)?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).await.map_err(failed)?;
    let end = rfind(&tail, close.as_bytes()).ok_or_else(|| nonsense("it breaks off"))?;
    Ok(Content::Media {
        headers,
        start: start as u64,
        length: from + end as u64 - start as u64,
    })
}

/// Headers and beginning of the second part.
fn second_part(head: &[u8], boundary: &str) -> Option<(HeaderMap, usize)> {
    let open = format!("--{boundary}");
    let first = find(head, open.as_bytes())?;
    let inside = first + open.len();
    let next = format!("\r\n--{boundary}\r\n");
    let second = inside + find(&head[inside..], next.as_bytes())? + next.len();
    // Without headers the blank line comes at once.
    let (headers, start) = match head[second..].strip_prefix(b"\r\n") {
        Some(_) => (&head[second..second], second + 2),
        None => {
            let length = find(&head[second..], b"\r\n\r\n")?;
            (&head[second..second + length], second + length + 4)
        }
    };
    let mut map = HeaderMap::new();
    for line in String::from_utf8_lossy(headers).split("\r\n") {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if let (Ok(name), Ok(value)) = (name.trim().parse::<HeaderName>(), HeaderValue::from_str(value.trim())) {
            map.insert(name, value);
        }
    }
    Some((map, start))
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn rfind(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).rposition(|window| window == wanted)
}

/// A part of a file as a stream.
pub(super) async fn part(path: &Path, start: u64, length: u64) -> io::Result<Upload> {
    let mut file = File::open(path).await?;
    file.seek(SeekFrom::Start(start)).await?;
    Ok(pieces(file.take(length)))
}

fn pieces(file: tokio::io::Take<File>) -> Upload {
    let pieces = stream::unfold(Some(file), |file| async {
        let mut file = file?;
        let mut piece = vec![0; PIECE];
        match file.read(&mut piece).await {
            Ok(0) => None,
            Ok(read) => {
                piece.truncate(read);
                Some((Ok(Bytes::from(piece)), Some(file)))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    Box::pin(pieces)
}

/// The file's name in a `Content-Disposition` (RFC 6266), its last path segment.
pub(super) fn file_name(disposition: &str) -> Option<String> {
    let mut plain = None;
    for parameter in disposition.split(';').skip(1) {
        let Some((name, value)) = parameter.split_once('=') else {
            continue;
        };
        let value = value.trim();
        match name.trim().to_ascii_lowercase().as_str() {
            "filename*" => {
                let (_, encoded) = value.split_once("''")?;
                let decoded = percent_decode_str(encoded).decode_utf8().ok()?;
                return clean(&decoded);
            }
            "filename" => plain = Some(value.trim_matches('"').replace("\\\"", "\"")),
            _ => {}
        }
    }
    clean(&plain?)
}

fn clean(name: &str) -> Option<String> {
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(255).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
#[path = "multipart_tests.rs"]
mod tests;
