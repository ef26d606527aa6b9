#!lua flags=no-writes
-- Looks for trees by names that may be those of roots.
--
-- KEYS: for each name: where the root of an account of that name is written down, the hash of a tree of
--   that name, the state of its partition, the set that knows the tree while it is in the store.
-- ARGV[1], packed: for each name the number that stands for it in the set.
-- Answers for each name, packed: [root or "", cold floor or "", 1 where the tree is there, 1 where it must
-- be]. Of a tree that is there, as most are, nothing else is asked: its name is that of a root.
local call = redis.call
local numbers, answers = cmsgpack.unpack(ARGV[1]), {}
local STORED = { "", "", 1, 1 }
for i = 1, #numbers do
  local first = 4 * i - 3
  if call("EXISTS", KEYS[first + 1]) == 1 then
    answers[i] = STORED
  else
    answers[i] = {
      call("GET", KEYS[first]) or "",
      call("HGET", KEYS[first + 2], "c") or "",
      0,
      call("SISMEMBER", KEYS[first + 3], numbers[i]),
    }
  end
end
return cmsgpack.pack(answers)
