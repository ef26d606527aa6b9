-- Grant, Revoke and Refund: credits given, taken back and given back (twin: grants.py).
--
-- Grant: account, grant id, credit type, amount, priority, effective_ms, expires_ms, paid, repay;
--   answers [grant id, debt repaid, buckets].
-- Revoke: account, grant id, credit type of a grant that only the ledger knows or ""; answers [revoked, still
--   held, buckets].
-- Refund: account, as_of_seq, transaction, goodwill_ttl_ms, parts [[account, credit type, source,
--   amount, priority, expires_ms, paid, effective_ms, revoked, new grant id], ...];
--   answers [[credit type, refunded, debt, unenforced, available after, shares], ...].
local ACCOUNT, GRANT, CREDIT_TYPE, AMOUNT, PRIORITY, EFFECTIVE, EXPIRES, PAID, REPAY =
  11, 12, 13, 14, 15, 16, 17, 18, 19
local AS_OF_SEQ, REFUND_OF, GOODWILL_TTL_MS, PARTS = 12, 13, 14, 15

local function buckets(credit)
  local list = {}
  for b = 1, 8 do
    list[b] = credit[b + 1]
  end
  return list
end

-- Grants that are effective, and those that will be.
local function grants_count(credit)
  return #credit - C_FIRST_GRANT + 1 + #trees.pending(credit)
end

local function check_grant(tree, path, op, now)
  for _, account in ipairs(path) do
    if trees.account(tree, account)[A_STATUS] == STATUS_CLOSED then
      return failure(R_ACCOUNT_CLOSED, "account", path[1])
    end
  end
  if op[EXPIRES] > 0 and op[EXPIRES] <= max(now, op[EFFECTIVE]) then
    return failure(R_FIELD_INVALID, "field", "terms.expires_at")
  end
  local state = trees.account(tree, path[1])
  local credit = trees.credit(state, op[CREDIT_TYPE])
  if credit and grants_count(credit) >= GRANTS_MAX then
    return failure(R_ACCOUNT_FULL, "field", "grants", "maximum", text(GRANTS_MAX))
  end
  -- Debt that the grant repays makes room for it.
  local repaid = credit and op[REPAY] == 1 and op[EFFECTIVE] <= now and draws.settled(credit, SOURCE_DEBT) or 0
  if op[AMOUNT] - min(op[AMOUNT], repaid) > journals.room(state, op[CREDIT_TYPE]) then
    return failure(R_BALANCE_LIMIT_EXCEEDED, "credit_type", op[CREDIT_TYPE])
  end
end

function granting.grant(op, tree)
  local now, account, credit_type = tree.partition.now, op[ACCOUNT], op[CREDIT_TYPE]
  local path = trees.path(tree, account)
  if #path == 0 then
    return failure(R_ACCOUNT_NOT_FOUND, "account", account)
  end
  local failed = check_grant(tree, path, op, now)
  if failed then
    return failed
  end
  local effective_ms = op[EFFECTIVE] > 0 and op[EFFECTIVE] or now
  local grant = { op[GRANT], op[AMOUNT], 0, op[PRIORITY], op[EXPIRES], op[PAID], effective_ms, 0, op[REPAY] }
  local journal, repaid = journals.new(tree), 0
  local _, credit = journals.posting(journal, KIND_GRANT, account, credit_type)
  if effective_ms > now then
    insert(trees.pending(credit), grant)
    trees.add_due(tree, draws.due_member(tree, "e", grant, account, credit_type), effective_ms)
  else
    repaid = due.start_grant(journal, account, credit_type, grant, KIND_GRANT)
  end
  local first_seq, last_seq, entry = journals.write(journal, op[O_CONTEXT])
  return { first_seq, last_seq, op[GRANT], repaid, buckets(credit) }, entry
end

local function revoke_effective(journal, account, credit_type, credit, grant)
  local taken = grant[G_REMAINING]
  grant[G_REVOKED] = 1
  credit[C_TOPPED] = max(0, credit[C_TOPPED] - taken)
  local posting = journals.posting(journal, KIND_REVOKE, account, credit_type)
  journals.transfer(posting, credit, C_AVAILABLE, C_REVOKED, taken, grant)
  draws.forget(journal.tree, account, credit_type, credit, grant)
  return taken, grant[G_HELD]
end

local function revoke_pending(journal, account, credit_type, credit, grant, index)
  remove(trees.pending(credit), index)
  trees.remove_due(journal.tree, draws.due_member(journal.tree, "e", grant, account, credit_type))
  local taken = grant[G_REMAINING]
  local posting = journals.posting(journal, KIND_REVOKE, account, credit_type)
  journals.book(posting, credit, C_GRANTED, C_REVOKED, taken)
  journals.attribute(posting, grant, C_REVOKED - PART_BEHIND, taken)
  return taken, 0
