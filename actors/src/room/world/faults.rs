//! That the simulation can fail: with any rule broken it does, soon, and the same way each time.

use super::{keep_quiet, run, steps_of};
use crate::room::fault::{Rule, with};

/// Breaks a rule and looks for the first run that suffers. It must be among the first `within`, must repeat itself word for
/// word, and must be good with the rule whole.
fn finds(rule: Rule, version: &'static str, within: u64) {
    let attempt = |seed| {
        let ended = run(version, seed, &steps_of(version, seed), true);
        ended.failure.map(|failure| (failure, ended.net.log))
    };
    keep_quiet(true);
    let found = (0..within).find_map(|seed| Some((seed, with(rule, || attempt(seed))?)));
    let again = found.as_ref().and_then(|(seed, _)| with(rule, || attempt(*seed)));
    let whole = found.as_ref().map(|(seed, _)| attempt(*seed));
    keep_quiet(false);
    let Some((seed, first)) = found else {
        panic!("nobody notices that {rule:?} is broken in room version {version}");
    };
    println!("{rule:?} is broken, seed {seed} notices: {}", first.0);
    assert_eq!(Some(first), again, "seed {seed} ends another way the second time");
    assert_eq!(whole.flatten(), None, "seed {seed} fails with {rule:?} whole");
}

macro_rules! faults {
    ($($name:ident: $rule:ident in $version:literal within $within:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            finds(Rule::$rule, $version, $within);
        })*
    };
}

faults! {
    the_state_before_is_not_looked_at: StateBefore in "12" within 100,
    the_state_before_is_not_looked_at_in_version_1: StateBefore in "1" within 100,
    auth_events_are_not_looked_at: AuthEvents in "12" within 100,
    auth_events_are_not_looked_at_in_version_2: AuthEvents in "2" within 100,
    the_current_state_is_not_looked_at: SoftFailure in "10" within 100,
    what_refused_events_follow_stays_an_extremity: HiddenParents in "11" within 100,
    a_rejected_event_enters_the_state: RejectedState in "9" within 100,
    what_is_known_is_taken_again: Duplicates in "12" within 100,
    early_redactions_are_forgotten: EarlyRedactions in "8" within 100,
    version_12_resolves_as_version_11: Resolution in "12" within 100,
    version_6_resolves_as_version_1: Resolution in "6" within 100,
    answers_come_before_commits: CommitFirst in "12" within 100,
    missing_parents_are_not_fetched: Gaps in "12" within 100,
}
