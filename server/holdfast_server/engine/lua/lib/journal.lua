-- Moves credits between buckets and remembers every move as a posting (twin: journal.py).
-- A credit never changes except through here. `write` asserts conservation before anything is kept.
--
-- A posting is the entry that it becomes (constants.lua, E_...): one flat table that is packed as it is.
-- A journal lists each posting with the credits that it changes: [posting, credit, posting, credit, ...].

function journals.new(tree)
  return { nil, nil, tree = tree }
end

function journals.is_empty(journal)
  return journal[1] == nil
end

-- The credit type's state of an account, empty at first.
local function credit_of(state, credit_type)
  local credit = trees.credit(state, credit_type)
  if not credit then
    local n = #state
    credit = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "" }
    state[n + 1], state[n + 2] = credit_type, credit
  end
  return credit
end

local function new_entry(tree, kind, account, credit_type)
  return {
    ENTRY_LAYOUT, kind, tree.tenant, account, credit_type, 0, tree.partition.now,
    0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, "", account, 0, "", "", "",
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
  local posting = new_entry(tree, kind, account, credit_type)
  local credit = credit_type ~= "" and credit_of(trees.account(tree, account), credit_type)
  journal[n + 1], journal[n + 2] = posting, credit
  trees.touch(tree, account)
  return posting, credit
end

-- Where a posting keeps what it changes of a grant: part 2 remaining, 3 held, ... (PART_OF) stands so
-- far behind the answer.
local function place_of(posting, grant)
  local grant_id, n = grant[G_ID], #posting
  for place = E_FIRST_GRANT, n, 6 do
    if posting[place] == grant_id then
      return place - 1
    end
  end
  posting[n + 1], posting[n + 2], posting[n + 3] = grant_id, 0, 0
  posting[n + 4], posting[n + 5], posting[n + 6] = 0, 0, 0
  return n
end

local function change_part(posting, place, grant, part, amount)
  posting[place + part] = posting[place + part] + amount
  if part == G_REMAINING or part == G_HELD then
    grant[part] = grant[part] + amount
  end
end

-- Changes one part of a grant. A grant keeps only what remains and what is held.
function journals.attribute(posting, grant, part, amount)
  change_part(posting, place_of(posting, grant), grant, part, amount)
end

-- Moves an amount between two buckets on the right side of the equation.
function journals.transfer(posting, credit, from, to, amount, grant)
  local from_place, to_place = from + E_DELTA_OF, to + E_DELTA_OF
  credit[from], credit[to] = credit[from] - amount, credit[to] + amount
  posting[from_place], posting[to_place] = posting[from_place] - amount, posting[to_place] + amount
  if grant then
    local place = place_of(posting, grant)
    change_part(posting, place, grant, PART_OF[from], -amount)
    change_part(posting, place, grant, PART_OF[to], amount)
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

-- Asserts that both sides of the equation are equal: of the eight values from a place on.
local function assert_conserved(posting, place)
  local left = posting[place] + posting[place + 1] + posting[place + 2]
  local right = posting[place + 3] + posting[place + 4] + posting[place + 5] + posting[place + 6] + posting[place + 7]
  if left ~= right then
    error("conservation is broken")
  end
end

-- The next posting behind a place that changed the same credit.
local function next_of_credit(journal, place, credit)
  for i = place + 2, #journal, 2 do
    if journal[i + 1] == credit then
      return journal[i]
    end
  end
end

-- The buckets after a posting: the present ones, less what later postings of the journal changed.
local function fill_after(posting, credit, later_posting)
  for bucket = C_GRANTED, C_REVOKED do
    local after = credit[bucket]
    if later_posting then
      after = later_posting[bucket + E_AFTER_OF] - later_posting[bucket + E_DELTA_OF]
    end
    if after < 0 or after > AMOUNT_MAX then
      error("a bucket is out of bounds")
    end
    posting[bucket + E_AFTER_OF] = after
  end
end

-- Gives every posting its version and buckets after, and asserts I1, I2 and I3.
local function seal(journal)
  for i = 1, #journal, 2 do
    local posting, credit = journal[i], journal[i + 1]
    if credit then
      credit[C_VERSION] = credit[C_VERSION] + 1
      posting[E_VERSION] = credit[C_VERSION]
    else
      posting[E_VERSION] = trees.account(journal.tree, posting[E_ACCOUNT])[A_VERSION]
    end
  end
  for i = #journal - 1, 1, -2 do
    local posting, credit = journal[i], journal[i + 1]
    if credit then
      fill_after(posting, credit, next_of_credit(journal, i, credit))
      assert_conserved(posting, E_DELTA)
      assert_conserved(posting, E_AFTER)
    end
  end
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
  seal(journal)
  rare = rare or NONE
  local first, partition = journal[1], journal.tree.partition
  local first_seq = partition.meta[M_SEQ] + 1
  for i = 1, #journal, 2 do
    local entry = journal[i]
    entry[E_AT] = rare.at_ms or entry[E_AT]
    entry[E_FIRST_SEQ] = first_seq
    entry[E_MODE] = mode or 0
    entry[E_HOLD] = hold or ""
    entry[E_ACTOR] = actor or entry[E_ACCOUNT]
    entry[E_CONTEXT] = context
    entry[E_REFUND_OF] = rare.refund_of or ""
    partitions.append(partition, entry)
  end
  return first_seq, partition.meta[M_SEQ], first
end
