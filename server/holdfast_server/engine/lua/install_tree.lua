#!lua
-- Puts trees into the store that were rebuilt from the ledger. Never replaces one that is there.
--
-- KEYS: for each partition: state late lated due; then for each tree: its hash, the index of its due
--   times, and the set that knows it while it is in the store.
-- ARGV[1], packed: how many partitions.
-- ARGV[2], packed: for each tree [partition (1..), name, number in the set, sequence number up to which
--   the ledger was read, 1 to bring back a tree that somebody removed by hand, earliest due time or 0,
--   open holds, fields [field, value, ...], due times [time, member, ...], expired holds
--   [hold, value, until, ...]].
-- Answers for each tree, packed:
--   0 INSTALLED
--   1 PRESENT   nothing; the tree is there
--   2 STALE     nothing; the ledger was read before something that it must have by now: read it again
--   3 REMOVED   nothing; the tree must be in the store and is not
-- The partition's index of due times says of a tree what its own says, whatever it said before.
-- A tree may only be missing because nobody touched it since the cold floor (field "c" of the state):
-- a later entry of its partition belongs to a tree that is there. So a reading of the ledger that is not
-- older than the floor has all of its entries. A retry is answered PRESENT.
--- @include layout
local partitions_count, list = unpack_message(ARGV[1]), unpack_message(ARGV[2])
local STATE, LATE, LATED, DUE, PARTITION_KEYS = 1, 2, 3, 4, 4
local TREE, INDEX, HOT, TREE_KEYS = 1, 2, 3, 3
local NAME, NUMBER, READ_TO, REMOVED, DUE_MS, OPEN_HOLDS, FIELDS, DUE_TIMES, LATE_HOLDS = 2, 3, 4, 5, 6, 7, 8, 9, 10

local function write_list(command, key, values)
  for first = 1, #values, 1000 do
    call(command, key, unpack(values, first, min(first + 999, #values)))
  end
end

-- The partition's numbers, where it has any.
local function numbers_of(base)
  local packed = call("HGET", KEYS[base + STATE], "m")
  return packed and { unpack_message(packed) }
end

-- What of the partition's figures an open hold belongs to.
local function count_holds(base, holds)
  local numbers = numbers_of(base)
  if numbers and holds > 0 then
    numbers[M_OPEN_HOLDS] = numbers[M_OPEN_HOLDS] + holds
    call("HSET", KEYS[base + STATE], "m", row(numbers))
  end
end

-- The ledger has all that ever expired: what cannot be committed any more has been forgotten here.
local function write_late(base, late)
  local numbers = numbers_of(base)
  local now = numbers and numbers[M_LAST_MS] or 0
  for i = 1, #late, 3 do
    if late[i + 2] > now and call("HSETNX", KEYS[base + LATE], late[i], late[i + 1]) == 1 then
      call("ZADD", KEYS[base + LATED], late[i + 2], late[i])
    end
  end
end

-- A key of a wrong type ends the call here, before anything of the tree is written.
local function check(base, tree)
  call("HLEN", KEYS[base + LATE])
  call("ZCARD", KEYS[base + LATED])
  call("ZCARD", KEYS[base + DUE])
  call("SCARD", KEYS[tree + HOT])
end

local function write(item, base, tree)
  local fields, due_ms = item[FIELDS], item[DUE_MS]
  check(base, tree)
  call("UNLINK", KEYS[tree + INDEX])
  write_list("ZADD", KEYS[tree + INDEX], item[DUE_TIMES])
  if due_ms > 0 then
    fields[#fields + 1], fields[#fields + 2] = "m", due_ms
    call("ZADD", KEYS[base + DUE], due_ms, item[NAME])
  else
    call("ZREM", KEYS[base + DUE], item[NAME])
  end
  write_list("HSET", KEYS[tree + TREE], fields)
  call("SADD", KEYS[tree + HOT], item[NUMBER])
  write_late(base, item[LATE_HOLDS])
  if item[REMOVED] == 0 then
    count_holds(base, item[OPEN_HOLDS])
  end
end

local answers = {}
for i = 1, #list do
  local item = list[i]
  local base, tree = (item[1] - 1) * PARTITION_KEYS, partitions_count * PARTITION_KEYS + (i - 1) * TREE_KEYS
  if call("EXISTS", KEYS[tree + TREE]) == 1 then
    answers[i] = 1
  elseif item[READ_TO] < tonumber(call("HGET", KEYS[base + STATE], "c") or "-1") then
    answers[i] = 2
  elseif item[REMOVED] == 0 and call("SISMEMBER", KEYS[tree + HOT], item[NUMBER]) == 1 then
    answers[i] = 3
  else
    write(item, base, tree)
    answers[i] = 0
  end
end
return cmsgpack.pack(answers)
