//! What waits for a server, against a server that answers or not.

use proptest::prelude::*;
use serde_json::json;

use super::super::edu::TransientEdu;
use super::*;

fn queued(pos: i64, room: i64) -> Queued {
    Queued {
        pos,
        room: RoomNid(room),
        json: Arc::from(json!({ "pos": pos }).to_string()),
    }
}

fn owed(outbox: &Outbox, room: i64) -> Option<(i64, i64)> {
    outbox.owed.get(&RoomNid(room)).map(|owed| (owed.first, owed.last))
}

fn changes(outbox: &mut Outbox) -> (Vec<(i64, i64)>, Vec<i64>) {
    let mut changes = Changes::default();
    outbox.take_changes("p", &mut changes);
    let owed = changes.owed.iter().map(|row| (row.room_nid, row.first_pos)).collect();
    (owed, changes.paid.iter().map(|(_, room)| *room).collect())
}

fn positions(flight: &Flight) -> Vec<i64> {
    flight.fresh.iter().map(|(pos, _)| *pos).collect()
}

#[test]
fn a_server_that_answers_is_fed_from_memory() {
    let mut outbox = Outbox::default();
    for pos in 1..=60 {
        outbox.push(queued(pos, pos % 2), false);
    }
    assert_eq!(outbox.lowest(), Some(1));
    let flight = outbox.depart(Flight::default(), 0).expect("there is something");
    assert_eq!(positions(&flight), (1..=50).collect::<Vec<_>>());
    assert_eq!(outbox.lowest(), Some(1), "nobody has said that it arrived");
    assert_eq!(outbox.arrived(), Some(50));
    assert_eq!(outbox.lowest(), Some(51));
    outbox.depart(Flight::default(), 0).expect("the rest");
    outbox.arrived();
    assert_eq!((outbox.lowest(), outbox.has_work()), (None, false));
    assert_eq!(changes(&mut outbox), (vec![], vec![]), "nothing was written for it");
    assert!(outbox.depart(Flight::default(), 0).is_none());
}

#[test]
fn what_was_not_answered_is_owed_and_repeated() {
    let mut outbox = Outbox::default();
    for (pos, room) in [(1, 1), (2, 2), (3, 1)] {
        outbox.push(queued(pos, room), false);
    }
    let flight = outbox.depart(Flight::default(), 0).expect("there is something");
    outbox.push(queued(4, 1), false);
    outbox.spill();
    assert_eq!(outbox.lowest(), None, "the cursor may pass");
    assert_eq!((owed(&outbox, 1), owed(&outbox, 2)), (Some((1, 4)), Some((2, 2))));
    assert_eq!(changes(&mut outbox), (vec![(1, 1), (2, 2)], vec![]));
    outbox.push(queued(5, 1), true);
    outbox.push(queued(6, 3), true);
    assert_eq!(
        changes(&mut outbox),
        (vec![(3, 6)], vec![]),
        "an outage is written down once a room"
    );
    assert!(Arc::ptr_eq(&flight, &outbox.flight().expect("it is repeated")));
    outbox.spill();
    assert_eq!(changes(&mut outbox), (vec![], vec![]));
    outbox.arrived();
    assert_eq!((owed(&outbox, 1), owed(&outbox, 2)), (Some((4, 5)), None));
    assert_eq!(changes(&mut outbox), (vec![(1, 4)], vec![2]));
    assert_eq!(
        outbox.debts(9).iter().map(|(room, _)| room.0).collect::<Vec<_>>(),
        [1, 3],
        "longest owed first"
    );
}

