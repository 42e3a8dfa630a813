//! Events in an order in which each comes after what it depends on.

use std::collections::HashMap;

use ruma::{EventId, OwnedEventId};

use crate::room::event::Pdu;

/// Puts events behind their prev and auth events, where those are among them.
#[must_use]
pub fn parents_first<T>(events: Vec<T>, pdu: impl Fn(&T) -> &Pdu) -> Vec<T> {
    let order = order(events.iter().map(|event| {
        let pdu = pdu(event);
        (&*pdu.event_id, [&*pdu.prev_events, &*pdu.auth_events])
    }));
    arrange(events, order)
}

/// Puts events behind their auth events, where those are among them: the order in which outliers are stored.
#[must_use]
pub fn auth_first<T>(events: Vec<T>, pdu: impl Fn(&T) -> &Pdu) -> Vec<T> {
    let order = order(events.iter().map(|event| {
        let pdu = pdu(event);
        (&*pdu.event_id, [&*pdu.auth_events, &[]])
    }));
    arrange(events, order)
}

fn arrange<T>(events: Vec<T>, order: Vec<usize>) -> Vec<T> {
    let mut slots: Vec<Option<T>> = events.into_iter().map(Some).collect();
    order.into_iter().filter_map(|at| slots[at].take()).collect()
}

/// Where each event goes. What nothing else decides stays in order. Of events that depend on each other (in the first room
/// versions ids are no hashes) it breaks the circle somewhere.
fn order<'a>(events: impl Iterator<Item = (&'a EventId, [&'a [OwnedEventId]; 2])>) -> Vec<usize> {
    let events: Vec<_> = events.collect();
    let places: HashMap<&EventId, usize> = events.iter().enumerate().map(|(at, (id, _))| (*id, at)).collect();
    let parents: Vec<Vec<usize>> = events
        .iter()
        .map(|(_, [first, second])| {
            let ids = first.iter().chain(*second);
            ids.filter_map(|id| places.get(&**id).copied()).collect()
        })
        .collect();
    let mut order = Vec::with_capacity(events.len());
    let mut begun = vec![false; events.len()];
    // The event, and how many of its parents have been looked at.
    let mut path: Vec<(usize, usize)> = Vec::new();
    for start in 0..events.len() {
        if begun[start] {
            continue;
        }
        begun[start] = true;
        path.push((start, 0));
        while let Some((at, looked)) = path.last_mut() {
            let (event, parent) = (*at, parents[*at].get(*looked).copied());
            *looked += 1;
            match parent {
                Some(parent) if !begun[parent] => {
                    begun[parent] = true;
                    path.push((parent, 0));
                }
                Some(_) => {}
                None => {
                    path.pop();
                    order.push(event);
                }
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: usize) -> OwnedEventId {
        EventId::parse(format!("$event{n}")).expect("an event id")
    }

    fn ids(list: &[usize]) -> Vec<OwnedEventId> {
        list.iter().copied().map(id).collect()
    }

    /// The order of events given as `(number, parents)`.
    fn ordered(events: &[(usize, &[usize])]) -> Vec<usize> {
        let events: Vec<_> = events.iter().map(|(n, parents)| (id(*n), ids(parents))).collect();
        order(events.iter().map(|(id, parents)| (&**id, [parents.as_slice(), &[]])))
    }

    #[test]
    fn parents_come_first_and_the_rest_stays() {
        assert_eq!(ordered(&[(3, &[2]), (9, &[]), (2, &[1]), (1, &[0])]), [3, 2, 0, 1]);
        assert_eq!(ordered(&[(1, &[]), (2, &[]), (3, &[])]), [0, 1, 2]);
        assert_eq!(ordered(&[(4, &[2, 3]), (3, &[1]), (2, &[1]), (1, &[])]), [3, 2, 1, 0]);
    }

    #[test]
    fn circles_and_repetitions_end() {
        assert_eq!(ordered(&[(1, &[2]), (2, &[1])]).len(), 2);
        assert_eq!(ordered(&[(1, &[1])]), [0]);
        assert_eq!(ordered(&[(1, &[]), (1, &[])]).len(), 2);
    }

    proptest! {
        #[test]
        fn every_event_comes_once_and_after_its_parents(
            edges in prop::collection::vec(prop::collection::vec(0usize..40, 0..4), 0..40),
            seed in any::<u64>(),
        ) {
            // Edges go from higher to lower numbers, so there are no circles; then the events are shuffled.
            let mut events: Vec<(usize, Vec<usize>)> = edges
                .iter()
                .enumerate()
                .map(|(n, parents)| (n, parents.iter().copied().filter(|parent| *parent < n).collect()))
                .collect();
            events.sort_by_key(|(n, _)| (seed ^ (*n as u64)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let given: Vec<(usize, &[usize])> = events.iter().map(|(n, parents)| (*n, parents.as_slice())).collect();
            let order = ordered(&given);
            let mut seen = std::collections::BTreeSet::new();
            for at in order {
                let (n, parents) = &events[at];
                prop_assert!(parents.iter().all(|parent| seen.contains(parent)));
                prop_assert!(seen.insert(*n));
            }
            prop_assert_eq!(seen.len(), events.len());
        }
    }
}
