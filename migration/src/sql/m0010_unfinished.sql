-- Work of several commits that a start goes on with.

-- Upgrades of rooms: written before the new room is, deleted once nothing is left to be done.
CREATE TABLE room_upgrade (
    old_room_id TEXT PRIMARY KEY,
    new_room_id TEXT NOT NULL,
    -- Who asked for it and sends what the old room is told.
    user_id TEXT NOT NULL
);

-- Users some of whose rooms may still show a former profile.
CREATE TABLE profile_spread (
    user_id TEXT PRIMARY KEY,
    -- Raised by each change: who is done with one deletes nothing that a later one has written.
    change BIGINT NOT NULL
);
