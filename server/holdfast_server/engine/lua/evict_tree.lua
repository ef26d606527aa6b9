#!lua flags=allow-oom
-- Removes trees from the store that the ledger has, and that nobody has changed since they were read.
--
-- KEYS: for each partition: state; then for each tree: its hash, the index of its due times, and the
--   set that knows it while it is in the store.
-- ARGV[1], packed: for each tree [partition (1..), number in the set, the sequence number that its
--   partition had when it was read, the SHA-1 of all that its hash had then].
-- ARGV[2], packed: the epoch of each partition.
-- Answers for each tree, packed: 0 EVICTED, 1 GONE, 2 HELD (a hold is open), 3 UNFLUSHED (the ledger does
--   not have all that the partition had then), 4 CHANGED, 5 FENCED (lib/fence.lua: what the ledger is said
--   to have may be there no more).
-- Every entry of a tree raises a version in its hash, so one that is the same has had no entry since it
-- was read: all of its entries are up to that sequence number, to which the cold floor (field "c" of the
-- state) is raised before the tree goes. What is due in it stays in the partition's index: the sweeper
-- brings the tree back for it. A retry is answered GONE.
--- @include layout
--- @include fence
local list, epochs = unpack_message(ARGV[1]), unpack_message(ARGV[2])
local TREE, INDEX, HOT, TREE_KEYS = 1, 2, 3, 3

local function judge(item, state_key, tree_key)
  if fences.why(call("HGET", state_key, "e"), epochs[item[1]]) then
    return 5
  end
  local values = call("HGETALL", tree_key)
  if #values == 0 then
    return 1
  end
  for i = 1, #values, 2 do
    if sub(values[i], 1, 1) == "h" then
      return 2
    end
  end
  if tonumber(call("HGET", state_key, "f") or "0") < item[3] then
    return 3
  end
  return redis.sha1hex(table.concat(values, "\0")) == item[4] and 0 or 4
end

local function remove(item, state_key, tree)
  call("SCARD", KEYS[tree + HOT])
  if item[3] > tonumber(call("HGET", state_key, "c") or "-1") then
    call("HSET", state_key, "c", text(item[3]))
  end
  call("SREM", KEYS[tree + HOT], item[2])
  call("UNLINK", KEYS[tree + TREE], KEYS[tree + INDEX])
end

local partitions = #KEYS - #list * TREE_KEYS
local answers = {}
for i = 1, #list do
  local item, tree = list[i], partitions + (i - 1) * TREE_KEYS
  answers[i] = judge(item, KEYS[item[1]], KEYS[tree + TREE])
  if answers[i] == 0 then
    remove(item, KEYS[item[1]], tree)
  end
end
return pack(answers)
