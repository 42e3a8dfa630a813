use ruma::user_id;

use super::half::{Stance, Standing, accept, end, fresh, hear, refused, request, set_room, stance, standing};
use entities::friend::Model;

fn pair() -> (Model, Model) {
    let (a, b) = (user_id!("@a:x"), user_id!("@b:x"));
    (fresh(a, b), fresh(b, a))
}

/// The other half hears the newest stance.
fn tell(from: &mut Model, to: &mut Model, now: i64) {
    hear(to, &stance(from), now);
    from.told_seq = from.own_seq;
}

fn seen(a: &Model, b: &Model) -> (Standing, Standing) {
    (standing(a), standing(b))
}

#[test]
fn a_request_is_accepted() {
    let (mut a, mut b) = pair();
    request(&mut a, Some("hi".to_owned()), 10).expect("asked");
    assert!(set_room(&mut a, None, "!r".to_owned(), true));
    tell(&mut a, &mut b, 11);
    assert_eq!(seen(&a, &b), (Standing::Outgoing, Standing::Incoming));
    assert_eq!(b.their_message.as_deref(), Some("hi"));
    assert_eq!(
        request(&mut a, None, 12).expect_err("pending").errcode(),
        Some("M_CONFLICT")
    );
    accept(&mut b, 20).expect("accepted");
    tell(&mut b, &mut a, 21);
    assert_eq!(seen(&a, &b), (Standing::Friends, Standing::Friends));
    assert_eq!((a.since_ts, b.since_ts), (20, 20));
    assert_eq!((a.room_id.as_deref(), b.room_id.as_deref()), (Some("!r"), Some("!r")));
    accept(&mut b, 30).expect("nothing changes");
    assert_eq!(b.since_ts, 20);
}

#[test]
fn whoever_ends_it_ends_it_for_both() {
    for (ends_first, expected) in [(true, Standing::Outgoing), (false, Standing::Incoming)] {
        let (mut a, mut b) = pair();
        request(&mut a, None, 10).expect("asked");
        assert!(set_room(&mut a, None, "!r".to_owned(), true));
        tell(&mut a, &mut b, 11);
        let (one, other) = if ends_first { (&mut a, &mut b) } else { (&mut b, &mut a) };
        end(one, expected, 20).expect("ended");
        tell(one, other, 21);
        assert_eq!(seen(&a, &b), (Standing::Strangers, Standing::Strangers));
        let old = |half: &Model| half.old_room_id.clone();
        assert_eq!((old(&a).as_deref(), old(&b).as_deref()), (Some("!r"), Some("!r")));
        assert_eq!(
            end(&mut a, expected, 30).expect_err("over").errcode(),
            Some("M_NOT_FOUND")
        );
    }
}

#[test]
fn friends_keep_their_room_when_they_part() {
    let (mut a, mut b) = pair();
    request(&mut a, None, 10).expect("asked");
    assert!(set_room(&mut a, None, "!r".to_owned(), true));
    tell(&mut a, &mut b, 11);
    accept(&mut b, 12).expect("accepted");
    tell(&mut b, &mut a, 13);
    end(&mut a, Standing::Friends, 14).expect("removed");
    tell(&mut a, &mut b, 15);
    assert_eq!(seen(&a, &b), (Standing::Strangers, Standing::Strangers));
    for half in [&a, &b] {
        assert_eq!(
            (half.room_id.as_deref(), half.old_room_id.as_deref()),
            (Some("!r"), None)
        );
    }
    request(&mut b, None, 20).expect("asked again");
    tell(&mut b, &mut a, 21);
    assert_eq!(seen(&a, &b), (Standing::Incoming, Standing::Outgoing));
}

#[test]
fn requests_that_cross_become_one_friendship_with_one_room() {
    let (mut a, mut b) = pair();
    request(&mut a, None, 10).expect("asked");
    request(&mut b, None, 11).expect("asked");
    assert!(set_room(&mut a, None, "!a".to_owned(), true));
    assert!(set_room(&mut b, None, "!b".to_owned(), true));
    let (of_a, of_b) = (stance(&a), stance(&b));
    assert!(hear(&mut a, &of_b, 12) && hear(&mut b, &of_a, 13));
    assert!(!hear(&mut a, &of_b, 14), "the second time it is no news");
    assert_eq!(seen(&a, &b), (Standing::Friends, Standing::Friends));
    assert_eq!((a.room_id.as_deref(), b.room_id.as_deref()), (Some("!a"), Some("!a")));
    assert_eq!((a.old_room_id, b.old_room_id.as_deref()), (None, Some("!b")));
    assert_eq!((a.since_ts, b.since_ts), (11, 11));
}

#[test]
fn a_request_to_nobody_ends() {
    let (mut a, _) = pair();
    request(&mut a, None, 10).expect("asked");
    let seq = a.own_seq;
    assert!(!refused(&mut a, seq - 1), "an older stance");
    assert!(refused(&mut a, seq));
    assert_eq!(standing(&a), Standing::Strangers);
    request(&mut a, None, 5).expect("asked again, by a clock that went back");
    assert!(a.own_seq > seq);
}

/// Two halves, what is on its way between them, and a cheap source of chance.
struct World {
    halves: [Model; 2],
    under_way: [Vec<Stance>; 2],
    now: i64,
    seed: u64,
}

impl World {
    fn below(&mut self, bound: u64) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % bound
    }

    fn step(&mut self) {
        self.now += i64::try_from(self.below(3)).expect("small");
        let side = usize::try_from(self.below(2)).expect("small");
        let (now, half) = (self.now, &mut self.halves[side]);
        // What is not possible is refused and changes nothing.
        let _outcome = match self.seed >> 40 & 7 {
            0 | 1 => request(half, None, now),
            2 => accept(half, now),
            3 => end(half, Standing::Incoming, now),
            4 => end(half, Standing::Outgoing, now),
            5 => end(half, Standing::Friends, now),
            6 => {
                let told = stance(half);
                self.under_way[side].push(told);
                Ok(())
            }
            _ => {
                self.arrive(side);
                Ok(())
            }
        };
    }

    /// One of those on their way arrives, in any order; it may arrive once more.
    fn arrive(&mut self, side: usize) {
        let count = self.under_way[side].len() as u64;
        if count == 0 {
            return;
        }
        let at = usize::try_from(self.below(count)).expect("small");
        let told = if self.below(3) == 0 {
            self.under_way[side][at].clone()
        } else {
            self.under_way[side].swap_remove(at)
        };
        hear(&mut self.halves[1 - side], &told, self.now);
    }

    fn settle(&mut self) {
        for _ in 0..3 {
            for side in [0, 1] {
                let told = stance(&self.halves[side]);
                hear(&mut self.halves[1 - side], &told, self.now);
            }
        }
    }
}

#[test]
fn halves_agree_once_everything_has_arrived() {
    let mut friendships = 0;
    for seed in 0..4_000 {
        let (a, b) = pair();
        let mut world = World {
            halves: [a, b],
            under_way: [Vec::new(), Vec::new()],
            now: 1,
            seed,
        };
        for _ in 0..40 {
            world.step();
        }
        world.settle();
        let [a, b] = &world.halves;
        let agreed = matches!(
            seen(a, b),
            (Standing::Friends, Standing::Friends)
                | (Standing::Strangers, Standing::Strangers)
                | (Standing::Incoming, Standing::Outgoing)
                | (Standing::Outgoing, Standing::Incoming)
        );
        assert!(agreed, "seed {seed}: {a:?} {b:?}");
        friendships += usize::from(standing(a) == Standing::Friends);
    }
    assert!(friendships > 100, "{friendships}");
}
