#!lua flags=no-writes
-- Reads the outbox of many partitions at once, up to a number of entries in all.
--
-- XREAD limits each stream but not the whole, and its reply costs the reader four times as much: here
-- the entries of a stream are one string, and so are their ids and their lengths.
--
-- KEYS[n]      `out` of one partition and epoch, in the order in which they get their turn
-- ARGV[1]      new entries in all, at most
-- ARGV[n + 1]  the last entry of stream n that is known, `<epoch>-<seq>`
--
-- Returns for each stream that has new entries: n, ids (comma between), lengths in bytes (likewise),
-- and the entries, joined. The known entry comes first where it is still there: the reader sees in
-- the same atomic step that the new entries follow it. What is not in the field `e` is packed, so that
-- it can be kept as evidence.
local left = tonumber(ARGV[1])
local found = {}
for n = 1, #KEYS do
  if left <= 0 then
    break
  end
  local known = ARGV[n + 1]
  local entries = redis.call('XRANGE', KEYS[n], known, '+', 'COUNT', left + 1)
  local new = #entries
  if new > 0 and entries[1][1] == known then
    new = new - 1
  elseif new > left then
    entries[new] = nil
    new = left
  end
  if new > 0 then
    local ids, lengths, packed = {}, {}, {}
    for i = 1, #entries do
      local fields = entries[i][2]
      local entry = fields[2]
      if #fields ~= 2 or fields[1] ~= 'e' then
        entry = cmsgpack.pack(fields)
      end
      ids[i] = entries[i][1]
      lengths[i] = #entry
      packed[i] = entry
    end
    found[#found + 1] = { n, table.concat(ids, ','), table.concat(lengths, ','), table.concat(packed) }
    left = left - new
  end
end
return found
