#!lua flags=no-writes
-- Reads which trees of some partitions are due by the store's own clock, the earliest first.
--
-- KEYS[n]  `due` of a partition
-- ARGV[1]  trees of each partition, at most
-- ARGV[2]  the time that the store should show (ms, lib/clock_store.lua; in a test build: that counts)
-- ARGV[2 + n]  how many of the earliest trees of a partition are left out
--
-- Returns for each partition its trees, each as TENANT/ROOT; none where its index is of a wrong type,
-- which keeps nobody from the others.
--- @include layout
--- @include clock

local now, found = clock_ms({ 0, 0, 0, tonumber(ARGV[2]) }), {}
for n = 1, #KEYS do
  local trees_due = redis.pcall("ZRANGEBYSCORE", KEYS[n], "-inf", text(now), "LIMIT", ARGV[2 + n], ARGV[1])
  found[n] = trees_due.err and {} or trees_due
end
return found
