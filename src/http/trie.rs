//! A segment trie over raw paths. Segments are decoded one by one, so an encoded slash never splits an argument.

use std::borrow::Cow;
use std::collections::HashMap;

use http::Method;
use percent_encoding::percent_decode_str;

/// More segments than any path has: longer ones are unknown without being looked at.
const MAX_SEGMENTS: usize = 32;

/// Path templates with a value for each method.
///
/// `{name}` matches one segment that is not empty, `{state_key}` at the end an empty one too, and `{name*}` at the end
/// all remaining segments.
pub struct Trie<T> {
    root: Node<T>,
}

struct Node<T> {
    literals: HashMap<&'static str, Node<T>>,
    variable: Option<Box<Node<T>>>,
    /// Whether an empty last segment may be this node.
    empty: bool,
    leaf: Vec<Route<T>>,
    rest: Vec<Route<T>>,
}

/// A registered method and path.
#[derive(Debug)]
pub struct Route<T> {
    /// The method.
    pub method: Method,
    /// The path as registered.
    pub template: &'static str,
    /// What was registered.
    pub value: T,
}

/// What a method and path lead to.
#[derive(Debug)]
pub enum Lookup<'t, T> {
    /// A route, and the decoded arguments in the order of the path.
    Found(&'t Route<T>, Vec<String>),
    /// The path exists with these methods only.
    WrongMethod(Vec<&'t Method>),
    /// No such path.
    Unknown,
    /// A segment is not UTF-8 once decoded.
    BadEncoding,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            literals: HashMap::new(),
            variable: None,
            empty: false,
            leaf: Vec::new(),
            rest: Vec::new(),
        }
    }
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

/// The name in `{name}`.
fn variable(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// The names of a template's variables, in order, without the `*` of a rest.
pub fn variables(template: &'static str) -> impl Iterator<Item = &'static str> {
    template
        .split('/')
        .filter_map(variable)
        .map(|name| name.trim_end_matches('*'))
}

impl<T> Trie<T> {
    /// Adds a route. Answers the value back if the method and path (whatever the variables' names) are taken.
    pub fn insert(&mut self, method: Method, template: &'static str, value: T) -> Result<(), T> {
        let mut node = &mut self.root;
        for segment in template.split('/').skip(1) {
            match variable(segment) {
                Some(name) if name.ends_with('*') => {
                    return add(
                        &mut node.rest,
                        Route {
                            method,
                            template,
                            value,
                        },
                    );
                }
                Some(name) => {
                    node = node.variable.get_or_insert_default();
                    node.empty |= name == "state_key";
                }
                None => node = node.literals.entry(segment).or_default(),
            }
        }
        add(
            &mut node.leaf,
            Route {
                method,
                template,
                value,
            },
        )
    }

    /// Looks a raw (still encoded) path up. Literal segments win over variables; `HEAD` is answered by `GET`.
    pub fn lookup(&self, method: &Method, path: &str) -> Lookup<'_, T> {
        let Some(path) = path.strip_prefix('/') else {
            return Lookup::Unknown;
        };
        let mut segments = Vec::new();
        for raw in path.split('/') {
            if segments.len() == MAX_SEGMENTS {
                return Lookup::Unknown;
            }
            match percent_decode_str(raw).decode_utf8() {
                Ok(segment) => segments.push(segment),
                Err(_) => return Lookup::BadEncoding,
            }
        }
        let mut taken = Vec::new();
        let Some((routes, rest)) = self.root.find(&segments, 0, &mut taken) else {
            return Lookup::Unknown;
        };
        let wanted = routes.iter().find(|route| route.method == *method);
        let get = || {
            routes
                .iter()
                .find(|route| *method == Method::HEAD && route.method == Method::GET)
        };
        match wanted.or_else(get) {
            Some(route) => {
                let mut args: Vec<String> = taken.iter().map(|at| segments[*at].clone().into_owned()).collect();
                args.extend(rest.map(|from| segments[from..].join("/")));
                Lookup::Found(route, args)
            }
            None => Lookup::WrongMethod(routes.iter().map(|route| &route.method).collect()),
        }
    }

    /// Every route.
    pub fn routes(&self) -> Vec<&Route<T>> {
        let mut found = Vec::new();
        let mut waiting = vec![&self.root];
        while let Some(node) = waiting.pop() {
            found.extend(node.leaf.iter().chain(&node.rest));
            waiting.extend(node.literals.values().chain(node.variable.as_deref()));
        }
        found
    }
}

fn add<T>(routes: &mut Vec<Route<T>>, new: Route<T>) -> Result<(), T> {
    if routes.iter().any(|route| route.method == new.method) {
        return Err(new.value);
    }
    routes.push(new);
    Ok(())
}

/// The routes of a path, and from which segment on a rest begins.
type Hit<'t, T> = (&'t [Route<T>], Option<usize>);

