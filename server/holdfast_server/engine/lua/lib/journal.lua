-- Moves credits between buckets and remembers every move as a posting (twin: journal.py).
-- A credit never changes except through here. `write` asserts conservation before anything is kept.
--
-- A posting is the entry that it becomes (constants.lua, E_...): one flat table whose values are packed in
-- the order in which they stand, numbers in fixed places: cmsgpack would take several times as long.
-- A journal lists each posting with the credits that it changes: [posting, credit, posting, credit, ...].

-- Only one journal is written at a time, so that all share a table: one that grows is made anew.
local current = {}

function journals.new(tree)
  for i = #current, 1, -1 do
    current[i] = nil
  end
  current.tree = tree
  return current
end

function journals.is_empty(journal)
  return journal[1] == nil
end

-- The state of a credit type that the account never had, empty.
local function new_credit(state, credit_type)
  local credit, n = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "" }, #state
  state[n + 1], state[n + 2] = credit_type, credit
  return credit
end

local function new_entry(tree, kind, account, credit_type)
  return {
    ENTRY_LAYOUT, kind, 0, 0, 0, tree.partition.now, 0,
    0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0,
    tree.tenant, account, credit_type, account, "", "", "", "",
    -- Room for one grant: a table that grows is made anew.
    nil, nil, nil, nil, nil, nil,
  }
end

-- The posting of a kind on an account's credits, and the credits; an entry about the account itself
-- has the credit type "" and false for credits.
function journals.posting(journal, kind, account, credit_type)
  local n = #journal
  for i = 1, n, 2 do
    local posting = journal[i]
    if posting[E_KIND] == kind and posting[E_ACCOUNT] == account and posting[E_CREDIT_TYPE] == credit_type then
      return posting, journal[i + 1]
    end
  end
  local tree = journal.tree
  local posting, state = new_entry(tree, kind, account, credit_type), trees.account(tree, account)
  local credit = credit_type ~= "" and (trees.credit(state, credit_type) or new_credit(state, credit_type))
  journal[n + 1], journal[n + 2] = posting, credit
  tree.touched[account] = state
  return posting, credit
end

-- Where a posting keeps what it changes of a grant: part 2 remaining, 3 held, ... stands so
-- far behind the answer.
local function place_of(posting, grant)
  local grant_id, n = grant[G_ID], #posting
  for place = E_FIRST_GRANT, n, 6 do
    if posting[place] == grant_id then
      return place - 1
    end
  end
  posting[n + 1], posting[n + 2], posting[n + 3], posting[n + 4], posting[n + 5], posting[n + 6] =
    grant_id, 0, 0, 0, 0, 0
  return n
end

-- Changes one part of a grant. A grant keeps only what remains and what is held.
function journals.attribute(posting, grant, part, amount)
  local place = place_of(posting, grant) + part
  posting[place] = posting[place] + amount
  if part <= G_HELD then
    grant[part] = grant[part] + amount
  end
end

-- Moves an amount between two buckets on the right side of the equation.
function journals.transfer(posting, credit, from, to, amount, grant)
  local from_place, to_place = from + E_DELTA_OF, to + E_DELTA_OF
  credit[from], credit[to] = credit[from] - amount, credit[to] + amount
  posting[from_place], posting[to_place] = posting[from_place] - amount, posting[to_place] + amount
  if grant then
    local place, from_part, to_part = place_of(posting, grant), from - PART_BEHIND, to - PART_BEHIND
    posting[place + from_part] = posting[place + from_part] - amount
    posting[place + to_part] = posting[place + to_part] + amount
    if from_part <= G_HELD then
      grant[from_part] = grant[from_part] - amount
    end
    if to_part <= G_HELD then
      grant[to_part] = grant[to_part] + amount
    end
  end
end

-- Adds an amount on both sides; a negative amount takes it back.
function journals.book(posting, credit, source, target, amount)
  local source_place, target_place = source + E_DELTA_OF, target + E_DELTA_OF
  credit[source], credit[target] = credit[source] + amount, credit[target] + amount
  posting[source_place], posting[target_place] = posting[source_place] + amount, posting[target_place] + amount
end

-- How much the left side of the equation can grow and stay an exact integer.
function journals.room(state, credit_type)
  local credit = trees.credit(state, credit_type)
  if not credit then
    return AMOUNT_MAX
  end
  local promised = 0
  for _, grant in ipairs(trees.pending(credit)) do
    promised = promised + grant[G_REMAINING]
  end
  return AMOUNT_MAX - credit[C_GRANTED] - credit[C_DEBT] - credit[C_UNENFORCED] - promised
end

-- The next posting behind a place that changed the same credit.
local function next_of_credit(journal, place, credit)
  for i = place + 2, #journal, 2 do
    if journal[i + 1] == credit then
      return journal[i]
    end
  end
end