#[test]
fn a_transaction_given_up_leaves_nothing_behind_in_memory() {
    let mut outbox = Outbox::default();
    outbox.push(queued(1, 1), false);
    let flight = Flight {
        durable: vec![7],
        ..Flight::default()
    };
    outbox.depart(flight, 0).expect("there is something");
    outbox.abandon();
    assert!(outbox.flight().is_none() && outbox.durable);
    assert_eq!(owed(&outbox, 1), Some((1, 1)));
    assert!(!outbox.is_written(), "it has to be written first");
    changes(&mut outbox);
    assert!(outbox.is_written());
    // It arrived after all: what was given up is not counted as arrived.
    assert_eq!(outbox.arrived(), None);
    assert_eq!(owed(&outbox, 1), Some((1, 1)));
}

#[test]
fn too_much_for_memory_is_owed_and_kept_in_order() {
    let mut outbox = Outbox::default();
    let many = i64::try_from(MAX_FRESH).expect("few");
    for pos in 1..=many + 5 {
        outbox.push(queued(pos, 1), false);
    }
    assert_eq!(
        (outbox.len(), owed(&outbox, 1)),
        ((MAX_FRESH, 1), Some((many + 1, many + 5)))
    );
    outbox.depart(Flight::default(), 0);
    outbox.arrived();
    outbox.push(queued(many + 6, 1), false);
    assert_eq!(outbox.len().0, MAX_FRESH - 50, "what follows what is owed is owed, too");
    assert!(outbox.debts(9).is_empty(), "what is in memory comes first");
    while outbox.depart(Flight::default(), 0).is_some() {
        outbox.arrived();
    }
    assert_eq!(outbox.debts(9).len(), 1);
    let flight = Flight {
        covered: vec![(RoomNid(1), many + 6)],
        ..Flight::default()
    };
    assert!(outbox.depart(flight, 0).is_none(), "none of it was for this server");
    assert_eq!((owed(&outbox, 1), outbox.has_work()), (None, false));
}

#[test]
fn what_was_owed_before_a_restart_ends_where_new_events_begin() {
    let mut outbox = Outbox::default();
    let row = destination_room::Model {
        server_name: "p".to_owned(),
        room_nid: 1,
        first_pos: 3,
        last_pos: 3,
    };
    outbox.load(vec![row], 20);
    assert_eq!(owed(&outbox, 1), Some((3, 20)));
    outbox.push(queued(21, 1), false);
    outbox.push(queued(22, 2), false);
    assert_eq!((owed(&outbox, 1), outbox.len().0), (Some((3, 21)), 1));
    assert_eq!(changes(&mut outbox), (vec![], vec![]), "it is written already");
}

#[test]
fn a_transaction_is_bounded() {
    let mut outbox = Outbox::default();
    let large = |pos| Queued {
        json: Arc::from(format!("\"{}\"", "x".repeat(60_000))),
        ..queued(pos, 1)
    };
    for pos in 1..=50 {
        outbox.push(large(pos), false);
    }
    for n in 0..150 {
        outbox.edus.push(TransientEdu::Typing {
            room_id: "!r:x".try_into().expect("a room id"),
            user_id: format!("@u{n}:x").try_into().expect("a user id"),
            typing: true,
        });
    }
    let flight = outbox.depart(Flight::default(), 0).expect("there is something");
    let bytes: usize = flight.pdus.iter().map(|pdu| pdu.len()).sum();
    assert!(bytes < MAX_BYTES + 65_536 && flight.pdus.len() > 30, "{bytes}");
    assert_eq!(flight.edus.len(), MAX_EDUS);
    outbox.arrived();
    let flight = outbox.depart(Flight::default(), 0).expect("there is more");
    assert_eq!(flight.edus.len(), 50);
}

/// What happens to an outbox.
#[derive(Clone, Copy, Debug)]
enum Step {
    Event(i64),
    Send,
    Answer,
    Fail,
    GiveUp,
    CatchUp,
    Write,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..4_i64).prop_map(Step::Event),
        4 => Just(Step::Send),
        3 => Just(Step::Answer),
        2 => Just(Step::Fail),
        1 => Just(Step::GiveUp),
        2 => Just(Step::CatchUp),
        2 => Just(Step::Write),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..60)
}

