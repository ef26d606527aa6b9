#!lua flags=allow-oom
-- Keeps everybody from partitions until they are armed again.
--
-- KEYS[n]  `state` of a partition
--
-- Returns how many fences changed. One that is not there keeps everybody away as it is.
local changed = 0
for n = 1, #KEYS do
  local fence = redis.call("HGET", KEYS[n], "e")
  local fenced = fence and string.gsub(fence, "ARMED$", "FENCED")
  if fenced and fenced ~= fence then
    redis.call("HSET", KEYS[n], "e", fenced)
    changed = changed + 1
  end
end
return changed
