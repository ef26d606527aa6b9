#!lua flags=no-writes
-- Reads a whole tree and where its partition is, as of one instant.
--
-- KEYS[1]  `state` of the partition
-- KEYS[2]  the tree's hash
-- ARGV[1]  fields of a tree that is read, at most: each blocks the store for about a microsecond
--
-- Returns the partition's numbers (a row, or false), what the ledger has of it (decimal, or false), how
-- many fields the tree has, and these as [field, value, ...]: none where there are too many.
local found = redis.call('HMGET', KEYS[1], 'm', 'f')
local fields = redis.call('HLEN', KEYS[2])
local tree = fields <= tonumber(ARGV[1]) and redis.call('HGETALL', KEYS[2]) or {}
return { found[1], found[2], fields, tree }
