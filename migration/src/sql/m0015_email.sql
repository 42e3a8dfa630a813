-- Somebody who says that a mail address is theirs, and has perhaps proved it.
CREATE TABLE email_session (
    sid TEXT NOT NULL PRIMARY KEY,
    client_secret TEXT NOT NULL,
    -- In lower case.
    address TEXT NOT NULL,
    -- SHA-256 of the token in the newest mail.
    token_hash {bytes} NOT NULL,
    send_attempt BIGINT NOT NULL,
    next_link TEXT,
    created_ts BIGINT NOT NULL,
    validated_ts BIGINT
);
CREATE UNIQUE INDEX email_session_secret ON email_session (client_secret, address);
CREATE INDEX email_session_age ON email_session (created_ts);
-- The mail addresses of local users.
CREATE TABLE user_email (
    address TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    validated_ts BIGINT NOT NULL,
    added_ts BIGINT NOT NULL
);
CREATE INDEX user_email_user ON user_email (user_id);
