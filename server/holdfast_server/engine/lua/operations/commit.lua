-- Commit: burn what was used of a hold, open, expired, or lost (twin: World.commit, World.recover).
--
-- Operation: account, hold id, final (1 or 0), ttl_ms, overage, and for each line: credit type, amount
--   or -1.
-- Recover, which is a Commit of a hold that was lost with the store, has one more field at the end:
--   [mode, feature, expires_ms, credit type, held, credit type, held, ...], as its token says.
-- Answers hold state, late (1 or 0), expires_ms, and settled lines.
local FINAL, TTL_MS, OVERAGE, FIRST_LINE = 13, 14, 15, 16

-- What a line of an open hold holds, and what one of an expired hold held.
local function held_in(line)
  return (draws.totals(line[N_DRAWS]))
end

local function held_before(line)
  return line[2]
end

-- The first credit type that a Commit names and the hold does not have.
local function unknown_of(op, lines)
  local known = {}
  for i = 1, #lines do
    known[lines[i][N_CREDIT_TYPE]] = true
  end
  for place = FIRST_LINE, #op, 2 do
    if not known[op[place]] then
      return op[place]
    end
  end
end

-- The actual amount of each line; a final Commit burns as held what it does not name.
local function actual_amounts(op, lines, held_of)
  local amounts, last, named = { nil }, #op - 1, 0
  for i = 1, #lines do
    local place, name = last, lines[i][N_CREDIT_TYPE]
    while place >= FIRST_LINE and op[place] ~= name do
      place = place - 2
    end
    local amount = op[FINAL] == 1 and -1 or 0
    if place >= FIRST_LINE then
      amount, named = op[place + 1], named + 2
    end
    amounts[i] = amount < 0 and held_of(lines[i]) or amount
  end
  local unknown = named <= last - FIRST_LINE + 1 and unknown_of(op, lines)
  return amounts, unknown and failure(R_LINE_UNKNOWN, "credit_type", unknown)
end

local function any_above(amounts, lines, held_of)
  for i = 1, #amounts do
    if amounts[i] > held_of(lines[i]) then
      return true
    end
  end
end

local function rejected(mode, state, expires_ms)
  return { 0, 0, DENIED, mode, R_OVERAGE_REJECTED, 0, NONE, NONE, NONE, state, 0, expires_ms }
end

local function answer(first_seq, last_seq, mode, warnings, state, late, expires_ms, lines)
  return {
    first_seq, last_seq, GRANTED, mode, 0, 0, NONE, NONE, warnings, state, late, expires_ms, unpack(lines),
  }
end

local function sum(amounts)
  local total = 0
  for i = 1, #amounts do
    total = total + amounts[i]
  end
  return total
end

local function plan_lines(op, tree, hold, amounts)
  local plans, lines, keep = { nil }, hold[H_LINES], op[FINAL] == 0
  for i = 1, #lines do
    local plan, failed = settle.plan_line(tree, hold[H_ACCOUNT], lines[i], amounts[i], keep, hold[H_MODE], op[OVERAGE])
    if failed then
      return nil, failed
    end
    plans[i] = plan
  end
  return plans
end

local function finish(op, tree, journal, hold, kind, expires_ms)
  local hold_id = op[O_HOLD]
  if op[FINAL] == 1 then
    settle.close(journal, tree, hold_id, hold, kind)
    return
  end
  if journals.is_empty(journal) then
    journals.posting(journal, kind, hold[H_ACCOUNT], hold[H_LINES][1][N_CREDIT_TYPE])
  end
  hold[H_EXPIRES] = expires_ms
  trees.set_hold(tree, hold_id, hold)
  trees.add_due(tree, "h" .. hold_id, expires_ms)
end

local function commit_open(op, tree, hold)
  local now, mode, account = tree.partition.now, hold[H_MODE], hold[H_ACCOUNT]
  local held = hold[H_LINES]
  local amounts, failed = actual_amounts(op, held, held_in)
  if failed then
    return failed
  elseif op[OVERAGE] == OVERAGE_REJECT and any_above(amounts, held, held_in) then
    return rejected(mode, OPEN, hold[H_EXPIRES])
  end
  local expires_ms = hold[H_EXPIRES]
  if op[FINAL] == 0 and op[TTL_MS] > 0 then
    expires_ms = settle.extended(hold, op[TTL_MS], now)
    if not expires_ms then
      return failure(R_HOLD_MAXIMUM_AGE, "maximum_age_ms", text(HOLD_AGE_MS_MAX))
    end
  end
  local plans
  plans, failed = plan_lines(op, tree, hold, amounts)
  if failed then
    return failed
  end
  local nothing = op[FINAL] == 1 and settle.captured(hold) == 0 and sum(amounts) == 0
  local kind = nothing and KIND_RELEASE or KIND_COMMIT
  local journal, lines, warnings = journals.new(tree), { nil }, {}
  for i = 1, #plans do
    lines[i] = settle.line(journal, account, held[i], plans[i], kind, now)
  end
  settle.count(tree, hold, lines, nothing, now, warnings)
  limits.warn_balances(journal, warnings)
  finish(op, tree, journal, hold, kind, expires_ms)
  local state = op[FINAL] == 0 and OPEN or nothing and RELEASED or COMMITTED
  if op[FINAL] == 1 then
    journals.end_hold(journal, state)
  end
  local first_seq, last_seq, entry = journals.write(journal, op[O_CONTEXT], account, mode, op[O_HOLD])
  if op[FINAL] == 1 then
    settle.remember_end(tree.partition, op[O_HOLD], state, held, first_seq)
    expires_ms = 0
  end
  return answer(first_seq, last_seq, mode, warnings, state, 0, expires_ms, lines), entry
