#!lua flags=no-writes
-- Reads the outbox of many partitions at once, up to a number of entries in all.
--
-- XREAD limits each stream but not the whole, and a reply of many values costs the reader more than
-- all that is in them: here it is one packed value, and so is the argument.
--
-- KEYS[n]   `out` of one partition and epoch, in the order in which they get their turn
-- ARGV[1]   packed: how many new entries in all, at most, and for each stream the last entry of it
--           that is known, `<epoch>-<seq>`
--
-- Returns a packed list with, for each stream that has new entries: n, their ids (comma between), and
-- the list of entries. The known entry comes first where it is still there: the reader sees in the same
-- atomic step that the new entries follow it. What is not in the field `e` is packed, so that it can be
-- kept as evidence.
local arguments = cmsgpack.unpack(ARGV[1])
local left = arguments[1]
local found = {}
for n = 1, #KEYS do
  if left <= 0 then
    break
  end
  local known = arguments[n + 1]
  local entries = redis.call('XRANGE', KEYS[n], known, '+', 'COUNT', left + 1)
  local new = #entries
  if new > 0 and entries[1][1] == known then
    new = new - 1
  elseif new > left then
    entries[new] = nil
    new = left
  end
  if new > 0 then
    local ids = {}
    for i = 1, #entries do
      local fields = entries[i][2]
      ids[i] = entries[i][1]
      entries[i] = fields[2]
      if #fields ~= 2 or fields[1] ~= 'e' then
        entries[i] = cmsgpack.pack(fields)
      end
    end
    found[#found + 1] = { n, table.concat(ids, ','), entries }
    left = left - new
  end
end
return cmsgpack.pack(found)
