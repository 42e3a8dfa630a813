-- From here on events are sent to other servers. It stands before the first of them is: a process that dies before it writes
-- down how far it has come would otherwise leave its successor to begin too late.
INSERT INTO consumer_cursor (name, pos)
SELECT 'federation', COALESCE((SELECT MAX(pos) FROM event), 0)
WHERE NOT EXISTS (SELECT 1 FROM consumer_cursor WHERE name = 'federation');
