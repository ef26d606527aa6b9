-- Reserve and Burn: may this account spend so much, and from which grants? (twin: reserve.py)
--
-- Operation: account, mode, fit, ttl_ms, hold id, feature, and for each line: credit type, amount,
--   minimum.
-- Reserve answers hold id, expires_ms, and for each line six values: credit type, requested, held, debt,
--   unenforced, available after. Burn answers settled lines.
local MODE, FIT, TTL_MS, HOLD, FEATURE, FIRST_LINE = 12, 13, 14, 15, 16, 17

-- The least that enforcement would have to grant of a line. Shadow mode lets all pass that was asked for,
-- so that callers who take what they get do not work less because of it.
local function least(op, i, line)
  return op[FIT] == FIT_UP_TO and op[MODE] == MODE_ENFORCE and op[FIRST_LINE + 3 * i - 1] or line[N_REQUESTED]
end

-- Everything that was asked for, as lines of a hold. Until its draws are planned (N_DRAWS), a line has in
-- N_CAPTURED how much they shall be.
local function asked(op)
  local lines, n = { nil }, 0
  for place = FIRST_LINE, #op, 3 do
    n = n + 1
    lines[n] = { op[place], op[place + 1], op[place + 1], false }
  end
  return lines
end

-- Answers the denial, or lowers amounts to what limits let pass.
local function judge_limits(limited, op, lines, now)
  local found = limits.exceeded(limited, op[FEATURE], "", 1, now)
  for i = 1, #lines do
    local line = lines[i]
    found = limits.exceeded(limited, op[FEATURE], line[N_CREDIT_TYPE], least(op, i, line), now, found)
    line[N_CAPTURED] = limits.remaining(limited, op[FEATURE], line[N_CREDIT_TYPE], line[N_CAPTURED])
  end
  return found
end

-- Adds what is missing of the least that is needed to shortfalls; lowers an amount to what there is.
local function judge_credit(tree, path, line, needed, shortfalls)
  local there = draws.spendable(tree, path, line[N_CREDIT_TYPE])
  if there < needed then
    shortfalls = #shortfalls > 0 and shortfalls or {}
    insert(shortfalls, { line[N_CREDIT_TYPE], there, needed - there })
  end
  if line[N_CAPTURED] > there then
    line[N_CAPTURED] = there
  end
  return shortfalls
end

-- Plans the lines that grants have all of, and answers what is missing for others.
local function judge_credits(tree, path, op, lines)
  local shortfalls = NONE
  for i = 1, #lines do
    local line, list = lines[i], draws.list()
    if draws.from_grants(tree, path, line[N_CREDIT_TYPE], line[N_CAPTURED], list) == 0 then
      line[N_DRAWS] = list
    else
      shortfalls = judge_credit(tree, path, line, least(op, i, line), shortfalls)
    end
  end
  return shortfalls
end

-- Status, then limits, then credits: the order of precedence of the reasons. Answers the reason, 0 for
-- none, and what is to be said of it.
local function judge(tree, path, status, limited, op, lines)
  if status == STATUS_CLOSED then
    return R_ACCOUNT_CLOSED, NONE, NONE, 0
  elseif status == STATUS_FROZEN then
    return R_ACCOUNT_FROZEN, NONE, NONE, 0
  end
  local found = #limited > 0 and judge_limits(limited, op, lines, tree.partition.now)
  if found then
    return R_LIMIT_EXCEEDED, NONE, found[1], found[2]
  end
  local shortfalls = judge_credits(tree, path, op, lines)
  return #shortfalls > 0 and R_INSUFFICIENT_CREDITS or 0, shortfalls, NONE, 0
end

-- Grants, then overdraft; what is missing is left only by shadow mode, as unenforced.
local function plan_line(tree, path, credit_type, amount)
  local list = draws.list()
  local missing = draws.from_grants(tree, path, credit_type, amount, list)
  if missing == 0 then
    return list
  end
  missing = draws.from_overdraft(tree, path, credit_type, missing, list)
  if missing > 0 then
    draws.push(list, path[1], SOURCE_UNENFORCED, missing)
  end
  return list, draws.check_room(tree, credit_type, list)
end

-- Plans the lines that are not planned yet. Answers whether one draws less than was asked for.
local function plan(tree, path, lines)
  local is_partial, failed = false, nil
  for i = 1, #lines do
    local line = lines[i]
    if not line[N_DRAWS] then
      line[N_DRAWS], failed = plan_line(tree, path, line[N_CREDIT_TYPE], line[N_CAPTURED])
      if failed then
        return false, failed
      end
    end
    is_partial = is_partial or line[N_CAPTURED] < line[N_REQUESTED]
    line[N_CAPTURED] = 0
  end
  return is_partial
