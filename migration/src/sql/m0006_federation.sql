-- What the server knows of other servers, and what is on its way to and from them.

-- A signing key of another server, as it last told (server-server API, "Retrieving server keys").
CREATE TABLE server_key (
    server_name TEXT NOT NULL,
    -- ed25519:…
    key_id TEXT NOT NULL,
    -- 32 bytes.
    public_key {bytes} NOT NULL,
    -- Until when signatures by it can be trusted: the document's, or for an old key when it expired.
    valid_until_ts BIGINT NOT NULL,
    -- Listed among the old keys.
    expired BOOLEAN NOT NULL,
    fetched_ts BIGINT NOT NULL,
    PRIMARY KEY (server_name, key_id)
);
-- The newest key document of another server, for those who ask this server as a notary.
CREATE TABLE server_key_document (
    server_name TEXT NOT NULL,
    -- With the signatures it came with.
    json TEXT NOT NULL,
    valid_until_ts BIGINT NOT NULL,
    fetched_ts BIGINT NOT NULL,
    PRIMARY KEY (server_name)
);
-- A server that this one talks to, and how that goes.
CREATE TABLE destination (
    server_name TEXT NOT NULL,
    -- The first failure since the last success; NULL while all is well.
    failing_since_ts BIGINT,
    -- 0: never.
    last_try_ts BIGINT NOT NULL,
    -- How long it is left alone after the last try; 0 while all is well.
    retry_interval_ms BIGINT NOT NULL,
    -- 0: never.
    last_success_ts BIGINT NOT NULL,
    -- The last failure in words.
    last_error TEXT,
    -- The newest of our events that it has answered for.
    last_sent_pos BIGINT NOT NULL,
    PRIMARY KEY (server_name)
);
-- Events of ours that a server still has to get: those of one room in a range of positions.
CREATE TABLE destination_room (
    server_name TEXT NOT NULL,
    room_nid BIGINT NOT NULL,
    first_pos BIGINT NOT NULL,
    last_pos BIGINT NOT NULL,
    PRIMARY KEY (server_name, room_nid)
);
-- An ephemeral event that must reach a server: written with its cause, deleted once the server has answered.
CREATE TABLE outbound_edu (
    pos BIGINT NOT NULL,
    server_name TEXT NOT NULL,
    edu_type TEXT NOT NULL,
    -- The EDU's content.
    json TEXT NOT NULL,
    PRIMARY KEY (pos)
);
CREATE INDEX outbound_edu_queue ON outbound_edu (server_name, pos);
-- A transaction of another server that was answered.
CREATE TABLE inbound_txn (
    origin TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    -- The answer's body.
    response TEXT NOT NULL,
    received_ts BIGINT NOT NULL,
    PRIMARY KEY (origin, txn_id)
);
CREATE INDEX inbound_txn_age ON inbound_txn (received_ts);
-- An event from elsewhere that was acknowledged and is not yet in its room. Hashes and signatures were checked.
CREATE TABLE inbound_pdu (
    -- In order of arrival.
    nid BIGINT NOT NULL,
    -- The server that sent it.
    origin TEXT NOT NULL,
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    -- Redacted if its content hash did not hold.
    json TEXT NOT NULL,
    received_ts BIGINT NOT NULL,
    PRIMARY KEY (nid)
);
CREATE UNIQUE INDEX inbound_pdu_event ON inbound_pdu (room_id, event_id);
CREATE INDEX inbound_pdu_room ON inbound_pdu (room_id, nid);
CREATE INDEX inbound_pdu_origin ON inbound_pdu (origin);
-- An event that is followed in a room's timeline and not known: where history can be fetched from.
CREATE TABLE backward_extremity (
    room_nid BIGINT NOT NULL,
    -- The missing event.
    event_id TEXT NOT NULL,
    -- That of an event that follows it.
    depth BIGINT NOT NULL,
    PRIMARY KEY (room_nid, event_id)
);
-- A redaction whose target has not arrived.
CREATE TABLE early_redaction (
    room_nid BIGINT NOT NULL,
    target_event_id TEXT NOT NULL,
    -- The redaction's event.
    redaction_nid BIGINT NOT NULL,
    PRIMARY KEY (room_nid, target_event_id, redaction_nid)
);
-- What is known of the devices of a user of another server.
CREATE TABLE remote_device_list (
    user_id TEXT NOT NULL,
    -- Of the newest change that was taken over.
    stream_id BIGINT NOT NULL,
    -- A change was missed: ask again before use.
    stale BOOLEAN NOT NULL,
    fetched_ts BIGINT NOT NULL,
    PRIMARY KEY (user_id)
);
-- A device of a user of another server.
CREATE TABLE remote_device (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    -- Its keys with their signatures.
    json TEXT,
    display_name TEXT,
    PRIMARY KEY (user_id, device_id)
);
-- A cross-signing key of a user of another server.
CREATE TABLE remote_cross_signing_key (
    user_id TEXT NOT NULL,
    -- master or self_signing
    usage TEXT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (user_id, usage)
);
-- A room whose members are still being fetched (MSC3706).
CREATE TABLE partial_room (
    room_nid BIGINT NOT NULL,
    -- The join whose state is incomplete.
    event_id TEXT NOT NULL,
    -- The server that let us in.
    via TEXT NOT NULL,
    -- JSON array: the servers in the room.
    servers TEXT NOT NULL,
    started_ts BIGINT NOT NULL,
    PRIMARY KEY (room_nid)
);
