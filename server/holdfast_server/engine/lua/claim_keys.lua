#!lua
-- Claims idempotency keys for partitions, where that cannot be a part of the call that decides: in a
-- cluster, whose calls see one partition and nothing else.
--
-- KEYS: those of one claim shard (lib/claims.lua).
-- ARGV[1], packed: the header that apply.lua takes, without partitions.
-- ARGV[2], packed: [digest, number of the partition as text, digest, number, ...].
-- Answers, packed: since when the shard remembers every claim (ms), then for each digest the partition
-- that it is claimed for now.
-- A key is claimed before its operation is decided, and stays claimed if that fails: it can then still
-- be used in this partition, and in no other. A retry is answered as the first call was.
--- @include layout
--- @include clock
--- @include partition
--- @include claims

local header, asked = unpack_message(ARGV[1]), unpack_message(ARGV[2])
local list, shard_of = {}, {}
for i = 1, #asked, 2 do
  list[#list + 1], shard_of[#shard_of + 1] = { [O_DIGEST] = asked[i] }, 1
end
claims.load(header, list, shard_of)
local found = { claims.since(1) }
for i = 1, #list do
  claims.make(1, asked[2 * i - 1], asked[2 * i])
  found[i + 1] = claims.holder(asked[2 * i - 1])
end
claims.write(header)
return pack(found)
