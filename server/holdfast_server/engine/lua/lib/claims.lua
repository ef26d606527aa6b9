-- Claims: in which partition an idempotency key was used. A key is scoped by tenant and method, and its
-- record lies in the partition of its account: without claims, the same key could be used once in
-- every partition.
--
-- KEYS of a shard, in this order (engine/keys.py): claims former. Fields of both hashes: "m" when the
-- generation began, and each digest with the number of its partition. All digests of a call are
-- looked up with two commands per shard. A claim lives twice as long as a record, so that the ledger
-- has what it was made for long before it is forgotten.

-- What this call has asked for and found, by shard and by digest.
local shards, claimed
local KEYS_EACH, CHUNK = 2, 1000

local function new_shard(header, index)
  local base = header[6] + (index - 1) * KEYS_EACH
  return { key = KEYS[base + 1], former_key = KEYS[base + 2], asked = {}, made = {}, since = 0 }
end

local function keep_found(asked, first, found)
  for i = 1, #found do
    local holder = found[i]
    if holder then
      local digest = asked[first + i - 1]
      claimed[digest] = claimed[digest] or holder
    end
  end
end

local function look_up(shard, key)
  local asked = shard.asked
  for first = 1, #asked, CHUNK do
    keep_found(asked, first, call("HMGET", key, unpack(asked, first, min(first + CHUNK - 1, #asked))))
  end
end

-- What was found in a generation that is over is the former one's: what that had is forgotten. All that
-- was claimed since `since` is remembered, which is everything while no generation was forgotten.
local function read_shard(header, shard)
  look_up(shard, shard.key)
  local began = claimed.m
  claimed.m = nil
  if not began then
    shard.begins = true
  elseif clock_ms(header) - began >= 2 * header[2] then
    shard.begins, shard.turned, shard.since = true, true, tonumber(began)
    return
  end
  look_up(shard, shard.former_key)
  shard.since = tonumber(claimed.m or 0)
  claimed.m = nil
end

-- Reads the claims of all keys in a call; `shard_of` is the shard of each operation, 0 for none.
function claims.load(header, list, shard_of)
  shards, claimed = {}, {}
  for i = 1, #list do
    local index = shard_of[i]
    if index > 0 then
      local shard = shards[index]
      if not shard then
        shard = new_shard(header, index)
        shard.asked[1] = "m"
        shards[index] = shard
      end
      shard.asked[#shard.asked + 1] = list[i][O_DIGEST]
    end
  end
  for _, shard in pairs(shards) do
    read_shard(header, shard)
  end
end

-- Whether the key was used in another partition.
function claims.taken(digest, partition_number)
  local holder = claimed[digest]
  return holder and tonumber(holder) ~= partition_number
end

-- Since when a shard remembers every claim; 0 for no shard.
function claims.since(shard_index)
  return shard_index > 0 and shards[shard_index].since or 0
end

-- The partition that a key is claimed for, if it is.
function claims.holder(digest)
  return claimed[digest]
end

function claims.make(shard_index, digest, partition_number)
  local shard = shards[shard_index]
  if shard and not claimed[digest] then
    claimed[digest] = partition_number
    local made = shard.made
    made[#made + 1], made[#made + 2] = digest, partition_number
  end
end

local function write_shard(header, shard)
  local made = shard.made
  if #made == 0 then
    return
  elseif shard.turned then
    call("UNLINK", shard.former_key)
    call("RENAME", shard.key, shard.former_key)
  end
  if shard.begins then
    made[#made + 1], made[#made + 2] = "m", clock_ms(header)
  end
  partitions.write_list("HSET", shard.key, made)
end

function claims.write(header)
  for _, shard in pairs(shards) do
    write_shard(header, shard)
  end
end
