//! State groups: immutable maps from state keys to events, stored as a full copy followed by small deltas.
//!
//! Bytes of a group: a format byte (1), then one pair of LEB128 numbers for each entry in ascending order of the key:
//! the key's distance from the key before it, and the event, `0` where the key is removed and otherwise one more than
//! the zigzag form of its distance from the event before it. Encoding is unique: equal entries give equal bytes, and
//! decoding accepts no other spelling.

use std::cmp::Ordering;

use entities::ids::{EventNid, RoomNid, StateGroupId, StateKeyNid};
use entities::state_group;
use sha2::{Digest as _, Sha256};

/// A chain is cut by a full copy when it would become longer than this.
pub const MAX_HOPS: u32 = 32;

const FORMAT: u8 = 1;
const REMOVED: EventNid = EventNid(0);

/// One entry of a map, or of a delta, where event 0 means "removed".
pub type Entry = (StateKeyNid, EventNid);

/// Why bytes or entries are not a state group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Bytes end within an entry, or there are none.
    #[error("truncated state group")]
    Truncated,
    /// Another format than this server writes.
    #[error("unknown state group format {0}")]
    Format(u8),
    /// A number that does not fit, or is not written in its shortest form.
    #[error("bad number in state group")]
    Number,
    /// Keys are not positive and strictly ascending.
    #[error("state group keys are not sorted")]
    Unsorted,
    /// A full copy removes a key, or an event number is negative.
    #[error("bad event number in state group")]
    Event,
    /// A chain does not begin with a full copy.
    #[error("state group chain without a full copy")]
    NoFullCopy,
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn take(bytes: &mut &[u8]) -> Result<u64, CodecError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
        *bytes = rest;
        let low = u64::from(byte & 0x7f);
        if shift == 63 && low > 1 {
            return Err(CodecError::Number);
        }
        value |= low << shift;
        if byte & 0x80 == 0 {
            // A last group of zeros could have been left out.
            return if low == 0 && shift > 0 {
                Err(CodecError::Number)
            } else {
                Ok(value)
            };
        }
    }
    Err(CodecError::Number)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Writes entries.
///
/// # Errors
/// When keys are not positive and strictly ascending, or an event number is negative.
pub fn encode(entries: &[Entry]) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(1 + entries.len() * 4);
    out.push(FORMAT);
    let (mut key, mut event) = (0i64, 0i64);
    for (next_key, next_event) in entries {
        if next_key.0 <= key {
            return Err(CodecError::Unsorted);
        }
        put(&mut out, next_key.0.abs_diff(key));
        key = next_key.0;
        match next_event.0.cmp(&0) {
            Ordering::Less => return Err(CodecError::Event),
            Ordering::Equal => put(&mut out, 0),
            Ordering::Greater => {
                // Both are positive, so the distance fits and its zigzag form is below u64::MAX.
                put(&mut out, zigzag(next_event.0 - event) + 1);
                event = next_event.0;
            }
        }
    }
    Ok(out)
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// When the bytes are anything else.
pub fn decode(bytes: &[u8]) -> Result<Vec<Entry>, CodecError> {
    let (&format, mut bytes) = bytes.split_first().ok_or(CodecError::Truncated)?;
    if format != FORMAT {
        return Err(CodecError::Format(format));
    }
    let mut entries = Vec::with_capacity(bytes.len() / 4);
    let (mut key, mut event) = (0i64, 0i64);
    while !bytes.is_empty() {
        let step = take(&mut bytes)?;
        if step == 0 {
            return Err(CodecError::Unsorted);
        }
        key = i64::try_from(step)
            .ok()
            .and_then(|step| key.checked_add(step))
            .ok_or(CodecError::Number)?;
        let code = take(&mut bytes)?;
        let value = if code == 0 {
            REMOVED
        } else {
            event = event
                .checked_add(unzigzag(code - 1))
                .filter(|event| *event > 0)
                .ok_or(CodecError::Event)?;
            EventNid(event)
        };
        entries.push((StateKeyNid(key), value));
    }
    Ok(entries)
}

/// A whole map, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FullMap(Vec<Entry>);

impl FullMap {
    /// From entries in any order; of equal keys the last counts, removed ones are left out.
    #[must_use]
    pub fn from_entries(entries: impl IntoIterator<Item = Entry>) -> Self {
        let map: std::collections::BTreeMap<_, _> = entries.into_iter().collect();
        Self(map.into_iter().filter(|(_, event)| *event != REMOVED).collect())
    }