end

-- Nothing is left to take. The entry says that the grant was revoked: a refund asks the ledger for that.
local function revoke_spent(journal, account, credit_type, grant_id)
  local posting, credit = journals.posting(journal, KIND_REVOKE, account, credit_type)
  journals.attribute(posting, { grant_id }, C_REVOKED - PART_BEHIND, 0)
  return credit
end

-- What was taken, what is still held, and the credit; nothing where the account has no such grant any more.
local function revoke_open(journal, account, state, grant_id)
  for place = A_FIRST_CREDIT, #state, 2 do
    local credit_type, credit = state[place], trees.credit_at(state, place + 1)
    local grant = draws.find_grant(credit, grant_id)
    local pending, index = due.find_pending(credit, grant_id)
    if grant then
      local taken, held = revoke_effective(journal, account, credit_type, credit, grant)
      return taken, held, credit
    elseif pending then
      local taken, held = revoke_pending(journal, account, credit_type, credit, pending, index)
      return taken, held, credit
    end
  end
end

function granting.revoke(op, tree)
  local account, journal = op[ACCOUNT], journals.new(tree)
  local state = trees.account(tree, account)
  if not state then
    return failure(R_ACCOUNT_NOT_FOUND, "account", account)
  end
  local taken, held, credit = revoke_open(journal, account, state, op[GRANT])
  if not credit and op[CREDIT_TYPE] == "" then
    return { special = GRANT_GONE }
  elseif not credit then
    taken, held, credit = 0, 0, revoke_spent(journal, account, op[CREDIT_TYPE], op[GRANT])
  end
  local first_seq, last_seq, entry = journals.write(journal, op[O_CONTEXT])
  state[A_REFUND_SEQ] = last_seq
  return { first_seq, last_seq, taken, held, buckets(credit) }, entry
end

-- Burned credits become a new grant's; of the one that paid they stay burned. Parts with the same new id
-- share one grant.
local function refund_anew(journal, posting, credit, part, amount, expires_ms, now)
  local grant = draws.find_grant(credit, part[10])
  if not grant then
    grant = { part[10], 0, 0, 0, expires_ms, 0, now, 0, 1 }
    draws.insert_grant(credit, grant)
    if expires_ms > 0 then
      local member = draws.due_member(journal.tree, "g", grant, posting[E_ACCOUNT], posting[E_CREDIT_TYPE])
      trees.add_due(journal.tree, member, expires_ms)
    end
  end
  journals.transfer(posting, credit, C_BURNED, C_AVAILABLE, amount)
  journals.attribute(posting, grant, C_AVAILABLE - PART_BEHIND, amount)
end

-- How much of a part that no grant paid is forgiven, how much is owed no longer, and what neither takes: debt
-- that was repaid meanwhile cannot shrink.
local function off_debt(part, unenforced, debt)
  local forgiven = part[3] == SOURCE_UNENFORCED and min(part[4], unenforced) or 0
  local owed = min(part[4] - forgiven, debt)
  return forgiven, owed, part[4] - forgiven - owed
end

-- The rest comes back as a new grant without expiry.
local function refund_debt(journal, posting, credit, part, line, now)
  local forgiven, owed, rest =
    off_debt(part, draws.settled(credit, SOURCE_UNENFORCED), draws.settled(credit, SOURCE_DEBT))
  if forgiven > 0 then
    journals.book(posting, credit, C_UNENFORCED, C_BURNED, -forgiven)
    line[4] = line[4] + forgiven
  end
  if owed > 0 then
    journals.book(posting, credit, C_DEBT, C_BURNED, -owed)
    line[3] = line[3] + owed
  end
  if rest > 0 then
    refund_anew(journal, posting, credit, part, rest, 0, now)
    insert(line[6], { part[10], part[1], 0, rest, 0, 0 })
  end
end

-- The bucket that gets back what a grant paid; nil where goodwill makes a new grant of it.
local function target_of(op, part, grant, now)
  if (grant and grant[G_REVOKED] or part[9]) == 1 then
    return C_REVOKED
  elseif part[6] == 0 or part[6] > now then
    return C_AVAILABLE
  end
  return op[GOODWILL_TTL_MS] == 0 and C_EXPIRED or nil
end

