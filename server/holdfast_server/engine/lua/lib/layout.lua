-- What all files of a script share: the modules that they fill, rows, and arithmetic that stays exact.

-- Loops that every Reserve or Commit runs count by themselves: ipairs calls a function for every element.

-- Modules, filled by the files that follow.
local partitions, trees, journals, draws, windows, limits, settle, due = {}, {}, {}, {}, {}, {}, {}, {}
local claims, due_index = {}, {}
local spending, committing, holding, granting, describing, keeping = {}, {}, {}, {}, {}, {}

local floor, fmod, min, max, insert, remove = math.floor, math.fmod, math.min, math.max, table.insert, table.remove
local call, pack, unpack_message, sub, type = redis.call, cmsgpack.pack, cmsgpack.unpack, string.sub, type
local format, byte, next, struct_pack = string.format, string.byte, next, struct.pack

-- Stands for every list of an answer that has nothing in it. Nobody may append to it: in a library it
-- lives longer than a call.
local NONE = setmetatable({}, {
  __newindex = function()
    error("NONE is shared")
  end,
})

-- Values packed one after another: an array without its header. `{ unpack_message(row) }` makes a table
-- of the right size at once, where an array would grow value by value.
-- Whether a part of a row is still packed is told by asking for its first value: a string has none, and
-- asking for a type is a call.
local function row(values)
  return pack(unpack(values))
end

-- A whole number as text. Lua's own conversion would use an exponent from 1e14 on; redis.call does not.
local function text(number)
  return format("%d", number)
end

-- Exact for 0 <= a < 2^53: a plain division would round before it is cut.
local function floor_div(a, b)
  return (a - fmod(a, b)) / b
end

local function ceil_div(a, b)
  local rest = fmod(a, b)
  local whole = (a - rest) / b
  return rest > 0 and whole + 1 or whole
end

-- The order of bytes, which is that of sorted sets. Lua's own follows the locale of the server.
local function comes_before(a, b)
  for i = 1, min(#a, #b) do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

-- Fills a module when it is first used. Few calls need every file, and each call defines anew what it
-- needs.
local function later(module, fill)
  setmetatable(module, {
    __index = function(_, name)
      setmetatable(module, nil)
      fill()
      return module[name]
    end,
  })
end

-- What an operation answers when it cannot be decided: a reason and its metadata as [name, value, ...].
local function failure(reason, ...)
  return { failed = true, reason, { ... } }
end

-- The answer to a decided operation (see apply.lua), with what its file lists at the end.
local function decided(first_seq, last_seq, outcome, mode, warnings, ...)
  return { first_seq, last_seq, outcome, mode, 0, 0, NONE, NONE, warnings, ... }
end
