#!lua
-- The commands of a Reserve, and nothing else: no script that keeps as much can cost less.
--
-- KEYS: for each operation three: the numbers and records of a partition, a tree, an outbox.
-- ARGV[1] a number that rises from call to call; ARGV[2..5] bytes of an entry, of an account's row, of
--   a hold's and of an idempotency record.
-- Answers how many operations they were for. What is unpacked, decided and packed is left out, and so
-- is the table of claims, which a call asks only once for all of its operations.
local call, rep = redis.call, string.rep
local round = ARGV[1]
local entry, account, hold, record = rep("e", ARGV[2]), rep("a", ARGV[3]), rep("h", ARGV[4]), rep("r", ARGV[5])
for i = 1, #KEYS, 3 do
  local state, tree, out = KEYS[i], KEYS[i + 1], KEYS[i + 2]
  local name = round .. "-" .. i
  call("HMGET", state, "m", "f")
  call("HMGET", tree, "m", "d", "a")
  call("XADD", out, name, "e", entry)
  call("HSET", tree, "a", account, "h", hold, "d", hold)
  call("HSET", state, "m", name, "k" .. name, record)
end
return #KEYS / 3
