-- Friends: one user's half of what there is between two users. The other half stands in another row, or on another server.
-- What a half wants is a stance: it has a number that only rises, and the newest one counts.
CREATE TABLE friend (
    -- The local user whose half it is.
    user_id TEXT NOT NULL,
    friend_id TEXT NOT NULL,
    own_seq BIGINT NOT NULL,
    own_wants BOOLEAN NOT NULL,
    -- The other's stance that this one accepts; 0 for a request.
    own_answers BIGINT NOT NULL,
    -- What the other wanted up to this stance of theirs is void.
    own_voids BIGINT NOT NULL,
    own_message TEXT,
    own_ts BIGINT NOT NULL,
    -- The newest own stance that the other half is known to have.
    told_seq BIGINT NOT NULL,
    their_seq BIGINT NOT NULL,
    their_wants BOOLEAN NOT NULL,
    their_message TEXT,
    their_ts BIGINT NOT NULL,
    -- How another server's user was called when they said so last.
    their_name TEXT,
    their_avatar TEXT,
    -- Unix milliseconds; 0 unless they are friends.
    since_ts BIGINT NOT NULL,
    status TEXT NOT NULL,
    note TEXT NOT NULL,
    room_id TEXT,
    -- Whether the room was made for this half.
    room_own BOOLEAN NOT NULL,
    -- Whether they have been friends in it.
    room_used BOOLEAN NOT NULL,
    -- A room that is to be left.
    old_room_id TEXT,
    -- Whether something is left to be done: the other to be told, a room to be made, entered or left.
    due BOOLEAN NOT NULL,
    PRIMARY KEY (user_id, friend_id)
);
CREATE INDEX friend_due ON friend (user_id, friend_id) WHERE due;
