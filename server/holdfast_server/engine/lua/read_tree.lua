#!lua flags=no-writes
-- Reads a whole tree and where its partition is, as of one instant.
--
-- KEYS[1]  `state` of the partition
-- KEYS[2]  the tree's hash
-- KEYS[3]  the set that knows the tree while it must be there
-- ARGV[1]  fields of a tree that is read, at most: each blocks the store for about a microsecond
-- ARGV[2]  the number that stands for the tree in that set
--
-- Returns the partition's numbers (a row, or false), what the ledger has of it (decimal, or false), how
-- many fields the tree has, these as [field, value, ...]: none where there are too many; and 1 where the
-- tree may be in the ledger alone.
local found = redis.call('HMGET', KEYS[1], 'm', 'f', 'c')
local fields = redis.call('HLEN', KEYS[2])
local tree = fields <= tonumber(ARGV[1]) and redis.call('HGETALL', KEYS[2]) or {}
local cold = found[3] and fields == 0 and redis.call('SISMEMBER', KEYS[3], ARGV[2]) == 0
return { found[1], found[2], fields, tree, cold and 1 or 0 }
