#!lua flags=allow-oom
-- Leaves a mark in a partition. Whoever then waits, on the same connection, until the mark is on disk or
-- on replicas, knows it of everything that the partition held before. WAIT and WAITAOF alone say nothing
-- of a connection that has not written: they would answer at once.
--
-- KEYS[1]  `state` of one partition
-- KEYS[2]  `barrier` of the same
-- ARGV[1]  the epoch that is waited for
--
-- Returns the partition's last sequence number; -1, and leaves no mark, where this store is not the one
-- that the epoch was armed for, or has nothing of it: what is waited for is not here.
local found = redis.call('HMGET', KEYS[1], 'm', 'e')
local numbers, fence = found[1], found[2]
if not numbers then
  return -1
end
if fence then
  local history = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
  if fence ~= ARGV[1] .. ' ' .. history .. ' ARMED' then
    return -1
  end
end
redis.call('INCR', KEYS[2])
local seq = cmsgpack.unpack(numbers)
return seq
