CREATE TABLE room (
    nid BIGINT PRIMARY KEY,
    room_id TEXT NOT NULL UNIQUE,
    version TEXT NOT NULL,
    creator TEXT NOT NULL,
    created_ts BIGINT NOT NULL
);
-- What changes with every event of a room, in one narrow row.
CREATE TABLE room_head (
    room_nid BIGINT PRIMARY KEY,
    -- JSON: [[event nid, event id, depth], ...]
    extremities TEXT NOT NULL,
    -- The state group after the newest event.
    state_group BIGINT NOT NULL,
    pos BIGINT NOT NULL
);
CREATE TABLE event (
    nid BIGINT PRIMARY KEY,
    room_nid BIGINT NOT NULL,
    event_id TEXT NOT NULL UNIQUE,
    -- Stream position; negative for history fetched later; NULL where no reader may see it (outlier, rejected).
    pos BIGINT,
    depth BIGINT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT,
    sender TEXT NOT NULL,
    origin_server_ts BIGINT NOT NULL,
    -- The state group before the event; NULL for outliers.
    state_group BIGINT,
    -- 0 accepted, 1 soft-failed, 2 rejected, 3 outlier.
    status SMALLINT NOT NULL,
    redacted_by TEXT,
    device_id TEXT,
    txn_id TEXT,
    relates_to TEXT,
    rel_type TEXT,
    -- What readers get under `unsigned` besides age and transaction id: JSON object with prev_content,
    -- prev_sender, replaces_state; NULL where there is nothing.
    unsigned TEXT,
    -- The PDU as text, pruned once redacted.
    json TEXT NOT NULL
);
CREATE UNIQUE INDEX event_pos ON event (pos) WHERE pos IS NOT NULL;
CREATE INDEX event_room_pos ON event (room_nid, pos) WHERE pos IS NOT NULL;
CREATE INDEX event_member ON event (state_key, pos) WHERE type = 'm.room.member' AND pos IS NOT NULL;
CREATE INDEX event_thread ON event (room_nid, pos) WHERE rel_type = 'm.thread' AND pos IS NOT NULL;
CREATE INDEX event_relates ON event (relates_to) WHERE relates_to IS NOT NULL;
CREATE UNIQUE INDEX event_txn ON event (room_nid, sender, device_id, txn_id, type) WHERE txn_id IS NOT NULL;
CREATE TABLE state_key (
    nid BIGINT PRIMARY KEY,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    UNIQUE (type, state_key)
);
CREATE TABLE state_group (
    id BIGINT PRIMARY KEY,
    room_nid BIGINT NOT NULL,
    parent BIGINT,
    hops BIGINT NOT NULL,
    -- Sum of the SHA-256 of the full map's entries: finds groups that may be equal after state resolution.
    hash {bytes} NOT NULL,
    delta {bytes} NOT NULL
);
CREATE INDEX state_group_hash ON state_group (room_nid, hash);
CREATE TABLE current_state (
    room_nid BIGINT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    event_nid BIGINT NOT NULL,
    PRIMARY KEY (room_nid, type, state_key)
);
CREATE TABLE membership (
    room_nid BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    membership TEXT NOT NULL,
    sender TEXT NOT NULL,
    event_nid BIGINT NOT NULL,
    -- Stream position of the member event.
    pos BIGINT NOT NULL,
    forgotten BOOLEAN NOT NULL,
    PRIMARY KEY (room_nid, user_id)
);
CREATE INDEX membership_user ON membership (user_id, membership);
-- The stripped state that came with an invite or knock to a room this server is not in. JSON array.
CREATE TABLE stripped_state (
    room_nid BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    events TEXT NOT NULL,
    PRIMARY KEY (room_nid, user_id)
);
CREATE TABLE receipt (
    room_nid BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    receipt_type TEXT NOT NULL,
    -- '' for unthreaded.
    thread_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    -- The position of the event the receipt points at, 0 where unknown.
    event_pos BIGINT NOT NULL,
    ts BIGINT NOT NULL,
    pos BIGINT NOT NULL,
    PRIMARY KEY (room_nid, user_id, receipt_type, thread_id)
);
CREATE INDEX receipt_pos ON receipt (room_nid, pos);
CREATE TABLE room_alias (
    alias TEXT PRIMARY KEY,
    room_id TEXT NOT NULL,
    creator TEXT NOT NULL
);
CREATE INDEX room_alias_room ON room_alias (room_id);
CREATE TABLE public_room (
    room_id TEXT PRIMARY KEY
);
CREATE TABLE event_report (
    id BIGINT PRIMARY KEY,
    -- event, room or user
    kind TEXT NOT NULL,
    reporter TEXT NOT NULL,
    room_id TEXT,
    event_id TEXT,
    user_id TEXT,
    reason TEXT,
    score BIGINT,
    received_ts BIGINT NOT NULL
);
