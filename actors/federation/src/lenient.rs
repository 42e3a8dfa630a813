//! The text that was signed where a body has numbers that canonical JSON does not know.
//!
//! The specification signs canonical JSON, which has no fractions. EDUs are held to that by nobody: other servers write such
//! numbers as their language prints them and sign that text. So numbers are kept as they came, and everything else is brought
//! into the canonical form.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// How deep values may lie.
const MAX_DEPTH: usize = 100;
/// How often the whole text may be read: each level of nesting reads what lies below it once more.
const READINGS: usize = 24;

/// An object in canonical form, its numbers as they stand.
///
/// # Errors
/// In words, for what is no JSON object, or lies too deep.
pub(crate) fn canonical(json: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(json).map_err(|error| error.to_string())?;
    let trimmed = text.trim_matches(is_space);
    if !trimmed.starts_with('{') {
        return Err("no JSON object".to_owned());
    }
    // Checked as a whole first: what is read below are parts of JSON.
    let whole: &RawValue = parsed(trimmed)?;
    let mut writer = Writer {
        out: String::with_capacity(trimmed.len()),
        budget: trimmed.len().saturating_mul(READINGS),
    };
    writer.value(whole.get(), 0)?;
    Ok(writer.out)
}

/// What JSON takes as space.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn parsed<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

struct Writer {
    out: String,
    /// Bytes that may still be read.
    budget: usize,
}

impl Writer {
    fn value(&mut self, text: &str, depth: usize) -> Result<(), String> {
        let left = self.budget.checked_sub(text.len());
        self.budget = left
            .filter(|_| depth < MAX_DEPTH)
            .ok_or("the body is nested too deep")?;
        match text.as_bytes().first() {
            Some(b'{') => self.object(&parsed(text)?, depth),
            Some(b'[') => self.array(&parsed::<Vec<&RawValue>>(text)?, depth),
            Some(b'"') => self.string(&parsed::<String>(text)?),
            // Numbers, `true`, `false` and `null`.
            _ => {
                self.out.push_str(text);
                Ok(())
            }
        }
    }

    fn object(&mut self, members: &BTreeMap<String, &RawValue>, depth: usize) -> Result<(), String> {
        for (index, (name, value)) in members.iter().enumerate() {
            self.out.push(if index == 0 { '{' } else { ',' });
            self.string(name)?;
            self.out.push(':');
            self.value(value.get(), depth + 1)?;
        }
        self.out.push_str(if members.is_empty() { "{}" } else { "}" });
        Ok(())
    }

    fn array(&mut self, items: &[&RawValue], depth: usize) -> Result<(), String> {
        self.out.push('[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push(',');
            }
            self.value(item.get(), depth + 1)?;
        }
        self.out.push(']');
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), String> {
        let escaped = serde_json::to_string(text).map_err(|error| error.to_string())?;
        self.out.push_str(&escaped);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_the_rest_becomes_canonical() {
        let text = " { \"b\" : [ 1.50 , 1e-05, -0.0 , 12345678901234567890, {}, [] ] , \"a\\u00e4\\n\": \"\\u0041\\/\", \"Z\": null } ";
        let expected = "{\"Z\":null,\"a\u{e4}\\n\":\"A/\",\"b\":[1.50,1e-05,-0.0,12345678901234567890,{},[]]}";
        assert_eq!(canonical(text.as_bytes()).as_deref(), Ok(expected));
    }

    #[test]
    fn what_is_no_object_or_too_deep_is_refused() {
        for text in [
            "",
            "[1.5]",
            "1.5",
            "{\"a\":}",
            "{\"a\":1.5} x",
            "{\"a\":01.5}",
            "{\"a\":NaN}",
        ] {
            assert!(canonical(text.as_bytes()).is_err(), "{text}");
        }
        let deep = |depth: usize| format!("{}1.5{}", "{\"a\":[".repeat(depth), "]}".repeat(depth));
        assert!(canonical(deep(5).as_bytes()).is_ok());
        assert!(canonical(deep(60).as_bytes()).is_err());
        assert!(canonical(deep(200_000).as_bytes()).is_err());
    }
}
