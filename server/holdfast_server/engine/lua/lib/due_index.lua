-- The index of a tree's due times: what expires or becomes effective in it, and when (lib/due.lua).
--
-- Most trees have few such members: a list in the tree's own hash, which is read and written along with
-- the rest, costs neither a command nor a key. It is a text of one record after another, in no order, so
-- that a member comes and goes without a look at the others: 7 bytes of time, a byte with the member's
-- length, the member. What outgrows LIST_BYTES_MAX becomes a sorted set beside the tree, ordered by time
-- and then by member, and stays one until it is empty.
-- A member begins with an id that nobody chooses (lib/due.lua), so none is found within another record.
local LIST_BYTES_MAX = 512
local TIME_BYTES = 7

local char, find = string.char, string.find

-- The list as it was stored, false for a sorted set: a time without a list means a set.
function due_index.stored(packed, due_ms)
  return packed or due_ms == 0 and ""
end

local function by_time(a, b)
  if a[2] ~= b[2] then
    return a[2] < b[2]
  end
  return comes_before(a[1], b[1])
end

-- The members of a list, each [member, at_ms], in the order of a sorted set.
local function members_of(list)
  local found, place, length, at_ms = {}, 1, nil, nil
  while place <= #list do
    at_ms, length, place = struct.unpack(">I7B", list, place)
    insert(found, { sub(list, place, place + length - 1), at_ms })
    place = place + length
  end
  table.sort(found, by_time)
  return found
end

-- What is due by now, in order: [member, at_ms, member, at_ms, ...], so many members at most.
function due_index.due_now(tree, count)
  local now, found = tree.partition.now, {}
  if tree.due_list then
    for i, each in ipairs(members_of(tree.due_list)) do
      if each[2] > now or i > count then
        break
      end
      found[2 * i - 1], found[2 * i] = each[1], each[2]
    end
    return found
  end
  found = call("ZRANGEBYSCORE", tree.due_key, "-inf", now, "WITHSCORES", "LIMIT", 0, count)
  for i = 2, #found, 2 do
    found[i] = tonumber(found[i])
  end
  return found
end

-- From now on the tree has a sorted set, in which all that the list had is new.
local function outgrow(tree, list)
  tree.due_changes, tree.due_list, tree.due_outgrown = {}, false, true
  for _, each in ipairs(members_of(list)) do
    tree.due_changes[each[1]] = each[2]
  end
end

-- Gives a member its time, or takes it out where `at_ms` is false.
function due_index.set(tree, member, at_ms)
  local list = tree.due_list
  if not list then
    local changes = tree.due_changes or {}
    tree.due_changes = changes
    changes[member] = at_ms
    return
  end
  local named = char(#member) .. member
  local place = find(list, named, 1, true)
  if place then
    list = sub(list, 1, place - 1 - TIME_BYTES) .. sub(list, place + #named)
  end
  if at_ms then
    list = list .. struct_pack(">I7", at_ms) .. named
  end
  if #list > LIST_BYTES_MAX then
    outgrow(tree, list)
  else
    tree.due_list = list
  end
end

-- Touches the sorted set that `write` will change, so that a key of a wrong type ends the call before
-- anything is written.
function due_index.check(tree)
  if tree.due_changes then
    call("ZCARD", tree.due_key)
  end
end

local function write_set(tree)
  local added, removed = {}, {}
  for member, at_ms in pairs(tree.due_changes or NONE) do
    if at_ms then
      local n = #added
      added[n + 1], added[n + 2] = at_ms, member
    else
      removed[#removed + 1] = member
    end
  end
  partitions.write_list("ZADD", tree.due_key, added)
  partitions.write_list("ZREM", tree.due_key, removed)
end

-- The earliest time. That of a set is only read anew when the one that was known has passed.
local function first_time(tree)
  if tree.due_list then
    local first = members_of(tree.due_list)[1]
    return first and first[2] or 0
  end
  local first = call("ZRANGE", tree.due_key, 0, 0, "WITHSCORES")
  return tonumber(first[2] or "0")
end

-- Appends what changes in the tree's hash to [field, value, ...] and [field, ...]. An empty list stays
-- while the hash has an earliest time.
function due_index.write(tree, set, gone)
  local list = tree.due_list
  if not list then
    write_set(tree)
  end
  if tree.due_outgrown or (tree.swept and list == "") then
    gone[#gone + 1] = "d"
  elseif list and list ~= tree.due_list_stored then
    local n = #set
    set[n + 1], set[n + 2] = "d", list
  end
  if tree.swept then
    tree.due_ms = first_time(tree)
  end
end