    /// The event of a key.
    #[must_use]
    pub fn get(&self, key: StateKeyNid) -> Option<EventNid> {
        self.0
            .binary_search_by_key(&key, |entry| entry.0)
            .ok()
            .map(|at| self.0[at].1)
    }

    /// The entries, by key.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Applies a delta, sorted by key as [`decode`] returns it.
    pub fn apply(&mut self, delta: &[Entry]) {
        if let [(key, event)] = delta {
            match (self.0.binary_search_by_key(key, |entry| entry.0), *event == REMOVED) {
                (Ok(at), false) => self.0[at].1 = *event,
                (Err(at), false) => self.0.insert(at, (*key, *event)),
                (Ok(at), true) => drop(self.0.remove(at)),
                (Err(_), true) => {}
            }
            return;
        }
        let old = std::mem::take(&mut self.0);
        self.0 = merge(&old, delta)
            .into_iter()
            .filter_map(|(key, _, new)| new.map(|event| (key, event)))
            .collect();
    }

    /// What turns `self` into `other`.
    #[must_use]
    pub fn changes_to(&self, other: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let (mut a, mut b) = (self.0.as_slice(), other.0.as_slice());
        loop {
            let order = match (a.first(), b.first()) {
                (None, None) => return changes,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(left), Some(right)) => left.0.cmp(&right.0),
            };
            let old = (order != Ordering::Greater).then(|| a[0]);
            let new = (order != Ordering::Less).then(|| b[0]);
            a = &a[usize::from(old.is_some())..];
            b = &b[usize::from(new.is_some())..];
            if let Some((key, _)) = old.or(new)
                && old != new
            {
                changes.push(Change {
                    key,
                    old: old.map(|entry| entry.1),
                    new: new.map(|entry| entry.1),
                });
            }
        }
    }
}

/// Both lists by key, each with its event; removals of the delta are `None`.
fn merge(old: &[Entry], delta: &[Entry]) -> Vec<(StateKeyNid, Option<EventNid>, Option<EventNid>)> {
    let mut out = Vec::with_capacity(old.len() + delta.len());
    let mut delta = delta.iter().peekable();
    for &(key, event) in old {
        while let Some(&&(new_key, new)) = delta.peek().filter(|entry| entry.0 < key) {
            out.push((new_key, None, (new != REMOVED).then_some(new)));
            delta.next();
        }
        match delta.next_if(|entry| entry.0 == key) {
            Some(&(_, new)) => out.push((key, Some(event), (new != REMOVED).then_some(new))),
            None => out.push((key, Some(event), Some(event))),
        }
    }
    out.extend(delta.map(|&(key, new)| (key, None, (new != REMOVED).then_some(new))));
    out
}

/// One key whose event changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: StateKeyNid,
    /// Its event before.
    pub old: Option<EventNid>,
    /// Its event after.
    pub new: Option<EventNid>,
}

/// What a map holds, as 32 bytes: the sum of the SHA-256 of its entries, kept up to date by differences so that a change
/// in a large room costs two hashes. Equal maps have equal sums; whoever finds an equal sum compares the maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ContentHash([u64; 4]);

impl ContentHash {
    /// Of a whole map.
    #[must_use]
    pub fn of(map: &FullMap) -> Self {
        let mut hash = Self::default();
        map.0
            .iter()
            .for_each(|(key, event)| hash.add(*key, *event, u64::wrapping_add));
        hash
    }

    fn add(&mut self, key: StateKeyNid, event: EventNid, combine: fn(u64, u64) -> u64) {
        let mut input = [0u8; 16];
        input[..8].copy_from_slice(&key.0.to_le_bytes());
        input[8..].copy_from_slice(&event.0.to_le_bytes());
        let digest = Sha256::digest(input);
        for (lane, chunk) in self.0.iter_mut().zip(digest.chunks_exact(8)) {
            let chunk = <[u8; 8]>::try_from(chunk).expect("chunks of eight bytes");
            *lane = combine(*lane, u64::from_le_bytes(chunk));
        }
    }

    fn apply(&mut self, change: &Change) {
        if let Some(old) = change.old {
            self.add(change.key, old, u64::wrapping_sub);
        }
        if let Some(new) = change.new {
            self.add(change.key, new, u64::wrapping_add);
        }
    }