-- Keeps the buckets after a posting, and asserts that each is in bounds (I2, I3), and that both sides of
-- the equation are equal (I1): of the buckets, and of what the posting changed.
local function seal(posting, granted, debt, unenforced, available, held, burned, expired, revoked)
  if min(granted, debt, unenforced, available, held, burned, expired, revoked) < 0
    or max(granted, debt, unenforced, available, held, burned, expired, revoked) > AMOUNT_MAX then
    error("a bucket is out of bounds")
  end
  if granted + debt + unenforced ~= available + held + burned + expired + revoked
    or posting[E_DELTA] + posting[E_DELTA + 1] + posting[E_DELTA + 2] ~= posting[E_DELTA + 3] + posting[E_DELTA + 4]
      + posting[E_DELTA + 5] + posting[E_DELTA + 6] + posting[E_DELTA + 7] then
    error("conservation is broken")
  end
  posting[E_AFTER], posting[E_AFTER + 1], posting[E_AFTER + 2], posting[E_AFTER + 3] =
    granted, debt, unenforced, available
  posting[E_AFTER + 4], posting[E_AFTER + 5], posting[E_AFTER + 6], posting[E_AFTER + 7] =
    held, burned, expired, revoked
end

-- The buckets before a posting, which are those after the one that came before it.
local function before(posting)
  local buckets = {}
  for i = 0, 7 do
    buckets[i + 1] = posting[E_AFTER + i] - posting[E_DELTA + i]
  end
  return unpack(buckets)
end

-- Seals all postings, the last first: the buckets are now as they are after the last one of a credit.
local function seal_all(journal, n)
  for i = n - 1, 1, -2 do
    local posting, credit = journal[i], journal[i + 1]
    local later_posting = credit and i < n - 1 and next_of_credit(journal, i, credit)
    if later_posting then
      seal(posting, before(later_posting))
    elseif credit then
      seal(posting, unpack(credit, C_GRANTED, C_REVOKED))
    end
  end
end

-- The version of what a posting is about: of a credit, which is raised, or of the account itself.
local function next_version(tree, posting, credit)
  if not credit then
    return trees.account(tree, posting[E_ACCOUNT])[A_VERSION]
  end
  local version = credit[C_VERSION] + 1
  credit[C_VERSION] = version
  return version
end

local NUMBERS = ">BBBBi8i8i8" .. string.rep("i8", 16) .. "BI4I4"
-- How the values of grants are packed, by how many they are.
local grant_formats = setmetatable({}, {
  __index = function(known, values)
    known[values] = ">" .. string.rep("c16i8i8i8i8i8", values / 6)
    return known[values]
  end,
})

-- Texts are joined, not packed: that copies them at once, and not byte by byte.
function journals.packed(entry)
  local grants = #entry - E_ANSWER
  return struct_pack(NUMBERS, unpack(entry, 1, E_ANSWER_BYTES))
    .. entry[E_TENANT] .. "\0" .. entry[E_ACCOUNT] .. "\0" .. entry[E_CREDIT_TYPE] .. "\0" .. entry[E_ACTOR] .. "\0"
    .. entry[E_REFUND_OF] .. "\0" .. entry[E_HOLD] .. entry[E_CONTEXT] .. entry[E_ANSWER]
    .. (grants > 0 and struct_pack(grant_formats[grants], unpack(entry, E_FIRST_GRANT)) or "")
end

-- Says in the first entry how the hold ended that the journal is about.
function journals.end_hold(journal, state)
  journal[1][E_ENDS_HOLD] = state
end

-- Seals a journal and appends its postings to the partition's outbox.
-- All of its entries share a context and, where they have them, who acted, if not the account itself, the
-- mode and the hold; `rare` may have refund_of, and at_ms: when it happened, unless that is now.
-- Answers the first and last sequence number, and the first entry, which takes the answer.
function journals.write(journal, context, actor, mode, hold, rare)
  local tree, n = journal.tree, #journal
  seal_all(journal, n)
  local partition = tree.partition
  local entries, first_seq = partition.entries, partition.meta[M_SEQ] + 1
  for i = 1, n, 2 do
    local entry = journal[i]
    entry[E_VERSION] = next_version(tree, entry, journal[i + 1])
    entry[E_FIRST_SEQ], entry[E_CONTEXT_BYTES], entry[E_CONTEXT] = first_seq, #context, context
    entry[E_ACTOR], entry[E_MODE] = actor or entry[E_ACTOR], mode or 0
    if hold then
      entry[E_HOLD_BYTES], entry[E_HOLD] = #hold, hold
    end
    if rare then
      entry[E_AT], entry[E_REFUND_OF] = rare.at_ms or entry[E_AT], rare.refund_of or ""
    end
    entries[#entries + 1] = entry
  end
  local last_seq = first_seq + n / 2 - 1
  partition.meta[M_SEQ] = last_seq
  return first_seq, last_seq, journal[1]
end
