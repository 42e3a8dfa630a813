//! The one stream of committed facts: the journal that writes it, the numbers it uses and who is told.

pub mod fact;
pub mod feed;
pub mod ids;
pub mod journal;
pub mod token;