impl<T> Node<T> {
    /// `taken` gathers the indices of the segments that variables stand for.
    fn find(&self, segments: &[Cow<'_, str>], at: usize, taken: &mut Vec<usize>) -> Option<Hit<'_, T>> {
        let Some(segment) = segments.get(at) else {
            return (!self.leaf.is_empty()).then_some((&self.leaf, None));
        };
        if let Some(hit) = self
            .literals
            .get(&**segment)
            .and_then(|node| node.find(segments, at + 1, taken))
        {
            return Some(hit);
        }
        let last = at + 1 == segments.len();
        if let Some(node) = self
            .variable
            .as_deref()
            .filter(|node| !segment.is_empty() || (last && node.empty))
        {
            taken.push(at);
            if let Some(hit) = node.find(segments, at + 1, taken) {
                return Some(hit);
            }
            taken.pop();
        }
        (!self.rest.is_empty()).then_some((&self.rest, Some(at)))
    }
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    const TEMPLATES: [&str; 12] = [
        "/",
        "/_matrix/client/v3/rooms/{room_id}/state",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}",
        "/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}",
        "/_matrix/client/v3/room_keys/version",
        "/_matrix/client/v3/room_keys/{version}/x",
        "/_matrix/client/v3/room_keys/version/{version}",
        "/_matrix/client/v3/pushrules/",
        "/_matrix/client/v3/profile/{user_id}",
        "/_matrix/client/v3/profile/{user_id}/{field}",
        "/_matrix/static/{path*}",
    ];

    fn trie(order: impl IntoIterator<Item = usize>) -> Trie<usize> {
        let mut trie = Trie::default();
        for index in order {
            trie.insert(Method::GET, TEMPLATES[index], index)
                .expect("the templates differ");
        }
        trie.insert(Method::PUT, TEMPLATES[4], 100).expect("another method");
        trie
    }

    fn get(trie: &Trie<usize>, path: &str) -> Option<(usize, Vec<String>)> {
        match trie.lookup(&Method::GET, path) {
            Lookup::Found(route, args) => Some((route.value, args)),
            _ => None,
        }
    }

    fn found(index: usize, args: &[&str]) -> Option<(usize, Vec<String>)> {
        Some((index, args.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn segments_are_decoded_by_themselves() {
        let trie = trie(0..TEMPLATES.len());
        let path = "/_matrix/client/v3/rooms/!a%2Fb%25%2Bc:x/state/m.room.name/k%20+%C3%A4";
        assert_eq!(get(&trie, path), found(3, &["!a/b%+c:x", "m.room.name", "k +ä"]));
        assert!(matches!(trie.lookup(&Method::GET, "/_matrix/%ff"), Lookup::BadEncoding));
    }

    #[test]
    fn only_state_keys_may_be_empty() {
        let trie = trie(0..TEMPLATES.len());
        let base = "/_matrix/client/v3/rooms/!r:x/state";
        assert_eq!(get(&trie, base), found(1, &["!r:x"]));
        assert_eq!(
            get(&trie, &format!("{base}/m.room.name")),
            found(2, &["!r:x", "m.room.name"])
        );
        assert_eq!(
            get(&trie, &format!("{base}/m.room.name/")),
            found(3, &["!r:x", "m.room.name", ""])
        );
        assert_eq!(get(&trie, &format!("{base}/")), None);
        assert_eq!(get(&trie, "/_matrix/client/v3/profile//displayname"), None);
        assert_eq!(get(&trie, "/_matrix/client/v3/profile/@a:x/"), None);
        assert_eq!(get(&trie, "/_matrix/client/v3/pushrules/"), found(8, &[]));
        assert_eq!(get(&trie, "/_matrix/client/v3/pushrules"), None);
    }

    #[test]
    fn literals_win_and_variables_are_tried_after_them() {
        let trie = trie(0..TEMPLATES.len());
        assert_eq!(get(&trie, "/_matrix/client/v3/room_keys/version/x"), found(7, &["x"]));
        assert_eq!(get(&trie, "/_matrix/client/v3/room_keys/1/x"), found(6, &["1"]));
        assert_eq!(get(&trie, "/_matrix/client/v3/room_keys/version"), found(5, &[]));
        assert_eq!(get(&trie, "/"), found(0, &[]));
        assert_eq!(get(&trie, "/_matrix/static/a/b%2Fc"), found(11, &["a/b/c"]));
        assert_eq!(get(&trie, "/_matrix/static/"), found(11, &[""]));
    }

    #[test]
    fn unknown_paths_and_wrong_methods_differ() {
        let trie = trie(0..TEMPLATES.len());
        let send = "/_matrix/client/v3/rooms/!r:x/send/m.text/1";
        assert!(
            matches!(trie.lookup(&Method::DELETE, send), Lookup::WrongMethod(m) if m == [Method::GET, Method::PUT])
        );
        assert!(matches!(trie.lookup(&Method::HEAD, send), Lookup::Found(..)));
        assert!(matches!(
            trie.lookup(&Method::GET, "/_matrix/client/v3/nothing"),
            Lookup::Unknown
        ));
        assert!(matches!(trie.lookup(&Method::GET, "*"), Lookup::Unknown));
        assert!(matches!(trie.lookup(&Method::GET, &"/a".repeat(100)), Lookup::Unknown));
    }

    #[test]
    fn a_path_is_registered_once() {
        let mut trie = trie(0..TEMPLATES.len());
        assert_eq!(
            trie.insert(Method::GET, "/_matrix/client/v3/profile/{userId}", 1),
            Err(1)
        );
        assert_eq!(trie.routes().len(), TEMPLATES.len() + 1);
        assert_eq!(
            variables(TEMPLATES[3]).collect::<Vec<_>>(),
            ["room_id", "event_type", "state_key"]
        );
        assert_eq!(variables(TEMPLATES[11]).collect::<Vec<_>>(), ["path"]);
    }

    proptest! {
        #[test]
        fn any_argument_comes_back(room in ".+", kind in ".+", key in ".*", order in Just((0..TEMPLATES.len()).collect::<Vec<_>>()).prop_shuffle()) {
            let trie = trie(order);
            let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let path = format!("/_matrix/client/v3/rooms/{}/state/{}/{}", encode(&room), encode(&kind), encode(&key));
            prop_assert_eq!(get(&trie, &path), found(3, &[&room, &kind, &key]));
        }

        #[test]
        fn any_path_is_answered(path in "(/([a-z{}%_*.]{0,3}|rooms|state|_matrix|client|v3|%[0-9a-f]{2})){0,9}") {
            let trie = trie(0..TEMPLATES.len());
            if let Lookup::Found(route, args) = trie.lookup(&Method::GET, &path) {
                prop_assert_eq!(variables(route.template).count(), args.len());
            }
        }
    }
}
