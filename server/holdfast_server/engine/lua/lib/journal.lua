-- Moves credits between buckets and remembers every move as a posting (twin: journal.py).
-- A credit never changes except through here. `seal` asserts conservation before anything is kept.

function journals.new(tree)
  return { tree = tree, postings = {} }
end

local function new_credit()
  return { 0, 0, 0, 0, 0, 0, 0, 0, 0, {}, {}, 0, 0, 0 }
end

-- The credit type's state of an account, empty at first.
function journals.credit(state, credit_type)
  local credit = state[A_CREDITS][credit_type]
  if not credit then
    credit = new_credit()
    state[A_CREDITS][credit_type] = credit
  end
  return credit
end

function journals.posting(journal, kind, account, credit_type)
  local postings = journal.postings
  for i = 1, #postings do
    local posting = postings[i]
    if posting[P_KIND] == kind and posting[P_ACCOUNT] == account and posting[P_CREDIT_TYPE] == credit_type then
      return posting
    end
  end
  local state = trees.account(journal.tree, account)
  local credit = credit_type ~= "" and journals.credit(state, credit_type) or false
  local posting = { kind, account, credit_type, { 0, 0, 0, 0, 0, 0, 0, 0 }, {}, credit, 0, false }
  postings[#postings + 1] = posting
  trees.touch(journal.tree, account)
  return posting
end

local function change_bucket(posting, bucket, amount)
  local credit, delta = posting[P_CREDIT], posting[P_DELTA]
  credit[bucket] = credit[bucket] + amount
  delta[bucket - 1] = delta[bucket - 1] + amount
end

-- What a posting changes of a grant.
local function row_of(posting, grant)
  local rows, grant_id = posting[P_GRANTS], grant[G_ID]
  for i = 1, #rows do
    if rows[i][1] == grant_id then
      return rows[i]
    end
  end
  local row = { grant_id, 0, 0, 0, 0, 0 }
  rows[#rows + 1] = row
  return row
end

local function change_part(row, grant, part, amount)
  row[part] = row[part] + amount
  if part == G_REMAINING or part == G_HELD then
    grant[part] = grant[part] + amount
  end
end

-- Changes one part of a grant. A grant keeps only what remains and what is held.
function journals.attribute(posting, grant, part, amount)
  change_part(row_of(posting, grant), grant, part, amount)
end

-- Moves an amount between two buckets on the right side of the equation.
function journals.transfer(posting, from, to, amount, grant)
  change_bucket(posting, from, -amount)
  change_bucket(posting, to, amount)
  if grant then
    local row = row_of(posting, grant)
    change_part(row, grant, PART_OF[from], -amount)
    change_part(row, grant, PART_OF[to], amount)
  end
end

-- Adds an amount on both sides; a negative amount takes it back.
function journals.book(posting, source, target, amount)
  change_bucket(posting, source, amount)
  change_bucket(posting, target, amount)
end

-- How much the left side of the equation can grow and stay an exact integer.
function journals.room(state, credit_type)
  local credit = state[A_CREDITS][credit_type]
  if not credit then
    return AMOUNT_MAX
  end
  local promised = 0
  for _, grant in ipairs(credit[C_PENDING]) do
    promised = promised + grant[G_REMAINING]
  end
  return AMOUNT_MAX - credit[C_GRANTED] - credit[C_DEBT] - credit[C_UNENFORCED] - promised
end

local function assert_conserved(figures, first)
  local left = figures[first] + figures[first + 1] + figures[first + 2]
  local right = figures[first + 3] + figures[first + 4] + figures[first + 5] + figures[first + 6] + figures[first + 7]
  assert(left == right, "conservation is broken")
end

local function assert_bounds(figures)
  for i = 1, 8 do
    if figures[i] < 0 or figures[i] > AMOUNT_MAX then
      error("a bucket is out of bounds")
    end
  end
end

-- The buckets of a credit as an entry shows them; an entry about an account has none.
local function buckets_of(credit)
  if not credit then
    return { 0, 0, 0, 0, 0, 0, 0, 0 }
  end
  return {
    credit[C_GRANTED], credit[C_DEBT], credit[C_UNENFORCED], credit[C_AVAILABLE],
    credit[C_HELD], credit[C_BURNED], credit[C_EXPIRED], credit[C_REVOKED],
  }
end

local function minus(buckets, delta)
  local before = {}
  for b = 1, 8 do
    before[b] = buckets[b] - delta[b]
  end
  return before
end

-- Several postings may touch one credit: walks back from its present buckets.
local function fill_after(postings)
  local present = {}
  for i = #postings, 1, -1 do
    local posting = postings[i]
    local credit = posting[P_CREDIT]
    local after = present[credit] or buckets_of(credit)
    posting[P_AFTER] = after
    if i > 1 then
      present[credit] = minus(after, posting[P_DELTA])
    end
  end
end

-- Gives every posting its version and buckets after, and asserts I1, I2 and I3.
function journals.seal(journal)
  local postings = journal.postings
  for i = 1, #postings do
    local posting = postings[i]
    local credit = posting[P_CREDIT]
    if credit then
      credit[C_VERSION] = credit[C_VERSION] + 1
      posting[P_VERSION] = credit[C_VERSION]
    else
      posting[P_VERSION] = trees.account(journal.tree, posting[P_ACCOUNT])[A_VERSION]
    end
  end
  fill_after(postings)
  for i = 1, #postings do
    local posting = postings[i]
    assert_conserved(posting[P_DELTA], 1)
    assert_conserved(posting[P_AFTER], 1)
    assert_bounds(posting[P_AFTER])
  end
end

-- Seals a journal and turns its postings into entries of the partition's outbox.
-- `facts` are what all of its entries share: mode, hold, actor, ends_hold, context, refund_of, and when
-- it happened, unless that is now.
-- Answers the first and last sequence number, and the first entry, which takes the answer.
function journals.write(journal, facts)
  journals.seal(journal)
  local tree = journal.tree
  local partition = tree.partition
  local first_seq = partition.meta[M_SEQ] + 1
  local first
  local postings = journal.postings
  for i = 1, #postings do
    local posting = postings[i]
    local entry = {
      1, posting[P_KIND], tree.tenant, posting[P_ACCOUNT], posting[P_CREDIT_TYPE], posting[P_VERSION],
      facts.at_ms or partition.now, posting[P_DELTA], posting[P_AFTER], posting[P_GRANTS], first_seq, facts.mode or 0,
      facts.hold or "", facts.actor or posting[P_ACCOUNT], i == 1 and facts.ends_hold or 0,
      facts.context or "", "", facts.refund_of or "",
    }
    first = first or entry
    partitions.append(partition, entry)
  end
  return first_seq, partition.meta[M_SEQ], first
end
