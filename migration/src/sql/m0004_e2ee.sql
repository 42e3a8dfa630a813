CREATE TABLE device_key (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (user_id, device_id)
);
-- A device without a session that receives messages until its user logs in again (MSC3814).
CREATE TABLE dehydrated_device (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    -- Encrypted by the client.
    device_data TEXT NOT NULL,
    PRIMARY KEY (user_id)
);
CREATE TABLE one_time_key (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    json TEXT NOT NULL,
    -- Order of upload: keys are issued oldest first (MSC4225).
    seq BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm, key_id)
);
CREATE INDEX one_time_key_seq ON one_time_key (user_id, device_id, algorithm, seq);
CREATE TABLE fallback_key (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    json TEXT NOT NULL,
    used BOOLEAN NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm)
);
CREATE TABLE cross_signing_key (
    user_id TEXT NOT NULL,
    -- master, self_signing or user_signing
    usage TEXT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (user_id, usage)
);
CREATE TABLE key_signature (
    target_user TEXT NOT NULL,
    -- A device id or a cross-signing public key.
    target_key TEXT NOT NULL,
    signer_user TEXT NOT NULL,
    signer_key TEXT NOT NULL,
    signature TEXT NOT NULL,
    PRIMARY KEY (target_user, target_key, signer_user, signer_key)
);
CREATE TABLE device_list_change (
    pos BIGINT PRIMARY KEY,
    user_id TEXT NOT NULL
);
CREATE INDEX device_list_change_user ON device_list_change (user_id, pos);
CREATE TABLE key_backup (
    user_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    algorithm TEXT NOT NULL,
    auth_data TEXT NOT NULL,
    etag BIGINT NOT NULL,
    deleted BOOLEAN NOT NULL,
    PRIMARY KEY (user_id, version)
);
CREATE TABLE key_backup_session (
    user_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    room_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    first_message_index BIGINT NOT NULL,
    forwarded_count BIGINT NOT NULL,
    is_verified BOOLEAN NOT NULL,
    session_data TEXT NOT NULL,
    PRIMARY KEY (user_id, version, room_id, session_id)
);
CREATE TABLE to_device (
    pos BIGINT PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    -- The whole event as the client gets it.
    json TEXT NOT NULL
);
CREATE INDEX to_device_inbox ON to_device (user_id, device_id, pos);
CREATE TABLE to_device_txn (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    ts BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, event_type, txn_id)
);
