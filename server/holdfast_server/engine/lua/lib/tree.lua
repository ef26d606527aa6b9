-- Trees: a root account and all below it. One hash holds a tree's accounts and open holds, so that a
-- decision over a whole branch needs no key that is not declared.
--
-- KEYS of a tree, in this order (engine/keys.py): the hash and the index of due times.
-- Fields of the hash: "m" the earliest due time (a lower bound), "a" .. account, "h" .. hold id,
-- "n" .. account for the terms that no decision reads.

function trees.load(partition, index, partitions_count, tenant)
  local base = partitions_count * 8 + (index - 1) * 2
  local tree = {
    key = KEYS[base + 1],
    due_key = KEYS[base + 2],
    tenant = tenant,
    partition = partition,
    accounts = {},
    holds = {},
    changed = {},
    due_added = {},
    due_removed = {},
  }
  tree.due_ms = tonumber(call("HGET", tree.key, "m") or "0")
  tree.due_ms_stored = tree.due_ms
  return tree
end

-- Counts an open hold in, or out again, for its account and for the partition's figures.
function trees.count_hold(tree, account, change)
  local state, meta = trees.account(tree, account), tree.partition.meta
  state[A_OPEN_HOLDS] = state[A_OPEN_HOLDS] + change
  meta[M_OPEN_HOLDS] = meta[M_OPEN_HOLDS] + change
  trees.touch(tree, account)
end

-- The account, or false when there is none. Whoever changes it calls `touch`.
function trees.account(tree, account)
  local known = tree.accounts[account]
  if known == nil then
    local packed = call("HGET", tree.key, "a" .. account)
    known = packed and unpack_message(packed) or false
    tree.accounts[account] = known
  end
  return known
end

function trees.touch(tree, account)
  tree.changed["a" .. account] = true
end

-- The account and those above it, the root last: a list of ids. Empty when it does not exist.
function trees.path(tree, account)
  local path = {}
  while account ~= "" do
    local state = trees.account(tree, account)
    if not state then
      break
    end
    path[#path + 1] = account
    account = state[A_PARENT]
  end
  return path
end

function trees.hold(tree, hold)
  local known = tree.holds[hold]
  if known == nil then
    local packed = call("HGET", tree.key, "h" .. hold)
    known = packed and unpack_message(packed) or false
    tree.holds[hold] = known
  end
  return known
end

function trees.set_hold(tree, hold, value)
  tree.holds[hold] = value
  tree.changed["h" .. hold] = true
end

function trees.add_due(tree, member, at_ms)
  tree.due_added[member] = at_ms
  tree.due_removed[member] = nil
  if tree.due_ms == 0 or at_ms < tree.due_ms then
    tree.due_ms = at_ms
  end
end

function trees.remove_due(tree, member)
  tree.due_added[member] = nil
  tree.due_removed[member] = true
end

-- Touches what will be written and was not read; see `partitions.check`.
function trees.check(tree)
  if next(tree.due_added) or next(tree.due_removed) then
    call("ZCARD", tree.due_key)
  end
  if tree.swept or tree.due_ms ~= tree.due_ms_stored then
    call("ZCARD", tree.partition.due_key)
  end
end

function trees.write(tree)
  trees.write_fields(tree)
  for member, at_ms in pairs(tree.due_added) do
    call("ZADD", tree.due_key, text(at_ms), member)
  end
  for member in pairs(tree.due_removed) do
    call("ZREM", tree.due_key, member)
  end
  trees.write_due(tree)
end

function trees.write_fields(tree)
  local set, gone = {}, {}
  for field in pairs(tree.changed) do
    local name = string.sub(field, 2)
    local mark = string.sub(field, 1, 1)
    local value = mark == "a" and tree.accounts[name] or mark == "h" and tree.holds[name]
    if mark == "n" and tree.changed[field] ~= "" then
      set[#set + 1], set[#set + 2] = field, tree.changed[field]
    elseif value then
      set[#set + 1], set[#set + 2] = field, pack(value)
    else
      gone[#gone + 1] = field
    end
  end
  if #set > 0 then
    partitions.write_pairs(tree.key, set)
  end
  for _, field in ipairs(gone) do
    call("HDEL", tree.key, field)
  end
end

-- The earliest due time is only read anew when the one that was known has passed.
function trees.write_due(tree)
  if tree.swept then
    local first = call("ZRANGE", tree.due_key, 0, 0, "WITHSCORES")
    tree.due_ms = tonumber(first[2] or "0")
  end
  if tree.due_ms == tree.due_ms_stored then
    return
  end
  local name = string.match(tree.key, ":t:(.*)$")
  if tree.due_ms > 0 then
    call("HSET", tree.key, "m", text(tree.due_ms))
    call("ZADD", tree.partition.due_key, text(tree.due_ms), name)
  else
    call("HDEL", tree.key, "m")
    call("ZREM", tree.partition.due_key, name)
  end
end
