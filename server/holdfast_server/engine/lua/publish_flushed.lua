#!lua flags=allow-oom
-- Says how far the ledger is. A watermark is only ever raised: a flusher that was stopped for long
-- and goes on cannot take back what its successor has said.
--
-- KEYS[n]  `state` of one partition and epoch
-- ARGV[n]  the last sequence number of it that the ledger has committed, decimal
--
-- Returns how many watermarks were raised. Doing it twice changes nothing.
local raised = 0
for n = 1, #KEYS do
  local known = tonumber(redis.call('HGET', KEYS[n], 'f') or '0')
  if tonumber(ARGV[n]) > known then
    redis.call('HSET', KEYS[n], 'f', ARGV[n])
    raised = raised + 1
  end
end
return raised
