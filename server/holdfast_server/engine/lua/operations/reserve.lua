-- Reserve and Burn: may this account spend so much, and from which grants? (twin: reserve.py)
--
-- Operation: account, mode, fit, ttl_ms, hold id, feature, lines [[credit type, amount, minimum], ...].
-- Reserve answers [decision, hold id, held lines, expires_ms, warnings];
-- Burn answers [decision, settled lines, warnings].
local ACCOUNT, MODE, FIT, TTL_MS, HOLD, FEATURE, LINES = 11, 12, 13, 14, 15, 16, 17

-- The least that enforcement would have to grant. Shadow mode lets all pass that was asked for, so
-- that callers who take what they get do not work less because of it.
local function least(line, op)
  return op[FIT] == FIT_UP_TO and op[MODE] == MODE_ENFORCE and line[3] or line[2]
end

local function judge_status(tree, path)
  local frozen = false
  for i = 1, #path do
    local account = path[i]
    local status = trees.account(tree, account)[A_STATUS]
    if status == STATUS_CLOSED then
      return R_ACCOUNT_CLOSED
    end
    frozen = frozen or status == STATUS_FROZEN
  end
  return frozen and R_ACCOUNT_FROZEN
end

-- Answers the denial, or the amounts that limits let pass.
local function judge_limits(limited, op, now)
  local found = limits.exceeded(limited, op[FEATURE], "", 1, now)
  if found then
    return found
  end
  local amounts = {}
  local asked = op[LINES]
  for i = 1, #asked do
    local line = asked[i]
    found = limits.exceeded(limited, op[FEATURE], line[1], least(line, op), now)
    if found then
      return found
    end
    amounts[i] = limits.remaining(limited, op[FEATURE], line[1], line[2])
  end
  return nil, amounts
end

local function judge_credits(tree, path, op, amounts)
  local held, shortfalls = {}, {}
  local asked = op[LINES]
  for i = 1, #asked do
    local line = asked[i]
    local there, needed = draws.spendable(tree, path, line[1]), least(line, op)
    if there < needed then
      insert(shortfalls, { line[1], there, needed - there })
    end
    held[i] = min(amounts[i], there)
  end
  return shortfalls, held
end

-- Status, then limits, then credits: the order of precedence of the reasons.
local function judge(tree, path, limited, op, now)
  local reason = judge_status(tree, path)
  if reason then
    return { reason = reason, shortfalls = {}, limit = {}, retry_ms = 0 }
  end
  local found, amounts = judge_limits(limited, op, now)
  if found then
    return { reason = R_LIMIT_EXCEEDED, shortfalls = {}, limit = found[1], retry_ms = found[2] }
  end
  local shortfalls, held = judge_credits(tree, path, op, amounts)
  reason = #shortfalls > 0 and R_INSUFFICIENT_CREDITS or nil
  return { reason = reason, shortfalls = shortfalls, limit = {}, retry_ms = 0, amounts = held }
end

-- What the verdict means in a mode; shadow grants all that was asked.
local function decide(verdict, op)
  local outcome = GRANTED
  if verdict.reason then
    outcome = op[MODE] == MODE_ENFORCE and DENIED or GRANTED_SHADOW
    verdict.amounts = {}
    local asked = op[LINES]
    for i = 1, #asked do
      local line = asked[i]
      verdict.amounts[i] = line[2]
    end
  else
    local asked = op[LINES]
    for i = 1, #asked do
      local line = asked[i]
      outcome = verdict.amounts[i] < line[2] and GRANTED_PARTIAL or outcome
    end
  end
  return { outcome, op[MODE], verdict.reason or 0, verdict.shortfalls, verdict.limit, verdict.retry_ms }
end

-- Grants, then overdraft; what is missing is left only by shadow mode, as unenforced.
local function plan(tree, path, op, amounts)
  local planned = {}
  local asked = op[LINES]
  for i = 1, #asked do
    local line = asked[i]
    local list = {}
    local missing = draws.from_grants(tree, path, line[1], amounts[i], list)
    if missing > 0 then
      missing = draws.from_overdraft(tree, path, line[1], missing, list)
    end
    if missing > 0 then
      draws.push(list, path[1], SOURCE_UNENFORCED, missing)
    end
    local failed = draws.check_room(tree, line[1], list)
    if failed then
      return nil, failed
    end
    planned[i] = { line[1], line[2], 0, list }
  end
  return planned
end

