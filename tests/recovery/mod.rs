//! What a restart finds: after a death at every failpoint, after SIGTERM under load, after another process took the
//! database over, after lost connections, in the middle of what takes several commits.

mod checks;
mod endings;
mod failpoints;
mod load;
mod resumption;
mod unanswered;
