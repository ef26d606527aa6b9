#!lua
-- Notes in a rebuilt partition's index when something is due in trees that are in the ledger alone, and
-- how far the ledger has been searched for them. Only ever brings a due time forward: what is noted too
-- early is corrected when the tree is installed.
--
-- KEYS: of the partition state, due and rebuilt; then for each tree its hash, and the set that knows it
--   while it is in the store.
-- ARGV[1], packed: the epoch; where the search was: entries from this sequence number on have been read;
--   where it is now.
-- ARGV[2], packed: for each tree [name, number in the set, due time].
-- Answers a code and where the search is, as text:
--   0 NOTED
--   1 ELSEWHERE  nothing; somebody has gone on from there already. A retry is answered this
--   2 FENCED     nothing; the partition may not be touched here (lib/fence.lua)
-- A tree that is in the store has due times of its own; so has one that somebody removed by hand, which
-- comes back only when a person says so.
--- @include layout
--- @include fence
local STATE, DUE, REBUILT, PARTITION_KEYS, TREE_KEYS = 1, 2, 3, 3, 2
local place, list = unpack_message(ARGV[1]), unpack_message(ARGV[2])
local epoch, was, is = place[1], place[2], place[3]

if fences.why(call("HGET", KEYS[STATE], "e"), epoch) then
  return { 2, text(was) }
end
local unread = tonumber(call("HGET", KEYS[REBUILT], "u") or was)
if unread ~= was then
  return { 1, text(unread) }
end
-- A key of a wrong type ends the call here, before anything is written.
call("ZCARD", KEYS[DUE])
for i = 1, #list do
  local tree, hot = KEYS[PARTITION_KEYS + TREE_KEYS * i - 1], KEYS[PARTITION_KEYS + TREE_KEYS * i]
  if call("EXISTS", tree) == 0 and call("SISMEMBER", hot, list[i][2]) == 0 then
    call("ZADD", KEYS[DUE], "LT", text(list[i][3]), list[i][1])
  end
end
call("HSET", KEYS[REBUILT], "u", text(is))
return { 0, text(is) }
