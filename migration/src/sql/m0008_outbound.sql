-- One cause concerns many servers: their rows share its position.
CREATE TABLE outbound_edu_new (
    pos BIGINT NOT NULL,
    server_name TEXT NOT NULL,
    edu_type TEXT NOT NULL,
    -- What its content is made of.
    json TEXT NOT NULL,
    PRIMARY KEY (server_name, pos)
);
INSERT INTO outbound_edu_new (pos, server_name, edu_type, json) SELECT pos, server_name, edu_type, json FROM outbound_edu;
DROP TABLE outbound_edu;
ALTER TABLE outbound_edu_new RENAME TO outbound_edu;
-- Events of other servers' users that this server let into a room, and passes on to the room's servers like its own.
CREATE TABLE relayed_event (
    pos BIGINT NOT NULL,
    PRIMARY KEY (pos)
);
