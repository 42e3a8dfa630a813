-- Voice messages: what decoding found, beside the media they are.
CREATE TABLE voice_message (
    message_id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    -- of this server
    media_id TEXT NOT NULL,
    -- where it was sent
    room_id TEXT,
    event_id TEXT,
    -- the uploader's own mark
    session_id TEXT,
    -- the message that this one was made from
    source_id TEXT,
    content_type TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    sample_rate BIGINT NOT NULL,
    channels BIGINT NOT NULL,
    -- JSON, integers from 0 to 1024
    waveform TEXT NOT NULL,
    created_ts BIGINT NOT NULL
);
CREATE INDEX voice_message_user ON voice_message (user_id, created_ts);
CREATE INDEX voice_message_room ON voice_message (room_id, created_ts);
CREATE INDEX voice_message_media ON voice_message (media_id);
