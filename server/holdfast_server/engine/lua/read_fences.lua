#!lua flags=no-writes
-- What a server says of itself and of its partitions, for whoever decides what may go on.
--
-- KEYS[n]  `state` of a partition, under the name of the epoch in which its hot state began
--
-- Returns, packed: the role, the replication id, the time in milliseconds, and for each partition its
-- fence, numbers, watermark and cold floor; each is empty where it is not there.
--- @include layout
--- @include fence

local role, replid = fences.server()
local time = call("TIME")
local found = { role, replid, time[1] * 1000 + floor(time[2] / 1000) }
for n = 1, #KEYS do
  local fields = call("HMGET", KEYS[n], "e", "m", "f", "c")
  for i = 1, 4 do
    fields[i] = fields[i] or ""
  end
  found[#found + 1] = fields
end
return pack(found)
