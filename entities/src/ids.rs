//! The numbers this server gives to things; never shown outside.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A room, local or remote.
    RoomNid
);
id!(
    /// A stored event.
    EventNid
);
id!(
    /// An interned `(event type, state key)` pair.
    StateKeyNid
);
id!(
    /// An immutable map `StateKeyNid → EventNid`.
    StateGroupId
);
id!(
    /// A position in the one stream of committed facts.
    StreamPos
);
