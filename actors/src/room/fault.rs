//! Rules that tests break on purpose, one at a time, to see whether the simulation notices (`world/faults.rs`). Outside of tests
//! none is ever broken.

/// What can be broken: steps of the room's core, and what surrounds it in the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// An event is checked by the state before it.
    StateBefore,
    /// Only the right events may be named as auth events.
    AuthEvents,
    /// An event is checked by the current state.
    SoftFailure,
    /// What lies behind refused events is followed by those that follow them.
    HiddenParents,
    /// A rejected event does not enter the state.
    RejectedState,
    /// What is known is not taken again.
    Duplicates,
    /// Redactions wait for what they redact.
    #[cfg(test)]
    EarlyRedactions,
    /// States are resolved by the version of the room.
    #[cfg(test)]
    Resolution,
    /// What is answered is committed.
    #[cfg(test)]
    CommitFirst,
    /// Missing parents are fetched.
    #[cfg(test)]
    Gaps,
}

/// Nothing is.
#[cfg(not(test))]
pub(super) const fn is_broken(_: Rule) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

/// Whether this thread has broken the rule.
#[cfg(test)]
pub(super) fn is_broken(rule: Rule) -> bool {
    BROKEN.get() == Some(rule)
}

/// Does something with a rule broken.
#[cfg(test)]
pub(super) fn with<T>(rule: Rule, work: impl FnOnce() -> T) -> T {
    BROKEN.set(Some(rule));
    let done = work();
    BROKEN.set(None);
    done
}
