-- Partitions: order, time, idempotency, and everything that is written at the end of a call.
--
-- KEYS of a partition, in this order (engine/keys.py): state former out due late lated.
-- Fields of the hash `state`: "m" its numbers, "f" the last sequence number that the ledger has, "e" the
-- fence (lib/fence.lua), "c" the cold floor (see below), and the idempotency records and ended holds of
-- this generation; those of the one before are in `former`.
-- Nothing is written while operations are decided. They change tables in memory; `write` stores
-- these at the end, outbox first. An error before that leaves the store untouched.

-- Where the header of a call (ARGV[1]) and the keys of a partition have what they have.
local EPOCHS, GENERATION_MS, BACKLOG_MAX = 1, 2, 3
local KEYS_EACH, LIST_MAX = 6, 1000
local STATE, FORMER, OUT, DUE, LATE, LATED = 1, 2, 3, 4, 5, 6

local function key_of(partition, name)
  return KEYS[partition.base + name]
end

-- Tables that few calls need are made by those: `late` and `late_changes`. Answers nothing but why, where
-- the partition may not be touched here.
function partitions.load(header, index)
  local base = (index - 1) * KEYS_EACH
  local found = call("HMGET", KEYS[base + STATE], "m", "f", "e")
  local epoch = header[EPOCHS][index]
  local why = fences.why(found[3], epoch)
  if why then
    return nil, why
  end
  local meta, now = found[1] and { unpack_message(found[1]) } or { 0, 0, 0, 0, 0, 0 }, clock_ms(header)
  local partition = {
    meta = meta,
    flushed = tonumber(found[2] or "0"),
    number = header[5][index],
    epoch = epoch,
    now = now > meta[M_LAST_MS] and now or meta[M_LAST_MS],
    header = header,
    base = base,
    due_key = KEYS[base + DUE],
    entries = { nil, nil },
    -- New idempotency records and ended holds. Tables that grow are made anew: room for two.
    records = { k = nil, h = nil },
  }
  partitions.turn_generation(partition)
  return partition
end

-- How many keys partitions take before those of trees.
function partitions.keys_count(header)
  return #header[5] * KEYS_EACH
end

-- When a generation is as long as the window, the one before is dropped whole, once the ledger has all
-- of it. Everything since the former generation began (M_FORMER_MS) is remembered.
function partitions.turn_generation(partition)
  local meta = partition.meta
  if meta[M_GENERATION_MS] == 0 then
    meta[M_GENERATION_MS] = partition.now
  elseif partition.now - meta[M_GENERATION_MS] >= partition.header[GENERATION_MS] and meta[M_GENERATION_SEQ] <= partition.flushed then
    meta[M_FORMER_MS] = meta[M_GENERATION_MS]
    meta[M_GENERATION_MS] = partition.now
    meta[M_GENERATION_SEQ] = meta[M_SEQ]
    partition.turned = true
  end
end

-- Since when every record is remembered.
function partitions.remembers_since(partition)
  local meta = partition.meta
  return meta[M_FORMER_MS] > 0 and meta[M_FORMER_MS] or meta[M_GENERATION_MS]
end

-- A record of this or the former generation; `field` is "k" .. digest or "h" .. hold id.
function partitions.record(partition, field)
  local known = partition.records[field] or call("HGET", key_of(partition, STATE), field)
  if not known and partition.meta[M_FORMER_MS] > 0 and not partition.turned then
    known = call("HGET", key_of(partition, FORMER), field)
  end
  return known
end

function partitions.remember(partition, field, value)
  partition.records[field] = value
end

-- A tree that is not in the store has no entry behind this sequence number; -1 while everything is in
-- the store that ever was.
function partitions.cold_floor(partition)
  return tonumber(call("HGET", key_of(partition, STATE), "c") or "-1")
end

function partitions.backlogged(partition)
  return partition.meta[M_SEQ] - partition.flushed >= partition.header[BACKLOG_MAX]
end

local function keep_late(partition, hold, value)
  local late = partition.late or {}
  partition.late = late
  late[hold] = value