/// The world around an outbox: every event ever made, what the server has, what the database says.
#[derive(Default)]
struct World {
    outbox: Outbox,
    made: Vec<(i64, i64)>,
    got: BTreeSet<i64>,
    rows: BTreeMap<i64, i64>,
    cursor: i64,
    down: bool,
}

impl World {
    fn step(&mut self, step: Step) {
        match step {
            Step::Event(room) => {
                let pos = self.made.len() as i64 + 1;
                self.made.push((pos, room));
                self.outbox.push(queued(pos, room), self.down);
            }
            Step::Send if self.outbox.flight().is_none() => drop(self.outbox.depart(Flight::default(), 0)),
            Step::Answer => self.answer(),
            Step::Fail => {
                self.down = true;
                self.outbox.spill();
            }
            Step::GiveUp => self.outbox.abandon(),
            Step::CatchUp if self.outbox.flight().is_none() => self.catch_up(),
            Step::Send | Step::CatchUp => {}
            Step::Write => self.write(),
            Step::Crash => self.restart(),
        }
    }

    fn answer(&mut self) {
        let Some(flight) = self.outbox.flight() else { return };
        self.down = false;
        self.got.extend(positions(&flight));
        for (room, upto) in &flight.covered {
            let of_room = self.made.iter().filter(|(pos, r)| r == &room.0 && pos <= upto);
            self.got.extend(of_room.map(|(pos, _)| *pos));
        }
        self.outbox.arrived();
    }

    fn catch_up(&mut self) {
        let debts = self.outbox.debts(2);
        let flight = Flight {
            pdus: vec![Arc::from("{}")],
            covered: debts.iter().map(|(room, owed)| (*room, owed.last)).collect(),
            ..Flight::default()
        };
        if !debts.is_empty() {
            self.outbox.depart(flight, 0);
        }
    }

    /// As the ledger does it: rows and cursor in one transaction.
    fn write(&mut self) {
        let mut changes = Changes::default();
        self.outbox.take_changes("p", &mut changes);
        for row in changes.owed {
            self.rows.insert(row.room_nid, row.first_pos);
        }
        for (_, room) in changes.paid {
            self.rows.remove(&room);
        }
        let made = self.made.len() as i64;
        self.cursor = self.outbox.lowest().map_or(made, |lowest| lowest - 1);
    }

    fn restart(&mut self) {
        self.outbox = Outbox::default();
        let row = |(room, first): (&i64, &i64)| destination_room::Model {
            server_name: "p".to_owned(),
            room_nid: *room,
            first_pos: *first,
            last_pos: *first,
        };
        let visible = self.made.len() as i64;
        self.outbox.load(self.rows.iter().map(row).collect(), visible);
        for (pos, room) in self.made.iter().filter(|(pos, _)| *pos > self.cursor) {
            self.outbox.push(queued(*pos, *room), false);
        }
        self.down = false;
    }

    /// Every event has arrived, or will arrive after a crash at this very moment.
    fn check(&self) {
        for (pos, room) in &self.made {
            let written = *pos > self.cursor || self.rows.get(room).is_some_and(|first| first <= pos);
            assert!(
                self.got.contains(pos) || written,
                "event {pos} of room {room} would be lost"
            );
        }
    }

    fn settle(&mut self) {
        for _ in 0..self.made.len() + 10 {
            for step in [Step::Answer, Step::Send, Step::Answer, Step::CatchUp, Step::Answer] {
                self.step(step);
            }
        }
        assert!(!self.outbox.has_work(), "{:?}", self.outbox);
        assert_eq!(self.got.len(), self.made.len());
        self.write();
        assert_eq!((self.rows.len(), self.cursor), (0, self.made.len() as i64));
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_whatever_happens(steps in steps()) {
        let mut world = World::default();
        for step in steps {
            world.step(step);
            world.check();
        }
        world.settle();
    }
}
