#!lua
-- Decides a batch of operations, in order, and writes everything they change: all or nothing.
--
-- KEYS: for each partition its 6 keys (lib/partition.lua), then for each tree its 2 keys
--   (lib/tree.lua), then the 2 keys that CreateAccount of a root names by index (operations/account.lua),
--   then for each claim shard its 2 keys (lib/claims.lua).
-- ARGV[1], packed: [the epoch of each partition, how long idempotency records are kept (ms), entries that
--   may wait for the ledger, the time that the store should show (ms, lib/clock_store.lua;
--   in a test build: that counts), numbers of the partitions, how many keys
--   stand before those of the claim shards, since when the claims made before this call are remembered
--   (ms, 0 where this call makes them)].
-- ARGV[2], packed: the operations, each a row (lib/layout.lua): [code, partition (1..), tree (1..), tenant, digest of the
--   idempotency key or "", fingerprint, time within the key (ms, 0 for none), 1 if the ledger was
--   asked for the key, 1 if the ledger protects the method, context for the entries, account (the root
--   for ExpireDue), and its own fields, which its file in operations/ lists].
-- ARGV[3], packed: for each operation the claim shard (1..) of its idempotency key, 0 for none.
-- ARGV[4], packed, where the ledger was asked for trees that are not in the store: by the index of each
--   that it does not know, the sequence number up to which it was read.
-- Answers a packed list [flag, answer, flag, answer, ...], one pair per operation; each answer is
--   packed again, so that it can be stored and repeated to the letter:
--   0 FRESH         [first seq, last seq, what the operation's file lists]; decided just now
--   1 REPLAYED      the same, decided before under this key
--   2 FAILED        [reason, [name, value, ...]]; nothing was changed
--   3 LOOK_UP       nothing; the key is too old to be new by itself: ask the ledger, then send again
--   4 REUSED        the fingerprint that the key was used with before; "" in another partition
--   5 HOLD_MISSING  nothing; only the ledger can say what became of the hold
--   6 STALE         nothing; the ledger was read before a refund of the account, or before a grant was revoked
--                   of one to which something goes back: read it again
--   7 COLD          nothing; the tree is not in the store and may be in the ledger: bring it, or learn
--                   there that it does not exist, and send again
--   8 FENCED        why this store may not decide for the partition (lib/fence.lua)
--   9 GRANT_GONE    nothing; only the ledger can say whether the account ever had the grant
-- Reserve, Burn, Commit, Release and Extend decide: behind the sequence numbers they have outcome, mode,
--   reason, retry_after_ms, shortfalls, limit use and warnings, and then what their file lists.
-- A settled line is [credit type, burned, returned, overage, debt, unenforced, held after, available
--   after, and for each grant: grant id, account, burned, returned, expired, revoked].
-- Writes, in this order: outbox entries, due times, trees, the partition's state, idempotency
--   records, claims.
-- A retry with the same key is answered from its record. An error changes nothing: all decisions are
-- made in memory first, and every key that will be written is known to have its type.
--- @include layout
--- @include clock
--- @include fence
--- @include partition
--- @include claims
--- @include tree
--- @include due_index
--- @include journal
--- @include limits
--- @include draw
later(windows, function()
--- @include windows
end)
later(settle, function()
--- @include settle
end)
later(due, function()
--- @include due
end)
later(spending, function()
--- @include reserve
end)
later(committing, function()
--- @include commit
end)
later(holding, function()
--- @include release
end)
later(granting, function()
--- @include grant
end)
later(describing, function()
--- @include account
end)
later(keeping, function()
--- @include other
end)

-- The module and the function of each operation, by its code.
local MODULES = {
  spending, committing, holding, holding, spending, granting, keeping,
  describing, describing, granting, granting, keeping, keeping, committing,
}
local NAMES = {
  "reserve", "commit", "release", "extend", "burn", "refund", "balance",
  "create_account", "update_account", "grant", "revoke", "book_unenforced", "expire_due",
  "recover",
}

-- The function of each operation, by its code, once it was used.
local handlers = {}

local function handler_of(code)
  handlers[code] = MODULES[code][NAMES[code]]
  return handlers[code]
end

-- What this call was given, and what it has loaded: by their indexes, and one after another.
local header, unknown_to_ledger
local loaded_partitions, loaded_fences, loaded_trees
local all_partitions, all_trees

local function partition_of(op)
  local index = op[O_PARTITION]
  local partition, why = loaded_partitions[index], loaded_fences[index]
  if not partition and not why then
    partition, why = partitions.load(header, index)
    loaded_partitions[index], loaded_fences[index] = partition, why
    all_partitions[#all_partitions + 1] = partition
  end
  return partition, why
end

local function tree_of(op, partition)
  local index = op[O_TREE]
  local tree = loaded_trees[index]
  if not tree then
    local module = MODULES[op[O_CODE]]
    tree = trees.load(partition, index, op, module == committing or module == holding)
    loaded_trees[index], all_trees[#all_trees + 1] = tree, tree
    if tree.due_ms > 0 and tree.due_ms <= partition.now then
      tree.held_ended, tree.grants_changed = due.pass_time(tree)
    elseif not tree.accounts[op[O_ACCOUNT]] then
      tree.cold = trees.is_cold(tree, unknown_to_ledger[index] or -1)
    end
  end
  return tree
end

-- A key whose own time lies well within what is remembered cannot have been used and forgotten: neither
-- in this partition nor, going by the claims, in another. What is remembered counts, not the window
-- that is wanted now: that may have been raised. A partition where nothing happens remembers its keys
-- for ever, and the claims of others do not.
local function proves_itself(op, partition, shard)
  local key_ms = op[O_KEY_MS]
  local made_ms = key_ms - CLOCK_SKEW_MS
  return key_ms > 0 and key_ms <= partition.now + CLOCK_SKEW_MS
    and made_ms >= partition.meta[M_FORMER_MS] and made_ms >= header[7] and made_ms >= claims.since(shard)
end

-- What was decided under the key, if that is remembered. Claims are made with records: where they go
-- back as far as the partition's records do, a key that nobody claimed has none.
local function record_of(partition, field, digest, shard)
  local unclaimed = shard > 0 and not claims.holder(digest)
  if unclaimed and claims.since(shard) <= partitions.remembers_since(partition) then
    return nil
  end
  return partitions.record(partition, field)
end

local function decide(op, shard)
  local partition, why = partition_of(op)
  if why then
    return FENCED, why
  end
  local tree = tree_of(op, partition)
  local digest = op[O_DIGEST]
  -- What is past its time never counts: nothing is decided until all of it has ended.
  if tree.behind and op[O_CODE] ~= CODE_EXPIRE_DUE then
    return FAILED, pack({ R_OVERLOADED, { "retry_after_ms", RETRY_AFTER_MS } })
  end
  local field, fingerprint = "k" .. digest, op[O_FINGERPRINT]
  if digest ~= "" then
    local record = record_of(partition, field, digest, shard)
    if record then
      -- All fingerprints of a method are equally long.
      local stored = sub(record, 1, #fingerprint)
      if stored ~= fingerprint then
        return REUSED, stored
      end
      return REPLAYED, sub(record, #fingerprint + 1)
    end
    if claims.taken(digest, partition.number) then
      return REUSED, ""
    end
    if op[O_PROTECTED] == 1 and op[O_CHECKED] == 0 and not proves_itself(op, partition, shard) then
      return LOOK_UP, ""
    end
  end
  if tree.cold then
    return COLD, ""
  end
  local reply, entry = (handlers[op[O_CODE]] or handler_of(op[O_CODE]))(op, tree)
  if reply.failed then
    return FAILED, pack({ reply[1], reply[2] })
  elseif reply.special then
    return reply.special, ""
  end
  local packed = pack(reply)
  if digest ~= "" then
    partitions.remember(partition, field, fingerprint .. packed)
    claims.make(shard, digest, partition.number)
    if entry and op[O_PROTECTED] == 1 then
      entry[E_ANSWER_BYTES], entry[E_ANSWER] = #packed, packed
    end
  end
  return FRESH, packed
end

--- @each_call
header = unpack_message(ARGV[1])
unknown_to_ledger = ARGV[4] and unpack_message(ARGV[4]) or NONE
loaded_partitions, loaded_fences, loaded_trees, all_partitions, all_trees = {}, {}, {}, {}, {}
fences.begin()
local list, shard_of = unpack_message(ARGV[2]), unpack_message(ARGV[3])
for i = 1, #list do
  list[i] = { unpack_message(list[i]) }
end
claims.load(header, list, shard_of)
local answers = {}
for i = 1, #list do
  answers[2 * i - 1], answers[2 * i] = decide(list[i], shard_of[i])
end
partitions.check(all_partitions)
for i = 1, #all_trees do
  trees.check(all_trees[i])
end
for i = 1, #all_partitions do
  partitions.write_outbox(all_partitions[i])
end
for i = 1, #all_trees do
  trees.write(all_trees[i])
end
for i = 1, #all_partitions do
  partitions.write_rest(all_partitions[i])
end
claims.write(header)
return pack(answers)
