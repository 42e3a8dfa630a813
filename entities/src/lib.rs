//! The tables and the only place that speaks SQL.
pub mod ids;
