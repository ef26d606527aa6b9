-- Partitions: order, time, idempotency, and everything that is written at the end of a call.
--
-- KEYS of a partition, in this order (engine/keys.py): meta out flushed due i0 i1 late lated.
-- Nothing is written while operations are decided. They change tables in memory; `write` stores
-- these at the end, outbox first. An error before that leaves the store untouched.

-- Where the header of a call (ARGV[1]) and the keys of a partition have what they have.
local EPOCH, GENERATION_MS, BACKLOG_MAX = 1, 2, 3
local META, OUT, FLUSHED, DUE, RECORDS, LATE, LATED = 1, 2, 3, 4, 5, 7, 8

local function key_of(partition, name)
  return KEYS[partition.base + name]
end

-- Where the records of a generation lie, by its parity.
local function record_key(partition, parity)
  return KEYS[partition.base + RECORDS + parity]
end

function partitions.load(header, index)
  local base = (index - 1) * 8
  local packed = call("GET", KEYS[base + META])
  local meta = packed and unpack_message(packed) or { 0, 0, 0, 0, 0, 0, 0 }
  local partition = {
    meta = meta,
    flushed = tonumber(call("GET", KEYS[base + FLUSHED]) or "0"),
    number = text(header[5][index]),
    now = max(meta[M_LAST_MS], clock_ms(header)),
    header = header,
    base = base,
    due_key = KEYS[base + DUE],
    entries = {},
    records = {},
    record_pairs = {},
    late = {},
    late_changes = {},
  }
  partitions.turn_generation(partition)
  return partition
end

-- Idempotency records live in two hashes, this generation's and the one before. When a generation is
-- as long as the window, the one before is dropped whole, once the ledger has all of it. Everything
-- since the former generation began (M_FORMER_MS) is remembered.
function partitions.turn_generation(partition)
  local meta = partition.meta
  if meta[M_GENERATION_MS] == 0 then
    meta[M_GENERATION_MS] = partition.now
  elseif partition.now - meta[M_GENERATION_MS] >= partition.header[GENERATION_MS] and meta[M_GENERATION_SEQ] <= partition.flushed then
    meta[M_PARITY] = 1 - meta[M_PARITY]
    meta[M_FORMER_MS] = meta[M_GENERATION_MS]
    meta[M_GENERATION_MS] = partition.now
    meta[M_GENERATION_SEQ] = meta[M_SEQ]
    partition.turned = true
  end
end

-- A record of this or the former generation; `field` is "k" .. digest or "h" .. hold id.
function partitions.record(partition, field)
  local known = partition.records[field]
  if known == nil then
    local parity = partition.meta[M_PARITY]
    known = not partition.turned and call("HGET", record_key(partition, parity), field)
    known = known or call("HGET", record_key(partition, 1 - parity), field) or false
    partition.records[field] = known
  end
  return known
end

function partitions.remember(partition, field, value)
  partition.records[field] = value
  local pairs_of = partition.record_pairs
  local n = #pairs_of
  pairs_of[n + 1], pairs_of[n + 2] = field, value
end

-- Gives an entry its place in the partition's order.
function partitions.append(partition, entry)
  local seq = partition.meta[M_SEQ] + 1
  partition.meta[M_SEQ] = seq
  partition.entries[#partition.entries + 1] = entry
  return seq
end

function partitions.backlogged(partition)
  return partition.meta[M_SEQ] - partition.flushed >= partition.header[BACKLOG_MAX]
end

-- Expired holds that can still be committed: `value` false forgets one.
function partitions.late_hold(partition, hold)
  local known = partition.late[hold]
  if known == nil then
    local packed = call("HGET", key_of(partition, LATE), hold)
    known = packed and unpack_message(packed) or false
    partition.late[hold] = known
  end
  return known and known[T_UNTIL] > partition.now and known
end

function partitions.set_late(partition, hold, value)
  partition.late[hold] = value
  insert(partition.late_changes, { hold, value })
end

-- Touches what will be written, and was not read, with a command of its type: a key of a wrong type
-- ends the call here, before anything is written.
function partitions.check(partition)
  if #partition.entries > 0 then
    call("XLEN", key_of(partition, OUT))
  end
  if #partition.late_changes > 0 then
    call("HLEN", key_of(partition, LATE))
    call("ZCARD", key_of(partition, LATED))
  end
end

function partitions.write_outbox(partition)
  local seq = partition.meta[M_SEQ] - #partition.entries
  local prefix = text(partition.header[EPOCH]) .. "-"
  for i, entry in ipairs(partition.entries) do
    call("XADD", key_of(partition, OUT), prefix .. text(seq + i), "e", pack(entry))
  end
end

function partitions.write_rest(partition)
  local meta = partition.meta
  if #partition.entries == 0 and #partition.record_pairs == 0 and not partition.turned then
    return
  end
  meta[M_LAST_MS] = partition.now
  call("SET", key_of(partition, META), pack(meta))
  if partition.turned then
    call("UNLINK", record_key(partition, meta[M_PARITY]))
  end
  partitions.write_list("HSET", record_key(partition, meta[M_PARITY]), partition.record_pairs)
  for _, change in ipairs(partition.late_changes) do
    partitions.write_late(partition, change[1], change[2])
  end
end

function partitions.write_late(partition, hold, value)
  if value then
    call("HSET", key_of(partition, LATE), hold, pack(value))
    call("ZADD", key_of(partition, LATED), text(value[T_UNTIL]), hold)
  else
    call("HDEL", key_of(partition, LATE), hold)
    call("ZREM", key_of(partition, LATED), hold)
  end
end

-- A command takes what Lua can unpack: fewer than 8,000 values at a time. An even number of them keeps
-- pairs together; nothing is done for an empty list.
function partitions.write_list(command, key, list)
  for first = 1, #list, 1000 do
    call(command, key, unpack(list, first, min(first + 999, #list)))
  end
end

-- Forgets expired holds that can no longer be committed. The ledger still knows them.
function partitions.forget_late(partition)
  local over = call("ZRANGEBYSCORE", key_of(partition, LATED), "-inf", text(partition.now), "LIMIT", 0, FORGET_MAX)
  for _, hold in ipairs(over) do
    partitions.set_late(partition, hold, false)
  end
end
