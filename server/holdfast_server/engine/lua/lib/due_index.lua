-- The index of a tree's due times: what expires or becomes effective in it, and when (lib/due.lua).
--
-- Most trees have few such members: a list in the tree's own hash, which is read and written along with
-- the rest, [at_ms, member, at_ms, member, ...] by time and then by member, costs neither a command nor
-- a key. What outgrows MEMBERS_MAX becomes a sorted set beside the tree, in the same order, and stays
-- one until it is empty.
local MEMBERS_MAX = 16

-- The list that a small index is, or false for a sorted set.
local function list_of(tree)
  local packed = tree.due_packed
  if not packed then
    return tree.due_ms_stored == 0 and {}
  end
  return packed ~= "" and { unpack_message(packed) } or {}
end

-- What is due by now, in order: [member, at_ms, member, at_ms, ...], so many members at most.
function due_index.due_now(tree, count)
  local now, list = tree.partition.now, list_of(tree)
  local found = {}
  if list then
    for i = 1, #list, 2 do
      if list[i] > now or i > 2 * count then
        break
      end
      found[i], found[i + 1] = list[i + 1], list[i]
    end
    return found
  end
  found = call("ZRANGEBYSCORE", tree.due_key, "-inf", now, "WITHSCORES", "LIMIT", 0, count)
  for i = 2, #found, 2 do
    found[i] = tonumber(found[i])
  end
  return found
end

local function insert_member(list, at_ms, member)
  local n = #list
  local i = n + 1
  while i > 1 and (list[i - 2] > at_ms or (list[i - 2] == at_ms and list[i - 1] > member)) do
    list[i], list[i + 1] = list[i - 2], list[i - 1]
    i = i - 2
  end
  list[i], list[i + 1] = at_ms, member
end

-- Takes the members that change out of a list, and puts in those that have a time.
local function change_list(list, changes)
  local kept, n = 0, #list
  for i = 1, n, 2 do
    if changes[list[i + 1]] == nil then
      list[kept + 1], list[kept + 2] = list[i], list[i + 1]
      kept = kept + 2
    end
  end
  for i = kept + 1, n do
    list[i] = nil
  end
  for member, at_ms in pairs(changes) do
    if at_ms then
      insert_member(list, at_ms, member)
    end
  end
  return list
end

-- Works out what `write` will store. A sorted set is touched here, so that a key of a wrong type ends
-- the call before anything is written.
function due_index.prepare(tree)
  if not next(tree.due_changes) then
    return
  end
  local list = list_of(tree)
  tree.due_list = list and change_list(list, tree.due_changes)
  if not list or #tree.due_list > 2 * MEMBERS_MAX then
    call("ZCARD", tree.due_key)
  end
end

local function write_set(tree)
  if not next(tree.due_changes) then
    return
  end
  local added, removed = {}, {}
  for member, at_ms in pairs(tree.due_changes) do
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

-- An empty list stays while the hash has an earliest time: a time without a list means a set.
local function write_list(tree, list, set, gone)
  local outgrown = #list > 2 * MEMBERS_MAX
  if outgrown then
    partitions.write_list("ZADD", tree.due_key, list)
  end
  if outgrown or (tree.swept and #list == 0) then
    gone[#gone + 1] = "d"
  elseif tree.due_list then
    local n = #set
    set[n + 1], set[n + 2] = "d", #list > 0 and row(list) or ""
  end
end

-- The earliest time of a set is only read anew when the one that was known has passed.
local function first_of_set(tree)
  local first = call("ZRANGE", tree.due_key, 0, 0, "WITHSCORES")
  return tonumber(first[2] or "0")
end

-- Appends what changes in the tree's hash to [field, value, ...] and [field, ...].
function due_index.write(tree, set, gone)
  local list = tree.due_list or list_of(tree)
  if list then
    write_list(tree, list, set, gone)
  else
    write_set(tree)
  end
  if tree.swept then
    tree.due_ms = not list and first_of_set(tree) or list and list[1] or 0
  end
end
