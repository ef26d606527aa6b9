#!lua flags=no-writes
-- Sees trees as they are, with how far their partitions are, so that a change can be noticed later.
--
-- KEYS: for each tree: its hash, the state of its partition.
-- Answers for each tree: the sequence number of its partition's newest entry, and the SHA-1 of all that
-- its hash has.
local answers = {}
for i = 1, #KEYS, 2 do
  local numbers = redis.call("HGET", KEYS[i + 1], "m")
  local values = redis.call("HGETALL", KEYS[i])
  answers[#answers + 1] = { numbers and (cmsgpack.unpack(numbers)) or 0, redis.sha1hex(table.concat(values, "\0")) }
end
return answers