-- Only an account whose credits were drawn can have passed a threshold.
local function warn_balances(journal, warnings)
  local postings = journal.postings
  for i = 1, #postings do
    local posting = postings[i]
    local credit = posting[P_CREDIT]
    local before = credit[C_AVAILABLE] - posting[P_DELTA][C_AVAILABLE - 1]
    limits.balance_warnings(warnings, posting[P_ACCOUNT], posting[P_CREDIT_TYPE], credit, before)
  end
end

-- Judges, then draws into `target`. Answers { decision, lines, counts, warnings }, or a failure;
-- a denial has no lines.
local function place(journal, tree, op, kind, target)
  local now, path = tree.partition.now, trees.path(tree, op[ACCOUNT])
  if #path == 0 then
    return failure(R_ACCOUNT_NOT_FOUND, "account", op[ACCOUNT])
  elseif partitions.backlogged(tree.partition) then
    return failure(R_LEDGER_BACKLOG)
  end
  local limited = limits.settle(tree, path, now)
  local verdict = judge(tree, path, limited, op, now)
  local decision = decide(verdict, op)
  if decision[1] == DENIED then
    return { decision = decision }
  end
  local lines, failed = plan(tree, path, op, verdict.amounts)
  if failed then
    return failed
  end
  local counts, warnings = {}, {}
  for i = 1, #lines do
    local line = lines[i]
    draws.apply(journal, kind, line[N_CREDIT_TYPE], line[N_DRAWS], target)
  end
  limits.count(tree, limited, op[FEATURE], "", 1, now, counts, warnings)
  for i = 1, #lines do
    local line = lines[i]
    limits.count(tree, limited, op[FEATURE], line[N_CREDIT_TYPE], (draws.totals(line[N_DRAWS])), now, counts, warnings)
  end
  warn_balances(journal, warnings)
  return { decision = decision, lines = lines, counts = counts, warnings = warnings }
end

local function held_lines(state, lines)
  local shown = {}
  for i = 1, #lines do
    local line = lines[i]
    local total, debt, unenforced = draws.totals(line[N_DRAWS])
    shown[i] = {
      line[N_CREDIT_TYPE],
      line[N_REQUESTED],
      total,
      debt,
      unenforced,
      draws.available(state, line[N_CREDIT_TYPE]),
    }
  end
  return shown
end

local function burned_lines(state, lines)
  local shown = {}
  for i = 1, #lines do
    local line = lines[i]
    local list, shares = line[N_DRAWS], {}
    settle.share_burned(shares, list)
    local total, debt, unenforced = draws.totals(list)
    local available = draws.available(state, line[N_CREDIT_TYPE])
    shown[i] = { line[N_CREDIT_TYPE], total, 0, 0, debt, unenforced, 0, available, shares }
  end
  return shown
end

function spending.reserve(op, tree)
  local journal = journals.new(tree)
  local placed = place(journal, tree, op, KIND_HOLD, C_HELD)
  if placed.failed then
    return placed
  elseif not placed.lines then
    return { 0, 0, placed.decision, "", {}, 0, {} }
  end
  local now, account, hold_id = tree.partition.now, op[ACCOUNT], op[HOLD]
  local expires_ms = now + op[TTL_MS]
  trees.set_hold(tree, hold_id, { account, op[FEATURE], op[MODE], now, expires_ms, placed.lines, placed.counts })
  trees.add_due(tree, "h" .. hold_id, expires_ms)
  trees.count_hold(tree, account, 1)
  local first_seq, last_seq, entry = journals.write(journal, {
    hold = hold_id,
    actor = account,
    mode = op[MODE],
    context = op[O_CONTEXT],
  })
  local lines = held_lines(trees.account(tree, account), placed.lines)
  return { first_seq, last_seq, placed.decision, hold_id, lines, expires_ms, placed.warnings }, entry
end

function spending.burn(op, tree)
  local journal = journals.new(tree)
  local placed = place(journal, tree, op, KIND_BURN, C_BURNED)
  if placed.failed then
    return placed
  elseif not placed.lines then
    return { 0, 0, placed.decision, {}, {} }
  end
  local lines = burned_lines(trees.account(tree, op[ACCOUNT]), placed.lines)
  local first_seq, last_seq, entry = journals.write(journal, {
    actor = op[ACCOUNT],
    mode = op[MODE],
    context = op[O_CONTEXT],
  })
  return { first_seq, last_seq, placed.decision, lines, placed.warnings }, entry
end
