-- What administrators decide about local users, beside the account's own columns. No row: nothing special.
CREATE TABLE user_override (
    user_id TEXT PRIMARY KEY,
    -- Instead of the server's rate limits; 0 for none at all, NULL for the server's.
    messages_per_second BIGINT,
    burst_count BIGINT,
    -- What the user sends is acknowledged and dropped.
    shadow_banned BOOLEAN NOT NULL,
    -- Until when cross-signing keys may be replaced without proving the password; Unix milliseconds.
    cross_signing_until BIGINT NOT NULL,
    -- bot, support or any other; NULL for people.
    user_type TEXT
);
-- Rooms that local users may not enter.
CREATE TABLE blocked_room (
    room_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    blocked_ts BIGINT NOT NULL
);
-- Work that an administrator asked for and that goes on by itself, also after a stop in between.
CREATE TABLE admin_task (
    id TEXT PRIMARY KEY,
    -- delete_room, purge_history or redact_user
    kind TEXT NOT NULL,
    -- The room or the user.
    subject TEXT NOT NULL,
    -- active, complete or failed
    status TEXT NOT NULL,
    -- JSON: what was asked for and how far it has come.
    params TEXT NOT NULL,
    -- JSON: what has come of it.
    result TEXT NOT NULL,
    -- Why it failed.
    error TEXT,
    created_ts BIGINT NOT NULL,
    updated_ts BIGINT NOT NULL
);
CREATE INDEX admin_task_subject ON admin_task (subject);
-- Failed log-ins and the like; the oldest are forgotten.
CREATE TABLE security_event (
    id BIGINT PRIMARY KEY,
    -- login_failed, login_succeeded, token_refused, address_refused
    kind TEXT NOT NULL,
    -- Whom it was about, where that is known.
    user_id TEXT,
    ip TEXT NOT NULL,
    user_agent TEXT,
    ts BIGINT NOT NULL
);
CREATE INDEX security_event_ip ON security_event (ip, id);
-- Addresses and networks that are refused.
CREATE TABLE ip_block (
    -- An address or a network, like 192.0.2.0/24.
    net TEXT PRIMARY KEY,
    reason TEXT,
    blocked_ts BIGINT NOT NULL,
    blocked_by TEXT NOT NULL,
    -- NULL never ends.
    expires_ts BIGINT
);
-- Media that no quarantine takes.
CREATE TABLE protected_media (
    media_id TEXT PRIMARY KEY
);
-- Which media were taken into quarantine and out of it.
CREATE TABLE quarantine_change (
    id BIGINT PRIMARY KEY,
    origin TEXT NOT NULL,
    media_id TEXT NOT NULL,
    quarantined BOOLEAN NOT NULL,
    changed_by TEXT NOT NULL,
    ts BIGINT NOT NULL
);
