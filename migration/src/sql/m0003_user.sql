CREATE TABLE "user" (
    user_id TEXT PRIMARY KEY,
    -- PHC string (argon2id); NULL where no password can log in.
    password_hash TEXT,
    is_admin BOOLEAN NOT NULL,
    is_guest BOOLEAN NOT NULL,
    deactivated BOOLEAN NOT NULL,
    erased BOOLEAN NOT NULL,
    locked BOOLEAN NOT NULL,
    suspended BOOLEAN NOT NULL,
    created_ts BIGINT NOT NULL
);
-- Every profile field, display name and avatar among them; value is JSON text.
CREATE TABLE profile_field (
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (user_id, name)
);
CREATE TABLE device (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    display_name TEXT,
    last_seen_ts BIGINT NOT NULL,
    last_seen_ip TEXT,
    user_agent TEXT,
    created_ts BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id)
);
-- token_hash: SHA-256 of the token.
CREATE TABLE access_token (
    token_hash {bytes} PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    -- Unix milliseconds; NULL never expires.
    expires_ts BIGINT,
    -- When a password was last proved with this token's session.
    authed_ts BIGINT NOT NULL,
    refresh_hash {bytes}
);
CREATE INDEX access_token_device ON access_token (user_id, device_id);
CREATE TABLE refresh_token (
    token_hash {bytes} PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    -- Set once exchanged; the old one dies when the new one is first used.
    next_hash {bytes},
    expires_ts BIGINT
);
CREATE INDEX refresh_token_device ON refresh_token (user_id, device_id);
-- Short-lived tokens for m.login.token and OpenID; kind is login or openid.
CREATE TABLE short_token (
    token_hash {bytes} PRIMARY KEY,
    kind TEXT NOT NULL,
    user_id TEXT NOT NULL,
    expires_ts BIGINT NOT NULL
);
CREATE TABLE registration_token (
    token TEXT PRIMARY KEY,
    uses_allowed BIGINT,
    pending BIGINT NOT NULL,
    completed BIGINT NOT NULL,
    expires_ts BIGINT
);
CREATE TABLE account_data (
    user_id TEXT NOT NULL,
    -- '' for global account data.
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    pos BIGINT NOT NULL,
    PRIMARY KEY (user_id, room_id, type)
);
CREATE INDEX account_data_pos ON account_data (user_id, pos);
CREATE TABLE filter (
    user_id TEXT NOT NULL,
    filter_id BIGINT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (user_id, filter_id)
);
CREATE TABLE pusher (
    user_id TEXT NOT NULL,
    app_id TEXT NOT NULL,
    pushkey TEXT NOT NULL,
    device_id TEXT NOT NULL,
    json TEXT NOT NULL,
    created_ts BIGINT NOT NULL,
    PRIMARY KEY (user_id, app_id, pushkey)
);
CREATE TABLE presence (
    user_id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    status_msg TEXT,
    last_active_ts BIGINT NOT NULL,
    pos BIGINT NOT NULL
);
CREATE INDEX presence_pos ON presence (pos);
