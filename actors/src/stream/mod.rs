//! The one stream of committed facts.

pub mod fact;
