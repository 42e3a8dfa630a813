//! What a web page says of itself (the Open Graph protocol, and the older names for the same): pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use encoding_rs::{Encoding, UTF_8};
use html5gum::emitters::default::DefaultEmitter;
use html5gum::{StartTag, Token, Tokenizer};

/// Properties that are told.
const MAX_PROPERTIES: usize = 50;
/// Characters of a property's name and value.
const MAX_NAME: usize = 64;
const MAX_VALUE: usize = 1_000;
/// Where in a page its encoding may be named (HTML, "Determining the character encoding").
const PRESCAN: usize = 1_024;

/// Reads properties like `og:title` out of a page, or the beginning of one. Where it has no Open Graph title or description
/// its ordinary ones stand for them.
#[must_use]
pub fn properties(page: &[u8], content_type: &str) -> BTreeMap<String, String> {
    let text = decode(page, content_type);
    let mut emitter = DefaultEmitter::default();
    // Titles and scripts hold no tags.
    emitter.naively_switch_states(true);
    let mut found = Found::default();
    for Ok(token) in Tokenizer::new_with_emitter(text.as_ref(), emitter) {
        match token {
            Token::StartTag(tag) if *tag.name == b"title" => found.in_title = found.title.is_none(),
            Token::StartTag(tag) if *tag.name == b"meta" => found.meta(&tag),
            // What follows is content.
            Token::StartTag(tag) if *tag.name == b"body" => break,
            Token::String(text) if found.in_title => {
                let title = found.title.get_or_insert_default();
                title.push_str(&String::from_utf8_lossy(&text));
            }
            Token::EndTag(_) => found.in_title = false,
            _ => {}
        }
    }
    found.finish()
}

fn decode<'a>(page: &'a [u8], content_type: &str) -> Cow<'a, str> {
    let label = |text: &str| {
        let (_, after) = text.split_once("charset=")?;
        let name = after.trim_start_matches(['"', '\'', ' ']);
        let end = name.find(|next: char| !next.is_ascii_alphanumeric() && !"-_".contains(next));
        Encoding::for_label(&name.as_bytes()[..end.unwrap_or(name.len())])
    };
    let head = String::from_utf8_lossy(&page[..page.len().min(PRESCAN)]).to_ascii_lowercase();
    let encoding = label(&content_type.to_ascii_lowercase()).or_else(|| label(&head));
    // A byte order mark is stronger than either.
    encoding.unwrap_or(UTF_8).decode(page).0
}

#[derive(Default)]
struct Found {
    properties: BTreeMap<String, String>,
    title: Option<String>,
    description: Option<String>,
    in_title: bool,
}

impl Found {
    fn meta(&mut self, tag: &StartTag<()>) {
        let attribute = |name: &[u8]| {
            let value = tag.attributes.iter().find(|(key, _)| key.as_slice() == name)?.1;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        let name = attribute(b"property").or_else(|| attribute(b"name"));
        let (Some(name), Some(content)) = (name, attribute(b"content")) else {
            return;
        };
        let name = name.trim().to_ascii_lowercase();
        if name == "description" && self.description.is_none() {
            self.description = Some(content);
        } else if name.starts_with("og:") && name.len() <= MAX_NAME && self.properties.len() < MAX_PROPERTIES {
            // Of several pictures the first is the most telling.
            self.properties.entry(name).or_insert_with(|| tidied(&content));
        }
    }

    fn finish(mut self) -> BTreeMap<String, String> {
        for (name, text) in [("og:title", self.title), ("og:description", self.description)] {
            if let Some(text) = text.map(|text| tidied(&text)) {
                self.properties.entry(name.to_owned()).or_insert(text);
            }
        }
        self.properties.retain(|_, value| !value.is_empty());
        self.properties
    }
}

/// Without line breaks and runs of blanks, and not too long.
fn tidied(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(MAX_VALUE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(page: &str) -> Vec<(String, String)> {
        properties(page.as_bytes(), "text/html; charset=utf-8")
            .into_iter()
            .collect()
    }

    fn told(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn open_graph_comes_before_the_ordinary_names() {
        let page = "<html><head><title>Plain &amp;\n simple</title><meta name=description content='Old'>\
                    <meta property=\"og:description\" content=\"New\"><meta property='OG:image' content='/a.png'>\
                    <meta property='og:image' content='/b.png'><script>'<meta property=og:x content=y>'</script>\
                    </head><body><meta property=og:late content=no></body>";
        let expected = [
            told("og:description", "New"),
            told("og:image", "/a.png"),
            told("og:title", "Plain & simple"),
        ];
        assert_eq!(read(page), expected);
    }

    #[test]
    fn bad_pages_are_read_as_far_as_they_go() {
        assert_eq!(read(""), []);
        assert_eq!(read("<title>Open"), [told("og:title", "Open")]);
        assert_eq!(read("<meta property=og:title content="), []);
        assert_eq!(
            read(&format!("<meta property=og:title content='{}'>", "x".repeat(5_000)))[0]
                .1
                .len(),
            MAX_VALUE
        );
        let many: String = (0..200)
            .map(|at| format!("<meta property=og:{at} content=x>"))
            .collect();
        assert_eq!(read(&many).len(), MAX_PROPERTIES);
    }

    #[test]
    fn pages_come_in_many_encodings() {
        let page = b"<meta charset=\"iso-8859-1\"><title>Caf\xe9</title>";
        assert_eq!(properties(page, "text/html")["og:title"], "Café");
        let page = b"<title>\x83\x65\x83\x58\x83\x67</title>";
        assert_eq!(properties(page, "text/html; charset=Shift_JIS")["og:title"], "テスト");
    }
}
