-- Claims: in which partition an idempotency key was used. A key is scoped by tenant and method, and its
-- record lies in the partition of its account: without claims, the same key could be used once in
-- every partition.
--
-- KEYS of a shard, in this order (engine/keys.py): meta c0 c1. All digests of a call are looked up with
-- two commands per shard. A claim lives twice as long as a record, so that the ledger has what it was
-- made for long before it is forgotten.

local shards, claimed = {}, {}

local function load_shard(header, index)
  local base = header[6] + (index - 1) * 3
  local packed = call("GET", KEYS[base + 1])
  local meta = packed and unpack_message(packed) or { 0, 0 }
  local shard = { meta = meta, meta_key = KEYS[base + 1], keys = { [0] = KEYS[base + 2], [1] = KEYS[base + 3] } }
  shard.asked, shard.made = {}, {}
  local now = clock_ms(header)
  if now - meta[1] >= 2 * header[2] then
    meta[1], meta[2] = now, 1 - meta[2]
    shard.turned = true
  end
  return shard
end

local function look_up(shard, key)
  for first = 1, #shard.asked, 1000 do
    local last = min(first + 999, #shard.asked)
    local found = call("HMGET", key, unpack(shard.asked, first, last))
    for i = first, last do
      local digest = shard.asked[i]
      claimed[digest] = claimed[digest] or found[i - first + 1]
    end
  end
end

-- Reads the claims of all keys in a call; `shard_of` is the shard of each operation, 0 for none.
function claims.load(header, list, shard_of)
  for i = 1, #list do
    local index = shard_of[i]
    if index > 0 then
      shards[index] = shards[index] or load_shard(header, index)
      local asked = shards[index].asked
      asked[#asked + 1] = list[i][O_DIGEST]
    end
  end
  for _, shard in pairs(shards) do
    local parity = shard.meta[2]
    if not shard.turned then
      look_up(shard, shard.keys[parity])
    end
    look_up(shard, shard.keys[1 - parity])
  end
end

-- Whether the key was used in another partition.
function claims.taken(digest, partition_number)
  local holder = claimed[digest]
  return holder and holder ~= partition_number
end

function claims.make(shard_index, digest, partition_number)
  if not claimed[digest] then
    claimed[digest] = partition_number
    local made = shards[shard_index].made
    made[#made + 1], made[#made + 2] = digest, claimed[digest]
  end
end

function claims.write()
  for _, shard in pairs(shards) do
    if #shard.made > 0 then
      local key = shard.keys[shard.meta[2]]
      if shard.turned then
        call("UNLINK", key)
        call("SET", shard.meta_key, pack(shard.meta))
      end
      partitions.write_list("HSET", key, shard.made)
    end
  end
end