end

-- Counts the request and its lines; answers what was counted.
local function count(tree, op, lines, limited, warnings)
  local counts, now = {}, tree.partition.now
  limits.count(tree, limited, op[FEATURE], "", 1, now, counts, warnings)
  for i = 1, #lines do
    local line = lines[i]
    limits.count(tree, limited, op[FEATURE], line[N_CREDIT_TYPE], (draws.totals(line[N_DRAWS])), now, counts, warnings)
  end
  return counts
end

-- Books the lines into `target`, counts them, and warns.
local function book(journal, op, kind, target, lines, limited, warnings)
  for i = 1, #lines do
    draws.apply(journal, kind, lines[i][N_CREDIT_TYPE], lines[i][N_DRAWS], target)
  end
  local counts = #limited > 0 and count(journal.tree, op, lines, limited, warnings) or NONE
  limits.warn_balances(journal, warnings)
  return counts
end

-- Judges, then draws into `target`. Answers what the answer begins with, the lines and the counts; no
-- lines for a denial; a failure when nothing can be decided.
local function place(journal, op, kind, target)
  local tree = journal.tree
  local path, status, is_limited = trees.path(tree, op[O_ACCOUNT])
  if status == 0 then
    return failure(R_ACCOUNT_NOT_FOUND, "account", op[O_ACCOUNT])
  elseif partitions.backlogged(tree.partition) then
    return failure(R_LEDGER_BACKLOG)
  end
  local limited = is_limited and limits.settle(tree, path, tree.partition.now) or NONE
  local lines, outcome, warnings = asked(op), GRANTED, {}
  local reason, shortfalls, limit, retry_ms = judge(tree, path, status, limited, op, lines)
  if reason ~= 0 then
    -- Shadow grants all that was asked.
    lines, outcome = asked(op), op[MODE] == MODE_ENFORCE and DENIED or GRANTED_SHADOW
  end
  local reply = {
    0, 0, outcome, op[MODE], reason, retry_ms, shortfalls, limit, warnings,
    nil, nil, nil, nil, nil, nil, nil, nil,
  }
  if outcome == DENIED then
    return reply
  end
  local is_partial, failed = plan(tree, path, lines)
  if failed then
    return failed
  elseif is_partial then
    reply[3] = GRANTED_PARTIAL
  end
  return reply, lines, book(journal, op, kind, target, lines, limited, warnings)
end

local function append_held(reply, state, lines)
  for i = 1, #lines do
    local line, n = lines[i], #reply
    local credit_type = line[N_CREDIT_TYPE]
    reply[n + 1], reply[n + 2] = credit_type, line[N_REQUESTED]
    reply[n + 3], reply[n + 4], reply[n + 5] = draws.totals(line[N_DRAWS])
    reply[n + 6] = draws.available(state, credit_type)
  end
end

local function append_burned(reply, state, lines)
  for i = 1, #lines do
    local credit_type, list = lines[i][N_CREDIT_TYPE], lines[i][N_DRAWS]
    local total, debt, unenforced = draws.totals(list)
    local available = draws.available(state, credit_type)
    local receipt = settle.receipt(credit_type, total, 0, 0, debt, unenforced, 0, available)
    settle.share_burned(receipt, list)
    insert(reply, receipt)
  end
end

function spending.reserve(op, tree)
  local journal = journals.new(tree)
  local reply, lines, counts = place(journal, op, KIND_HOLD, C_HELD)
  if reply.failed then
    return reply
  end
  reply[10], reply[11] = "", 0
  if not lines then
    return reply
  end
  local now, account, hold_id = tree.partition.now, op[O_ACCOUNT], op[HOLD]
  local expires_ms = now + op[TTL_MS]
  trees.set_hold(tree, hold_id, { account, op[FEATURE], op[MODE], now, expires_ms, lines, counts })
  trees.add_due(tree, "h" .. hold_id, expires_ms)
  trees.count_hold(tree, account, 1)
  local entry
  reply[1], reply[2], entry = journals.write(journal, op[O_CONTEXT], account, op[MODE], hold_id)
  reply[10], reply[11] = hold_id, expires_ms
  append_held(reply, trees.account(tree, account), lines)
  return reply, entry
end

function spending.burn(op, tree)
  local journal = journals.new(tree)
  local reply, lines = place(journal, op, KIND_BURN, C_BURNED)
  if not lines then
    return reply
  end
  append_burned(reply, trees.account(tree, op[O_ACCOUNT]), lines)
  local entry
  reply[1], reply[2], entry = journals.write(journal, op[O_CONTEXT], op[O_ACCOUNT], op[MODE])
  return reply, entry
end