end

-- Expired holds that can still be committed: `value` false forgets one.
function partitions.late_hold(partition, hold)
  local known = partition.late and partition.late[hold]
  if known == nil then
    local packed = call("HGET", key_of(partition, LATE), hold)
    known = packed and unpack_message(packed) or false
    keep_late(partition, hold, known)
  end
  return known and known[T_UNTIL] > partition.now and known
end

function partitions.set_late(partition, hold, value)
  keep_late(partition, hold, value)
  local changes = partition.late_changes or {}
  partition.late_changes = changes
  insert(changes, { hold, value })
end

-- Forgets expired holds that can no longer be committed, some more than there are new ones: so they never
-- become many. The ledger still knows them.
local function forget_late(partition)
  local most = #partition.late_changes + FORGET_MAX
  local over = call("ZRANGEBYSCORE", key_of(partition, LATED), "-inf", partition.now, "LIMIT", 0, most)
  for _, hold in ipairs(over) do
    partitions.set_late(partition, hold, false)
  end
end

-- Touches what will be written, and was not read, with a command of its type: a key of a wrong type
-- ends the call here, before anything is written. All outboxes are looked at by one command, which
-- finds nothing behind their ends.
function partitions.check(loaded)
  local outboxes = {}
  for i = 1, #loaded do
    local partition = loaded[i]
    if #partition.entries > 0 then
      outboxes[#outboxes + 1] = key_of(partition, OUT)
    end
    if partition.late_changes then
      call("HLEN", key_of(partition, LATE))
      forget_late(partition)
    end
  end
  local n = #outboxes
  if n > 0 then
    for i = 1, n do
      outboxes[n + i] = "$"
    end
    call("XREAD", "COUNT", 1, "STREAMS", unpack(outboxes))
  end
end

function partitions.write_outbox(partition)
  local entries, out, epoch = partition.entries, key_of(partition, OUT), partition.epoch
  local before = partition.meta[M_SEQ] - #entries
  for i = 1, #entries do
    call("XADD", out, format("%d-%d", epoch, before + i), "e", journals.packed(entries[i]))
  end
end

function partitions.write_rest(partition)
  local meta, records = partition.meta, partition.records
  if #partition.entries == 0 and not next(records) and not partition.turned then
    return
  end
  local state = key_of(partition, STATE)
  meta[M_LAST_MS] = partition.now
  local set, n = { "m", row(meta), nil, nil }, 2
  for field, value in pairs(records) do
    set[n + 1], set[n + 2] = field, value
    n = n + 2
  end
  if partition.turned then
    local floor = partitions.cold_floor(partition)
    call("UNLINK", key_of(partition, FORMER))
    call("RENAME", state, key_of(partition, FORMER))
    set[n + 1], set[n + 2], set[n + 3], set[n + 4] = "f", partition.flushed, "e", fences.armed(partition.epoch)
    if floor >= 0 then
      set[n + 5], set[n + 6] = "c", floor
    end
  end
  partitions.write_list("HSET", state, set)
  local changes = partition.late_changes or NONE
  for i = 1, #changes do
    partitions.write_late(partition, changes[i][1], changes[i][2])
  end
end

function partitions.write_late(partition, hold, value)
  if value then
    call("HSET", key_of(partition, LATE), hold, pack(value))
    call("ZADD", key_of(partition, LATED), value[T_UNTIL], hold)
  else
    call("HDEL", key_of(partition, LATE), hold)
    call("ZREM", key_of(partition, LATED), hold)
  end
end

-- A command takes what Lua can unpack: fewer than 8,000 values at a time. An even number of them keeps
-- pairs together; nothing is done for an empty list.
function partitions.write_list(command, key, list)
  local n = #list
  if n > 0 and n <= LIST_MAX then
    call(command, key, unpack(list))
    return
  end
  for first = 1, n, LIST_MAX do
    local last = first + LIST_MAX - 1
    call(command, key, unpack(list, first, last < n and last or n))
  end
end
