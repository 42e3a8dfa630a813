//! Back-off, without a server.

use serde_json::Value;

use super::*;

const MINUTE: Millis = 60_000;
const DAY: Millis = 24 * 60 * MINUTE;

fn down() -> Sign {
    Sign::Down("unreachable: no route".to_owned())
}

fn refused(status: u16, errcode: Option<&str>, retry_after_ms: Option<u64>) -> Result<(), WireError> {
    Err(WireError::Refused {
        status,
        errcode: errcode.map(str::to_owned),
        error: String::new(),
        retry_after_ms,
        body: Value::Null,
    })
}

#[test]
fn pauses_double_up_to_a_day_and_end_with_an_answer() {
    let (mut health, mut now) = (Health::default(), 1_000_000);
    let mut pauses = Vec::new();
    for _ in 0..14 {
        assert_eq!(health.wait(now), 0);
        assert!(health.note(down(), now, now + 5, 500));
        now += 5;
        pauses.push(health.wait(now) / MINUTE);
        now += health.pause;
    }
    assert_eq!(
        pauses,
        [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 1_440, 1_440, 1_440]
    );
    assert_eq!(health.failing_since, Some(1_000_005));
    assert!(health.note(Sign::Alive, now, now + 1, 500), "a recovery is stored");
    assert_eq!((health.wait(now), health.failing_since), (0, None));
    assert_eq!(
        health.last_error.as_deref(),
        Some("unreachable: no route"),
        "for the operator"
    );
    assert!(!health.note(Sign::Alive, now, now + 1, 500), "all is well still");
    health.note(down(), now + 2, now + 2, 500);
    assert_eq!(health.pause, MINUTE, "from the beginning");
}

#[test]
fn tries_under_way_together_count_once() {
    let mut health = Health::default();
    for (began, now) in [(0, 100), (0, 101), (99, 200), (150, 30_000)] {
        health.note(down(), began, now, 500);
    }
    assert_eq!((health.pause, health.last_try), (MINUTE, 100));
    health.note(down(), 100 + MINUTE, 100 + MINUTE, 500);
    assert_eq!(health.pause, 2 * MINUTE);
}

#[test]
fn pauses_are_spread_and_bounded() {
    let pause = |chance| {
        let mut health = Health {
            pause: 10 * MINUTE,
            ..Health::default()
        };
        health.note(down(), DAY, DAY, chance);
        health.pause
    };
    assert_eq!((pause(0), pause(1_000)), (18 * MINUTE, 22 * MINUTE));
    let mut health = Health {
        pause: DAY,
        ..Health::default()
    };
    health.note(down(), DAY, DAY, 1_000);
    assert_eq!(health.pause, DAY);
}

#[test]
fn a_server_that_calls_is_tried_again() {
    let mut health = Health::default();
    assert!(!health.seen(5), "nothing was wrong");
    health.note(down(), 0, 0, 500);
    assert!(health.seen(1_000));
    assert_eq!(health.wait(1_000), 9_000, "it was tried a moment ago");
    assert!(!health.seen(2_000));
    assert!(health.seen(10_000));
    assert_eq!(health.wait(10_000), 0);
    assert_eq!(health.failing_since, Some(0), "it still has not answered");
}

#[test]
fn a_server_that_asks_for_time_gets_it() {
    let mut health = Health::default();
    health.note(
        Sign::of(&refused(429, Some("M_LIMIT_EXCEEDED"), Some(7_000))),
        0,
        0,
        500,
    );
    assert_eq!((health.wait(0), health.wait(7_000)), (7_000, 0));
    assert_eq!(health.failing_since, None);
    health.note(Sign::of(&refused(429, None, Some(u64::MAX))), 0, 0, 500);
    assert_eq!(health.wait(0), LONGEST_HOLD_MS, "within reason");
    health.reset();
    assert_eq!(health.wait(0), 0);
}

#[test]
fn a_clock_set_back_lengthens_no_pause() {
    let mut health = Health::default();
    health.note(down(), DAY, DAY, 500);
    assert_eq!(health.wait(0), MINUTE);
}

#[test]
fn refusals_are_signs_of_life_but_for_some() {
    let sign = |status, errcode| Sign::of(&refused(status, errcode, None));
    for (status, errcode) in [
        (403, "M_FORBIDDEN"),
        (404, "M_NOT_FOUND"),
        (400, "M_UNKNOWN"),
        (404, "M_UNRECOGNIZED"),
    ] {
        assert_eq!(sign(status, Some(errcode)), Sign::Alive, "{status} {errcode}");
    }
    for (status, errcode) in [
        (401, Some("M_UNAUTHORIZED")),
        (500, Some("M_UNKNOWN")),
        (502, None),
        (404, None),
        (301, None),
    ] {
        assert!(matches!(sign(status, errcode), Sign::Down(_)), "{status} {errcode:?}");
    }
    assert_eq!(Sign::of(&Ok(())), Sign::Alive);
    assert_eq!(Sign::of::<()>(&Err(WireError::Invalid(String::new()))), Sign::Alive);
    for error in [
        WireError::Unreachable(String::new()),
        WireError::Blocked(String::new()),
        WireError::Disabled,
    ] {
        assert!(matches!(Sign::of::<()>(&Err(error)), Sign::Down(_)));
    }
}