local function refund_grant(journal, posting, credit, op, part, line, now)
  local account, amount = part[1], part[4]
  local grant = draws.find_grant(credit, part[3])
  local target = target_of(op, part, grant, now)
  if not target then
    refund_anew(journal, posting, credit, part, amount, now + op[GOODWILL_TTL_MS], now)
    insert(line[6], { part[10], account, 0, amount, 0, 0 })
    return
  end
  local ghost = grant or { part[3], 0, 0, part[5], part[6], part[7], part[8], part[9], 1 }
  if target == C_AVAILABLE then
    if not grant then
      draws.insert_grant(credit, ghost)
    end
    if ghost[G_EXPIRES] > 0 then
      local member = draws.due_member(journal.tree, "g", ghost, account, posting[E_CREDIT_TYPE])
      trees.add_due(journal.tree, member, ghost[G_EXPIRES])
    end
  end
  journals.transfer(posting, credit, C_BURNED, target, amount, ghost)
  local share = { part[3], account, 0, 0, 0, 0 }
  share[target == C_AVAILABLE and 4 or target == C_EXPIRED and 5 or 6] = amount
  insert(line[6], share)
end

-- The grant that a part needs to be open, nil where it needs none. `left` loses what the part takes off.
local function needed_grant(op, part, credit, left, now)
  if draws.BUCKET_OF[part[3]] then
    local forgiven, owed, rest = off_debt(part, left.unenforced, left.debt)
    left.unenforced, left.debt = left.unenforced - forgiven, left.debt - owed
    return rest > 0 and part[10] or nil
  end
  local target = target_of(op, part, draws.find_grant(credit, part[3]), now)
  return not target and part[10] or target == C_AVAILABLE and part[3] or nil
end

-- What parts take off a credit's debt and unenforced use, before the first; and the grants that they open.
local function before_parts(credit)
  return {
    unenforced = draws.settled(credit, SOURCE_UNENFORCED),
    debt = draws.settled(credit, SOURCE_DEBT),
    grants = grants_count(credit),
    opened = {},
  }
end

-- Refuses a refund that would open more grants than an account may have.
local function check_grants(op, tree, now)
  local known = {}
  for _, part in ipairs(op[PARTS]) do
    local state = trees.account(tree, part[1])
    local credit = state and trees.credit(state, part[2])
    if credit then
      local left = known[credit] or before_parts(credit)
      known[credit] = left
      local grant = needed_grant(op, part, credit, left, now)
      if grant and not left.opened[grant] and not draws.find_grant(credit, grant) then
        left.opened[grant], left.grants = true, left.grants + 1
        if left.grants > GRANTS_MAX then
          return failure(R_ACCOUNT_FULL, "field", "grants", "maximum", text(GRANTS_MAX))
        end
      end
    end
  end
end

local function refund_part(journal, op, part, line, now)
  local posting, credit = journals.posting(journal, KIND_REFUND, part[1], part[2])
  line[2] = line[2] + part[4]
  if draws.BUCKET_OF[part[3]] then
    refund_debt(journal, posting, credit, part, line, now)
  else
    refund_grant(journal, posting, credit, op, part, line, now)
  end
end

-- Whether the ledger was read before something that changes what may go back, or where to. A grant that was
-- revoked may be forgotten here by now.
local function is_stale(tree, op)
  local newest = trees.account(tree, op[ACCOUNT])[A_REFUND_SEQ]
  for _, part in ipairs(op[PARTS]) do
    newest = max(newest, trees.account(tree, part[1])[A_REFUND_SEQ])
  end
  return newest > op[AS_OF_SEQ]
end

function granting.refund(op, tree)
  local now, account = tree.partition.now, op[ACCOUNT]
  local state = trees.account(tree, account)
  if not state then
    return failure(R_ACCOUNT_NOT_FOUND, "account", account)
  elseif is_stale(tree, op) then
    return { special = STALE }
  end
  local failed = check_grants(op, tree, now)
  if failed then
    return failed
  end
  local journal, lines, by_type = journals.new(tree), {}, {}
  for _, part in ipairs(op[PARTS]) do
    local line = by_type[part[2]]
    if not line then
      line = { part[2], 0, 0, 0, 0, {} }
      by_type[part[2]] = line
      insert(lines, line)
    end
    refund_part(journal, op, part, line, now)
  end
  for _, line in ipairs(lines) do
    line[5] = draws.available(state, line[1])
  end
  local first_seq, last_seq, entry =
    journals.write(journal, op[O_CONTEXT], account, nil, nil, { refund_of = op[REFUND_OF] })
  state[A_REFUND_SEQ] = last_seq
  trees.touch(tree, account)
  return { first_seq, last_seq, lines }, entry
end
