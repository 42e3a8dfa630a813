-- Free positions before an event whose parents were not known when it arrived: what is fetched later finds its place there.
-- Where history begins with an event there is no hole: what came before takes negative positions.
CREATE TABLE history_hole (
    id BIGINT PRIMARY KEY,
    room_nid BIGINT NOT NULL,
    -- The positions from `low` up to, but without, `next` are free. They are taken from above.
    low BIGINT NOT NULL,
    next BIGINT NOT NULL
);
CREATE INDEX history_hole_room ON history_hole (room_nid);
-- The hole that the missing event belongs in; NULL: the history before everything that is known.
ALTER TABLE backward_extremity ADD COLUMN hole BIGINT;
