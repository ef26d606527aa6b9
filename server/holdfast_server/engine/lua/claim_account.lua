#!lua
-- Claims an account's name for a tree, before the account is created below a parent.
--
-- KEYS[1] where the account's root is written down; KEYS[2] the tree that has the account as its root;
--   KEYS[3] the state of the partition of both; KEYS[4] what is there while the claim is new.
-- ARGV[1] the account; ARGV[2] the root it is claimed for; ARGV[3] the root it was claimed for before
--   and does not exist in, or ""; ARGV[4] the sequence number up to which the ledger was read that does
--   not know the name, -1 where it was not asked; ARGV[5] for how long a claim is new (ms); ARGV[6] the
--   epoch of the partition.
-- Answers why nothing may be claimed here (lib/fence.lua), or "", and the root that holds the claim now:
--   ARGV[2] when the claim was made or stands already, the account itself when it is a root, another root
--   when the name is taken; "" when the ledger may know the name and has to be asked.
-- The account is created by a call of its own, in the partition of its tree: whoever claimed the name a
-- moment ago may be about to. So a new claim is nobody else's, whether the account exists or not.
-- A retry is answered as the first call was.
--- @include layout
--- @include fence
local account, root, abandoned = ARGV[1], ARGV[2], ARGV[3]
local state = call("HMGET", KEYS[3], "e", "c")
local why = fences.why(state[1], tonumber(ARGV[6]))
if why then
  return { why, "" }
elseif call("HEXISTS", KEYS[2], "a" .. account) == 1 then
  return { "", account }
end
local claimed = call("GET", KEYS[1])
if claimed and claimed ~= root and (claimed ~= abandoned or call("EXISTS", KEYS[4]) == 1) then
  return { "", claimed }
end
local stored = call("EXISTS", KEYS[2]) == 1
if not claimed and not stored and tonumber(state[2] or "-1") > tonumber(ARGV[4]) then
  return { "", "" }
end
call("SET", KEYS[1], root)
call("SET", KEYS[4], "", "PX", ARGV[5])
return { "", root }
