#!lua flags=no-writes
-- Runs one command that reads, where this store may answer for the partition.
--
-- KEYS[1]  `state` of the partition
-- KEYS[2]  the key that is read
-- ARGV[1]  the epoch that is asked about
-- ARGV[2]  the time that the store should show (ms, lib/clock_store.lua; in a test build: that counts)
-- ARGV[3]  the command; what follows are its arguments behind the key
--
-- Returns why not, or "", what the command answers, and what time it is in the partition (ms).
--- @include layout
--- @include clock
--- @include fence

local found = call("HMGET", KEYS[1], "e", "m")
local why = fences.why(found[1], tonumber(ARGV[1]))
if why then
  return { why, false, 0 }
end
local now, last_ms = clock_ms({ 0, 0, 0, tonumber(ARGV[2]) }), found[2] and ({ unpack_message(found[2]) })[M_LAST_MS] or 0
return { "", call(ARGV[3], KEYS[2], unpack(ARGV, 4)), max(now, last_ms) }
