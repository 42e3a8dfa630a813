-- One row: which process may write (epoch) and which batch was committed last.
CREATE TABLE journal_head (
    id BIGINT PRIMARY KEY,
    epoch BIGINT NOT NULL,
    batch BIGINT NOT NULL
);
INSERT INTO journal_head (id, epoch, batch) VALUES (1, 0, 0);
-- Numbers are reserved in blocks before use and never handed out twice, not even after a crash.
-- 'position' counts stream positions, 'nid' counts every internal numeric id.
CREATE TABLE stream_block (
    name TEXT PRIMARY KEY,
    next BIGINT NOT NULL
);
INSERT INTO stream_block (name, next) VALUES ('position', 1), ('nid', 1);
-- How far each asynchronous consumer of the stream has come.
CREATE TABLE consumer_cursor (
    name TEXT PRIMARY KEY,
    pos BIGINT NOT NULL
);
