-- Events that a user has scheduled (MSC4140), and for a while what became of them.
CREATE TABLE delayed_event (
    delay_id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    -- of the request that scheduled it; NULL where it had none
    txn_id TEXT,
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    -- NULL for messages
    state_key TEXT,
    content TEXT NOT NULL,
    -- where the sender may choose
    origin_server_ts BIGINT,
    delay_ms BIGINT NOT NULL,
    -- when it was scheduled or restarted
    scheduled_ts BIGINT NOT NULL,
    -- when it is to be sent, or tried again
    due_ts BIGINT NOT NULL,
    tries BIGINT NOT NULL,
    -- NULL while it is scheduled
    finalised_ts BIGINT,
    -- once it was sent
    event_id TEXT,
    -- JSON: why it could not be sent
    error TEXT
);
CREATE INDEX delayed_event_due ON delayed_event (due_ts) WHERE finalised_ts IS NULL;
CREATE INDEX delayed_event_user ON delayed_event (user_id, finalised_ts);
CREATE UNIQUE INDEX delayed_event_txn ON delayed_event (user_id, device_id, room_id, type, txn_id);
