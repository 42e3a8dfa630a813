//! Up to where a user has read a room: by receipts and by its own messages.

use std::collections::BTreeMap;

use entities::ids::StreamPos;
use entities::receipt;

/// Marks only move forwards.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    everything: StreamPos,
    main: StreamPos,
    threads: BTreeMap<String, StreamPos>,
}

impl Marks {
    /// From the user's receipts in the room.
    pub(crate) fn of(receipts: &[receipt::Model]) -> Self {
        let mut marks = Self::default();
        receipts.iter().for_each(|receipt| marks.note(receipt));
        marks
    }

    /// Takes a receipt of the user into account; public and private ones count alike.
    pub(crate) fn note(&mut self, receipt: &receipt::Model) {
        let pos = StreamPos(receipt.event_pos);
        match receipt.thread_id.as_str() {
            "" => self.everything = self.everything.max(pos),
            "main" => self.raise(None, pos),
            thread => self.raise(Some(thread), pos),
        }
    }

    /// Everything up to `pos` is read in a thread (by its root) or outside all threads.
    pub(crate) fn raise(&mut self, thread: Option<&str>, pos: StreamPos) {
        let mark = match thread {
            None => &mut self.main,
            Some(thread) => self.threads.entry(thread.to_owned()).or_default(),
        };
        *mark = (*mark).max(pos);
    }

    /// Up to where everything is read.
    pub(crate) fn everything(&self) -> StreamPos {
        self.everything
    }

    /// Whether an event at `pos` in a thread (by its root) or outside all threads is read.
    pub(crate) fn cover(&self, pos: StreamPos, thread: Option<&str>) -> bool {
        let mark = match thread {
            Some(thread) => self.threads.get(thread).copied().unwrap_or_default(),
            None => self.main,
        };
        pos <= self.everything.max(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(thread: &str, event_pos: i64) -> receipt::Model {
        receipt::Model {
            room_nid: 1,
            user_id: "@a:x".to_owned(),
            receipt_type: "m.read".to_owned(),
            thread_id: thread.to_owned(),
            event_id: "$e".to_owned(),
            event_pos,
            ts: 0,
            pos: 0,
        }
    }

    #[test]
    fn a_receipt_covers_its_thread_and_one_without_a_thread_everything() {
        let marks = Marks::of(&[receipt("", 3), receipt("main", 5), receipt("$t", 7)]);
        for (pos, thread, read) in [
            (3, Some("$u"), true),
            (4, Some("$u"), false),
            (5, None, true),
            (6, None, false),
            (7, Some("$t"), true),
            (8, Some("$t"), false),
        ] {
            assert_eq!(marks.cover(StreamPos(pos), thread), read, "{pos} {thread:?}");
        }
    }

    #[test]
    fn marks_do_not_move_backwards() {
        let mut marks = Marks::of(&[receipt("", 5)]);
        marks.note(&receipt("", 2));
        assert_eq!(marks.everything(), StreamPos(5));
    }
}
