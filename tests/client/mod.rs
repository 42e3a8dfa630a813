//! The client-server API, one file per area.

mod account;
mod backup;
mod data;
mod delayed;
mod directory;
mod e2ee;
mod emails;
mod friends;
mod history;
mod limits;
mod login;
mod media;
mod membership;
mod notices;
mod previews;
mod register;
mod relations;
mod room_rules;
mod rooms;
mod rtc;
mod services;
mod sync;
mod threads;
mod turn;
mod voice;
mod voip;
