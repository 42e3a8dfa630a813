//! The framework under a toy kind: counters in a store that notices whoever breaks the rules.

mod chaos;
mod failure;
mod life;
mod toy;