    /// The column's value.
    #[must_use]
    pub fn bytes(&self) -> [u8; 32] {
        let mut out = [0; 32];
        for (chunk, lane) in out.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&lane.to_le_bytes());
        }
        out
    }
}

/// What the writer of the next group must know of the group it builds on, besides its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Deltas since the full copy.
    pub hops: u32,
    /// Their bytes.
    pub delta_bytes: u64,
    /// The full copy's bytes.
    pub full_bytes: u64,
    /// The content of the whole map.
    pub hash: ContentHash,
}

/// A group to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGroup {
    /// The group the delta applies to; `None` for a full copy.
    pub parent: Option<StateGroupId>,
    /// The encoded entries.
    pub bytes: Vec<u8>,
    /// The chain with this group at its end.
    pub chain: Chain,
}

impl NewGroup {
    /// A full copy.
    ///
    /// # Errors
    /// When a number of the map is not positive.
    pub fn full(map: &FullMap) -> Result<Self, CodecError> {
        Self::full_with(map, ContentHash::of(map))
    }

    fn full_with(map: &FullMap, hash: ContentHash) -> Result<Self, CodecError> {
        let bytes = encode(&map.0)?;
        let chain = Chain {
            hops: 0,
            delta_bytes: 0,
            full_bytes: bytes.len() as u64,
            hash,
        };
        Ok(Self {
            parent: None,
            bytes,
            chain,
        })
    }

    /// The group after `parent`: a delta, or a full copy (`map` is then asked for the whole new map) once the chain has
    /// [`MAX_HOPS`] deltas or they exceed half of a full copy.
    ///
    /// # Errors
    /// When `changes` are not sorted by key, or a number is not positive.
    pub fn after(
        parent: StateGroupId,
        chain: &Chain,
        changes: &[Change],
        map: impl FnOnce() -> FullMap,
    ) -> Result<Self, CodecError> {
        let mut hash = chain.hash;
        changes.iter().for_each(|change| hash.apply(change));
        let delta: Vec<Entry> = changes
            .iter()
            .map(|change| (change.key, change.new.unwrap_or(REMOVED)))
            .collect();
        let bytes = encode(&delta)?;
        let delta_bytes = chain.delta_bytes + bytes.len() as u64;
        if chain.hops >= MAX_HOPS || delta_bytes > chain.full_bytes / 2 {
            let full = Self::full_with(&map(), hash)?;
            // A young room's full copy is hardly larger than a delta, and the chain begins anew.
            return Ok(full);
        }
        let chain = Chain {
            hops: chain.hops + 1,
            delta_bytes,
            full_bytes: chain.full_bytes,
            hash,
        };
        Ok(Self {
            parent: Some(parent),
            bytes,
            chain,
        })
    }

    /// The row that stores it.
    #[must_use]
    pub fn to_row(&self, id: StateGroupId, room: RoomNid) -> state_group::Model {
        state_group::Model {
            id: id.0,
            room_nid: room.0,
            parent: self.parent.map(|parent| parent.0),
            hops: i64::from(self.chain.hops),
            hash: self.chain.hash.bytes().to_vec(),
            delta: self.bytes.clone(),
        }
    }
}

/// The map at the end of a chain: the full copy's bytes first, then each delta's, and the chain for the next group.
///
/// # Errors
/// When bytes are malformed, or there is no full copy.
pub fn assemble<'a>(chain: impl IntoIterator<Item = &'a [u8]>) -> Result<(FullMap, Chain), CodecError> {
    let mut chain = chain.into_iter();
    let full = chain.next().ok_or(CodecError::NoFullCopy)?;
    let entries = decode(full)?;
    if entries.iter().any(|(_, event)| *event == REMOVED) {
        return Err(CodecError::Event);
    }
    let mut map = FullMap(entries);
    let mut out = Chain {
        full_bytes: full.len() as u64,
        ..Chain::default()
    };
    for bytes in chain {
        map.apply(&decode(bytes)?);
        out.hops += 1;
        out.delta_bytes += bytes.len() as u64;
    }
    out.hash = ContentHash::of(&map);
    Ok((map, out))
}

#[cfg(test)]
#[path = "state_group_tests.rs"]
mod tests;
