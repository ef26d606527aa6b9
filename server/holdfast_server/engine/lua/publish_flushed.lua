#!lua flags=allow-oom
-- Says how far the ledger is. A watermark is only ever raised: a flusher that was stopped for long
-- and goes on cannot take back what its successor has said.
--
-- KEYS[n]  `state` of one partition and epoch
-- ARGV[1]  packed: for each of them the last sequence number that the ledger has committed
--
-- Returns how many watermarks were raised. Doing it twice changes nothing.
local flushed = cmsgpack.unpack(ARGV[1])
local raised = 0
for n = 1, #KEYS do
  local known = tonumber(redis.call('HGET', KEYS[n], 'f') or '0')
  if flushed[n] > known then
    redis.call('HSET', KEYS[n], 'f', string.format('%.0f', flushed[n]))
    raised = raised + 1
  end
end
return raised
