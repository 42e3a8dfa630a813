use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn key(nid: i64) -> StateKeyNid {
    StateKeyNid(nid)
}

fn nids() -> impl Strategy<Value = i64> {
    prop_oneof![1..200i64, 1..1_000_000i64, (i64::MAX - 50)..=i64::MAX]
}

/// Event 0 stands for "removed".
fn delta() -> impl Strategy<Value = Vec<Entry>> {
    let event = prop_oneof![1 => Just(0), 5 => nids()];
    btree_map(nids(), event, 0..40).prop_map(|map| map.into_iter().map(|(k, e)| (key(k), EventNid(e))).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn entries_survive(entries in delta()) {
        prop_assert_eq!(decode(&encode(&entries).expect("sorted")).expect("own bytes"), entries);
    }

    #[test]
    fn malformed_bytes_are_errors_or_the_one_spelling(bytes in vec(any::<u8>(), 0..60), format in any::<bool>()) {
        let mut bytes = bytes;
        if format && !bytes.is_empty() {
            bytes[0] = FORMAT;
        }
        if let Ok(entries) = decode(&bytes) {
            prop_assert_eq!(&encode(&entries).expect("decoded entries are sorted"), &bytes);
        }
        let _ = assemble([bytes.as_slice(), bytes.as_slice()]);
    }

    #[test]
    fn damaged_bytes_never_panic(entries in delta(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = encode(&entries).expect("sorted");
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        if let Ok(entries) = decode(&bytes) {
            prop_assert_eq!(&encode(&entries).expect("decoded entries are sorted"), &bytes);
        }
    }

    #[test]
    fn chains_end_in_the_map_they_were_made_from(steps in vec(delta(), 1..40)) {
        let mut map = FullMap::default();
        let mut stored: Vec<NewGroup> = vec![NewGroup::full(&map).expect("positive")];
        for (at, step) in steps.iter().enumerate() {
            let mut next = map.clone();
            next.apply(step);
            prop_assert_eq!(&next, &FullMap::from_entries(map.entries().iter().chain(step).copied()));
            let changes = map.changes_to(&next);
            let before = stored.last().expect("never empty").chain;
            let parent = StateGroupId(at as i64);
            let group = NewGroup::after(parent, &before, &changes, || next.clone()).expect("sorted");
            prop_assert_eq!(group.chain.hash, ContentHash::of(&next));
            prop_assert!(group.chain.hops <= MAX_HOPS);
            prop_assert!(group.chain.delta_bytes <= group.chain.full_bytes / 2);
            stored.push(group);
            map = next;

            let start = stored.iter().rposition(|group| group.parent.is_none()).expect("the first is full");
            let (read, chain) = assemble(stored[start..].iter().map(|group| group.bytes.as_slice())).expect("own bytes");
            prop_assert_eq!(&read, &map);
            prop_assert_eq!(chain, stored.last().expect("never empty").chain);
        }
    }

    #[test]
    fn changes_lead_from_one_map_to_the_other(a in delta(), b in delta()) {
        let (a, b) = (FullMap::from_entries(a), FullMap::from_entries(b));
        let delta: Vec<Entry> = a.changes_to(&b).iter().map(|c| (c.key, c.new.unwrap_or(REMOVED))).collect();
        let mut moved = a.clone();
        moved.apply(&delta);
        prop_assert_eq!(moved, b);
        prop_assert!(a.changes_to(&a).is_empty());
    }
}

#[test]
fn unsorted_or_negative_entries_are_refused() {
    let entry = |k, e| (key(k), EventNid(e));
    assert_eq!(encode(&[entry(2, 1), entry(1, 1)]), Err(CodecError::Unsorted));
    assert_eq!(encode(&[entry(2, 1), entry(2, 1)]), Err(CodecError::Unsorted));
    assert_eq!(encode(&[entry(0, 1)]), Err(CodecError::Unsorted));
    assert_eq!(encode(&[entry(1, -1)]), Err(CodecError::Event));
    assert_eq!(decode(&[]), Err(CodecError::Truncated));
    assert_eq!(decode(&[9]), Err(CodecError::Format(9)));
    assert_eq!(decode(&[FORMAT, 0, 1]), Err(CodecError::Unsorted));
    assert_eq!(decode(&[FORMAT, 1]), Err(CodecError::Truncated));
    assert_eq!(decode(&[FORMAT, 0x81, 0x00, 1]), Err(CodecError::Number));
    assert_eq!(assemble([]), Err(CodecError::NoFullCopy));
    // A removal has no place in a full copy.
    assert_eq!(assemble([[FORMAT, 1, 0].as_slice()]), Err(CodecError::Event));
}

#[test]
fn long_chains_are_cut() {
    let map = FullMap::from_entries((1..=10_000).map(|n| (key(n), EventNid(n))));
    let mut group = NewGroup::full(&map).expect("positive");
    for hop in 1..=MAX_HOPS {
        let change = Change {
            key: key(5),
            old: None,
            new: Some(EventNid(i64::from(hop))),
        };
        group = NewGroup::after(StateGroupId(1), &group.chain, &[change], || unreachable!("a delta")).expect("sorted");
        assert_eq!(group.chain.hops, hop);
    }
    let change = Change {
        key: key(5),
        old: None,
        new: Some(EventNid(1)),
    };
    let full = NewGroup::after(StateGroupId(1), &group.chain, &[change], || map.clone()).expect("sorted");
    assert!(full.parent.is_none() && full.chain.hops == 0);
}

/// What state costs on disk: printed, and held below the figures the design counts on.
#[test]
fn sizes() {
    // A room of 10 000 members: keys are interned as people join, events are numbered across the whole server.
    let member = |n: i64| (key(40_000 + n * 3), EventNid(900_000 + n * 41));
    let map = FullMap::from_entries((0..10_000).map(member));
    let full = NewGroup::full(&map).expect("positive");
    let change = Change {
        key: member(5_000).0,
        old: Some(member(5_000).1),
        new: Some(EventNid(2_000_000)),
    };
    let delta = NewGroup::after(StateGroupId(7), &full.chain, &[change], || map.clone()).expect("sorted");
    println!(
        "full copy of 10 000 members: {} bytes; one change: {} bytes",
        full.bytes.len(),
        delta.bytes.len()
    );
    assert!(full.bytes.len() < 70_000);
    assert!(delta.bytes.len() <= 10);
}
