-- Which threads users want to hear of (MSC4306); also those they no longer do, so that their devices are told.
CREATE TABLE thread_subscription (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    root_id TEXT NOT NULL,
    subscribed BOOLEAN NOT NULL,
    -- Whether a mention made it.
    automatic BOOLEAN NOT NULL,
    -- Events up to here no longer subscribe by themselves; 0 if the user has never unsubscribed.
    ended_pos BIGINT NOT NULL,
    -- Stream position of the last change.
    pos BIGINT NOT NULL,
    PRIMARY KEY (user_id, room_id, root_id)
);
CREATE INDEX thread_subscription_pos ON thread_subscription (user_id, pos);
