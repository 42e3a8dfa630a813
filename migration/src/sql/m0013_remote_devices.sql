-- The newest update of a user's devices that their server told of and that is part of the copy here; NULL where that is not
-- known.
ALTER TABLE remote_device_list ADD COLUMN remote_id BIGINT;
