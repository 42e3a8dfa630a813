//! What a restart finds: after a death at every failpoint, after SIGTERM under load, after another process took the
//! database over, after lost connections.

mod checks;
mod endings;
mod failpoints;
mod load;
mod unanswered;