end

-- The hold's expiry gave its request back, so it counts again, once, when something is burned.
local function count_late_request(tree, limited, late, lines, warnings)
  local burned = 0
  for _, receipt in ipairs(lines) do
    burned = burned + receipt[2]
  end
  if burned > 0 and late[T_COUNTED] == 0 then
    late[T_COUNTED] = 1
    limits.count(tree, limited, late[T_FEATURE], "", 1, tree.partition.now, nil, warnings)
  end
end

-- What the hold held went back when it expired, so all of it is drawn anew.
local function commit_late(op, tree, late, kind)
  local now, mode, account = tree.partition.now, late[T_MODE], late[T_ACCOUNT]
  local held = late[T_LINES]
  local amounts, failed = actual_amounts(op, held, held_before)
  if failed then
    return failed
  elseif op[OVERAGE] == OVERAGE_REJECT and any_above(amounts, held, held_before) then
    return rejected(mode, EXPIRED, 0)
  end
  local overflows = {}
  for i, line in ipairs(held) do
    overflows[i], failed = settle.plan_overflow(tree, account, line[1], amounts[i], mode, op[OVERAGE], line[2])
    if failed then
      return failed
    end
  end
  local journal, lines, warnings = journals.new(tree), {}, {}
  local limited = limits.settle(tree, trees.path(tree, account), now)
  for i, line in ipairs(held) do
    local plan = { NONE, NONE, NONE, overflows[i] }
    local receipt = settle.line(journal, account, { line[1], 0, 0, NONE }, plan, kind, now)
    receipt[4] = max(0, amounts[i] - line[2])
    lines[i] = receipt
    line[2], line[3] = max(0, line[2] - amounts[i]), line[3] + amounts[i]
  end
  count_late_request(tree, limited, late, lines, warnings)
  for _, receipt in ipairs(lines) do
    if receipt[2] > 0 then
      limits.count(tree, limited, late[T_FEATURE], receipt[1], receipt[2], now, nil, warnings)
    end
  end
  limits.warn_balances(journal, warnings)
  if journals.is_empty(journal) then
    journals.posting(journal, kind, account, held[1][1])
  end
  local state = op[FINAL] == 0 and EXPIRED or late[T_COUNTED] == 1 and COMMITTED or RELEASED
  -- Nothing else of a lost hold is in the ledger, which lets a hold end once.
  if kind == KIND_RECOVERED_COMMIT then
    journals.end_hold(journal, state)
  end
  local first_seq, last_seq, entry = journals.write(journal, op[O_CONTEXT], account, mode, op[O_HOLD])
  if op[FINAL] == 1 then
    partitions.set_late(tree.partition, op[O_HOLD], false)
    local ended = {}
    for i, line in ipairs(held) do
      ended[i] = { line[1], 0, line[3], {} }
    end
    settle.remember_end(tree.partition, op[O_HOLD], state, ended, first_seq)
  else
    partitions.set_late(tree.partition, op[O_HOLD], late)
  end
  return answer(first_seq, last_seq, mode, warnings, state, 1, 0, lines), entry
end

function committing.commit(op, tree)
  local hold = trees.hold(tree, op[O_HOLD])
  if hold then
    return commit_open(op, tree, hold)
  end
  local late = partitions.late_hold(tree.partition, op[O_HOLD])
  if late then
    return commit_late(op, tree, late, KIND_LATE_COMMIT)
  end
  return settle.gone(tree.partition, op[O_HOLD], true)
end

-- What a token says of a hold, as if it had expired.
local function late_of_token(account, token, now)
  local lines = {}
  for place = 4, #token, 2 do
    insert(lines, { token[place], token[place + 1], 0 })
  end
  return { account, token[2], token[1], lines, max(token[3], now) + LATE_COMMIT_WINDOW_MS, 0 }
end

-- The ledger does not know the hold, and says that its epoch ended before it was placed: it was lost, and
-- with it everything that it did. Whatever is known of it now came after that.
function committing.recover(op, tree)
  local token, partition, account = remove(op), tree.partition, op[O_ACCOUNT]
  local answered, entry = committing.commit(op, tree)
  if answered.special ~= HOLD_MISSING then
    return answered, entry
  elseif not trees.account(tree, account) then
    return failure(R_ACCOUNT_NOT_FOUND, "account", account)
  end
  return commit_late(op, tree, late_of_token(account, token, partition.now), KIND_RECOVERED_COMMIT)
end
