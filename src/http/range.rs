//! Two small grammars of HTTP that downloads need: `Range` (RFC 9110) and `Content-Disposition` (RFC 6266).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Which part of a file is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it: no range, several, or one in another unit.
    Everything,
    /// Bytes `start..=end`.
    Part {
        /// The first.
        start: u64,
        /// The last.
        end: u64,
    },
    /// A range that lies behind the end.
    Impossible,
}

/// Reads a `Range` header for a file of `size` bytes.
#[must_use]
pub fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some((first, last)) = header.and_then(|h| h.trim().strip_prefix("bytes=")?.split_once('-')) else {
        return Wanted::Everything;
    };
    let (first, last) = (first.trim(), last.trim());
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(end)) if start <= end => (start, end.min(size.saturating_sub(1))),
        (Ok(start), Err(_)) if last.is_empty() => (start, size.saturating_sub(1)),
        // The last so many bytes.
        (Err(_), Ok(0)) if first.is_empty() => return Wanted::Impossible,
        (Err(_), Ok(tail)) if first.is_empty() => (size.saturating_sub(tail), size.saturating_sub(1)),
        _ => return Wanted::Everything,
    };
    if start >= size {
        Wanted::Impossible
    } else {
        Wanted::Part { start, end }
    }
}

/// What may stand in an extended parameter as it is (RFC 8187, attr-char).
const EXTENDED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// `inline; filename="…"`, with the extended form where the name is not plain.
#[must_use]
pub fn disposition(kind: &str, name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    if plain {
        let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
        return format!("{kind}; filename=\"{quoted}\"");
    }
    format!("{kind}; filename*=utf-8''{}", utf8_percent_encode(name, EXTENDED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let part = |start, end| Wanted::Part { start, end };
        for (header, expected) in [
            ("bytes=0-9", part(0, 9)),
            ("bytes=90-", part(90, 99)),
            ("bytes=90-500", part(90, 99)),
            ("bytes=-10", part(90, 99)),
            ("bytes=-500", part(0, 99)),
            ("bytes=100-", Wanted::Impossible),
            ("bytes=-0", Wanted::Impossible),
            ("bytes=9-5", Wanted::Everything),
            ("bytes=0-1,5-6", Wanted::Everything),
            ("lines=0-1", Wanted::Everything),
        ] {
            assert_eq!(wanted(Some(header), 100), expected, "{header}");
        }
        assert_eq!(wanted(None, 100), Wanted::Everything);
        assert_eq!(wanted(Some("bytes=0-0"), 0), Wanted::Impossible);
    }

    #[test]
    fn names() {
        assert_eq!(
            disposition("inline", "a \"b\".png"),
            "inline; filename=\"a \\\"b\\\".png\""
        );
        assert_eq!(
            disposition("attachment", "grün.txt"),
            "attachment; filename*=utf-8''gr%C3%BCn.txt"
        );
    }
}
