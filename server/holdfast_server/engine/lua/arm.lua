#!lua flags=allow-oom
-- Lets partitions go on, on the server that was looked at and nowhere else.
--
-- KEYS[n]  `state` of a partition, under the name of the epoch in which its hot state begins or began
-- ARGV[1]  the replication id that was seen when it was looked at
-- ARGV[2]  packed: for each partition [epoch that begins, its sequence number, numbers to begin with or "", 1
--          where it is armed for the first time]
--
-- What was kept must be where it was seen, and fenced; what begins anew must not exist yet.
-- Where a partition was armed before, the ledger is asked for what the store does not know: where the root of
-- an account was written down has no entry, so that nobody can tell whether some of that is lost.
-- Returns for each partition 1 where it is armed now, else 0: then it has to be looked at again.
--- @include layout
--- @include fence

local role, replid = fences.server()
local armed = {}

local function is_as_seen(key, seq, numbers)
  local found = call("HMGET", key, "e", "m")
  if numbers ~= "" then
    return not found[1] and not found[2]
  end
  local meta = found[2] and { unpack_message(found[2]) } or { 0 }
  return meta[M_SEQ] == seq and not (found[1] and string.find(found[1], "ARMED$"))
end

for n, wanted in ipairs(unpack_message(ARGV[2])) do
  local epoch, seq, numbers = wanted[1], wanted[2], wanted[3]
  armed[n] = 0
  if role == "master" and replid == ARGV[1] and is_as_seen(KEYS[n], seq, numbers) then
    if numbers ~= "" then
      call("HSET", KEYS[n], "m", numbers)
    end
    if wanted[4] == 0 then
      call("HSET", KEYS[n], "c", text(seq))
    end
    call("HSET", KEYS[n], "f", text(seq), "e", fences.armed(epoch))
    armed[n] = 1
  end
end
return armed
