#!lua flags=allow-oom
-- Leaves a mark, and says how far partitions are. Whoever then waits, on the same connection, until the
-- mark is on disk or on replicas, knows it of everything that they held before. WAIT and WAITAOF alone
-- say nothing of a connection that has not written: they would answer at once.
--
-- KEYS[1]      `barrier` of one of the partitions
-- KEYS[n + 1]  `state` of a partition
-- ARGV[n]      the epoch that is waited for in it
--
-- Returns the last sequence number of each partition; -1 where this store may not decide in that epoch,
-- or has nothing of it: what is waited for is not here.
--- @include layout
--- @include fence

local found = {}
for n = 1, #ARGV do
  local state = call("HMGET", KEYS[n + 1], "m", "e")
  local numbers, fence = state[1], state[2]
  found[n] = -1
  if numbers and not fences.why(fence, tonumber(ARGV[n])) then
    found[n] = unpack_message(numbers)
  end
end
call("INCR", KEYS[1])
return found
