-- Trees: a root account and all below it. One hash holds a tree's accounts and open holds, so that a
-- decision over a whole branch needs no key that is not declared.
--
-- KEYS of a tree, in this order (engine/keys.py): the hash and the index of due times.
-- Fields of the hash: "m" the earliest due time (a lower bound), "d" the index while it is small
-- (lib/due_index.lua), "a" .. account, "h" .. hold id, "n" .. account for the terms that no decision
-- reads.
--
-- What a decision does not look at stays packed: credits, grants, limits and overdraft are unpacked
-- where they are first asked for, and an account is packed again as a whole when it was touched.

local KEYS_EACH = 2
-- Fields of a tree that is written anew as a whole, at most: bounds what that costs a call. Of a larger
-- one, what it could give back is little.
local REWRITTEN_FIELDS_MAX = 32
-- A row of so many bytes is unpacked at once, a longer one so many values at a time: Lua's stack takes
-- fewer than 8,000, each of which takes a byte at least.
local AT_ONCE_BYTES_MAX, PART_VALUES = 7000, 1000

-- An account that was asked for, as a table; false when there is none.
local function unpacked(packed)
  return packed and { unpack_message(packed) }
end

-- The values of a row, however many there are.
local function values_of(packed)
  if #packed <= AT_ONCE_BYTES_MAX then
    return { unpack_message(packed) }
  end
  local values, offset = {}, 0
  while offset >= 0 do
    local part = { cmsgpack.unpack_limit(packed, PART_VALUES, offset) }
    offset = part[1]
    for i = 2, #part do
      values[#values + 1] = part[i]
    end
  end
  return values
end

-- A hold from its row (constants.lua, H_...): its own table takes the lines and the counts.
local function hold_of(packed)
  if not packed then
    return false
  end
  local hold, lines, place = values_of(packed), { nil }, H_LINES + 1
  while hold[place] do
    local last = place + N_DRAWS - 1 + hold[place + N_DRAWS - 1]
    lines[#lines + 1] = { hold[place], hold[place + 1], hold[place + 2], { unpack(hold, place + N_DRAWS, last) } }
    place = last + 1
  end
  local counts = hold[H_LINES]
  hold[H_LINES], hold[H_COUNTS] = lines, counts ~= "" and unpack_message(counts) or NONE
  return hold
end

-- A hold has one line at least; a call of cmsgpack costs as much as three values do.
local function pack_hold(hold)
  local counts, lines = hold[H_COUNTS], hold[H_LINES]
  local line = lines[1]
  local packed = pack(
    hold[H_ACCOUNT], hold[H_FEATURE], hold[H_MODE], hold[H_PLACED], hold[H_EXPIRES],
    #counts > 0 and pack(counts) or "",
    line[N_CREDIT_TYPE], line[N_REQUESTED], line[N_CAPTURED], #line[N_DRAWS], unpack(line[N_DRAWS])
  )
  for i = 2, #lines do
    line = lines[i]
    packed = packed
      .. pack(line[N_CREDIT_TYPE], line[N_REQUESTED], line[N_CAPTURED], #line[N_DRAWS], unpack(line[N_DRAWS]))
  end
  return packed
end

-- `op` is the first operation on the tree: what it names is read along with "m" and "d".
function trees.load(partition, index, op, about_hold)
  local base = partitions.keys_count(partition.header) + (index - 1) * KEYS_EACH
  local key, account, hold = KEYS[base + 1], op[O_ACCOUNT], about_hold and op[O_HOLD]
  local found
  if hold then
    found = call("HMGET", key, "m", "d", "a" .. account, "h" .. hold)
  else
    found = call("HMGET", key, "m", "d", "a" .. account)
  end
  local due_ms = tonumber(found[1] or "0")
  local due_list = due_index.stored(found[2], due_ms)
  return {
    key = key,
    due_key = KEYS[base + 2],
    tenant = op[O_TENANT],
    partition = partition,
    accounts = { [account] = unpacked(found[3]) },
    -- Room for what most trees have: a table that grows is made anew.
    holds = hold and { [hold] = hold_of(found[4]) } or { [""] = nil },
    -- What is to be written: accounts, and a field with the hold or the terms, false where it goes.
    touched = { [account] = nil },
    changed = { [""] = nil },
    due_ms = due_ms,
    due_ms_stored = due_ms,
    due_list = due_list,
    due_list_stored = due_list,
  }
end

-- Whether a tree that is not in the store may be in the ledger. `read_to` is up to where the ledger was
-- read that does not know it, -1 where it was not asked.
function trees.is_cold(tree, read_to)
  return partitions.cold_floor(tree.partition) > read_to and call("EXISTS", tree.key) == 0
end

-- Makes a new tree one of those that must be in the store.
function trees.join(tree, hot_key, number)
  tree.hot_key, tree.hot_number = hot_key, number
end

-- Counts an open hold in, or out again, for its account and for the partition's figures.
function trees.count_hold(tree, account, change)
  local state, meta = trees.account(tree, account), tree.partition.meta
  state[A_OPEN_HOLDS], meta[M_OPEN_HOLDS] = state[A_OPEN_HOLDS] + change, meta[M_OPEN_HOLDS] + change
  tree.touched[account] = state
end

-- The account, or false when there is none. Whoever changes it calls `touch`.
function trees.account(tree, account)
  local known = tree.accounts[account]
  if known == nil then
    known = unpacked(call("HGET", tree.key, "a" .. account))
    tree.accounts[account] = known
  end
  return known
end

-- The part of an account that is packed by itself, as a table.
local function part(state, place)
  local known = state[place]
  if type(known) == "string" then
    known = known == "" and {} or unpack_message(known)
    state[place] = known
  end
  return known
end

function trees.overdraft(state)
  return part(state, A_OVERDRAFT)
end

function trees.limits(state)
  return part(state, A_LIMITS)
end

function trees.offsets(state)
  return part(state, A_OFFSETS)
end

-- A row within a row: a credit of an account, or an effective grant of a credit, by its place.
local function row_at(values, place)
  local known = values[place]
  if known[1] == nil then
    known = { unpack_message(known) }
    values[place] = known
  end
  return known
end
trees.credit_at, trees.grant_at = row_at, row_at

-- The state of a credit type, nil where the account never had any.
function trees.credit(state, credit_type)
  if state[A_FIRST_CREDIT] == credit_type then
    local first = state[A_FIRST_CREDIT + 1]
    return first[1] and first or row_at(state, A_FIRST_CREDIT + 1)
  end
  for place = A_FIRST_CREDIT, #state, 2 do
    if state[place] == credit_type then
      return row_at(state, place + 1)
    end
  end
end

-- The grants that are not effective yet.
function trees.pending(credit)
  return part(credit, C_PENDING)
end

function trees.touch(tree, account)
  tree.touched[account] = tree.accounts[account]
end

-- Keeps the terms of an account that no decision reads; "" for none.
function trees.set_terms(tree, account, terms)
  tree.changed["n" .. account] = terms ~= "" and terms
end

-- One list for all: a path is needed until the next one is asked for.
local path = {}

-- The account and those above it, the root last: a list of ids; the worst status of them, 0 where the
-- account does not exist; and whether one has limits. All that stand on a path are in `tree.accounts` from
-- then on.
function trees.path(tree, account)
  local n, accounts, worst, is_limited = 0, tree.accounts, 0, false
  while account ~= "" do
    local state = accounts[account] or trees.account(tree, account)
    if not state then
      break
    end
    n = n + 1
    path[n], account = account, state[A_PARENT]
    if state[A_STATUS] > worst then
      worst = state[A_STATUS]
    end
    is_limited = is_limited or state[A_LIMITS] ~= ""
  end
  for i = #path, n + 1, -1 do
    path[i] = nil
  end
  return path, worst, is_limited
end

-- The name of the account that the tree is named for.
function trees.root(tree)
  return string.match(tree.key, ":t:[^/]*/(.*)$")
end

function trees.hold(tree, hold)
  local known = tree.holds[hold]
  if known == nil then
    known = hold_of(call("HGET", tree.key, "h" .. hold))
    tree.holds[hold] = known
  end
  return known
end

function trees.set_hold(tree, hold, value)
  tree.holds[hold] = value
  tree.changed["h" .. hold] = value
end

function trees.add_due(tree, member, at_ms)
  due_index.set(tree, member, at_ms)
  if tree.due_ms == 0 or at_ms < tree.due_ms then
    tree.due_ms = at_ms
  end
  if tree.passing and at_ms <= tree.partition.now then
    due.arise(tree.passing, member, at_ms)
  end
end

function trees.remove_due(tree, member)
  due_index.set(tree, member, false)
end

-- Touches what will be written and was not read; see `partitions.check`.
function trees.check(tree)
  due_index.check(tree)
  if tree.swept or tree.listed or tree.due_ms ~= tree.due_ms_stored then
    call("ZCARD", tree.partition.due_key)
  end
  if tree.hot_key then
    call("SCARD", tree.hot_key)
  end
end

local function pack_part(values, place)
  local known = values[place]
  if type(known) == "table" then
    values[place] = next(known) == nil and "" or pack(known)
  end
end

-- Nobody looks at a credit or an account any more once it is packed: it is written in its place.
local function pack_credit(credit)
  if credit[C_PENDING] ~= "" then
    pack_part(credit, C_PENDING)
  end
  for place = C_FIRST_GRANT, #credit do
    if credit[place][G_ID] ~= nil then
      credit[place] = row(credit[place])
    end
  end
  return row(credit)
end

local function pack_account(state)
  for place = A_OVERDRAFT, A_OFFSETS do
    if state[place] ~= "" then
      pack_part(state, place)
    end
  end
  for place = A_FIRST_CREDIT + 1, #state, 2 do
    if state[place][C_VERSION] ~= nil then
      state[place] = pack_credit(state[place])
    end
  end
  return row(state)
end

-- Appends what is to be written of a tree: [field, value, ...] and [field, ...].
local function list_changes(tree, set, gone)
  local n = 0
  for account, state in pairs(tree.touched) do
    set[n + 1], set[n + 2] = "a" .. account, pack_account(state)
    n = n + 2
  end
  for field, value in pairs(tree.changed) do
    if value then
      set[n + 1], set[n + 2] = field, value[1] == nil and value or pack_hold(value)
      n = n + 2
    else
      gone[#gone + 1] = field
    end
  end
end

-- What grew for a hold may keep that room when the hold is gone: some allocators give nothing back of a
-- piece that is still half full. Written anew, a tree takes what it needs. That is done when it is swept,
-- some time after it was used for the last time.
local function rewrite(key)
  local count = call("HLEN", key)
  if count > 0 and count <= REWRITTEN_FIELDS_MAX then
    local all = call("HGETALL", key)
    call("DEL", key)
    call("HSET", key, unpack(all))
  end
end

function trees.write(tree)
  local set, gone = { nil, nil, nil, nil, nil, nil, nil, nil }, { nil }
  list_changes(tree, set, gone)
  due_index.write(tree, set, gone)
  if tree.listed or tree.due_ms ~= tree.due_ms_stored then
    trees.write_due(tree, set, gone)
  end
  if #set > 0 then
    partitions.write_list("HSET", tree.key, set)
  end
  if #gone > 0 then
    partitions.write_list("HDEL", tree.key, gone)
  end
  if tree.swept then
    rewrite(tree.key)
  end
  if tree.hot_key then
    call("SADD", tree.hot_key, tree.hot_number)
  end
end

-- Appends the tree's own due time to its changes, and tells the partition of it.
function trees.write_due(tree, set, gone)
  local name = string.match(tree.key, ":t:(.*)$")
  if tree.due_ms > 0 then
    set[#set + 1], set[#set + 2] = "m", tree.due_ms
    call("ZADD", tree.partition.due_key, tree.due_ms, name)
  else
    gone[#gone + 1] = "m"
    call("ZREM", tree.partition.due_key, name)
  end
end
