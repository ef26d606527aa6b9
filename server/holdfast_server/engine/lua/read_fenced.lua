#!lua flags=no-writes
-- Runs one command that reads, where this store may answer for the partition.
--
-- KEYS[1]  `state` of the partition
-- KEYS[2]  the key that is read
-- ARGV[1]  the epoch that is asked about
-- ARGV[2]  the command; what follows are its arguments behind the key
--
-- Returns why not, or "", and what the command answers.
--- @include layout
--- @include fence

local why = fences.why(call("HGET", KEYS[1], "e"), tonumber(ARGV[1]))
if why then
  return { why, false }
end
return { "", call(ARGV[2], KEYS[2], unpack(ARGV, 3)) }
