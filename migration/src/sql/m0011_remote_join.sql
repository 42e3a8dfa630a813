-- A join that was sent to another server and has not brought the room here yet.
CREATE TABLE remote_join (
    room_id TEXT NOT NULL,
    -- The local user.
    user_id TEXT NOT NULL,
    -- The server that it was sent to.
    via TEXT NOT NULL,
    started_ts BIGINT NOT NULL,
    PRIMARY KEY (room_id, user_id, via)
);
CREATE INDEX remote_join_age ON remote_join (started_ts);
