-- Reserve and Burn: may this account spend so much, and from which grants? (twin: reserve.py)
--
-- Operation: account, mode, fit, ttl_ms, hold id, feature, and for each line: credit type, amount,
--   minimum.
-- Reserve answers hold id, expires_ms, and for each line six values: credit type, requested, held, debt,
--   unenforced, available after. Burn answers settled lines.
local MODE, FIT, TTL_MS, HOLD, FEATURE, FIRST_LINE = 12, 13, 14, 15, 16, 17

-- The least that enforcement would have to grant of the line at a place. Shadow mode lets all pass that
-- was asked for, so that callers who take what they get do not work less because of it.
local function least(op, place)
  return op[FIT] == FIT_UP_TO and op[MODE] == MODE_ENFORCE and op[place + 2] or op[place + 1]
end

local function judge_status(tree, path)
  local frozen = false
  for i = 1, #path do
    local status = tree.accounts[path[i]][A_STATUS]
    if status == STATUS_CLOSED then
      return R_ACCOUNT_CLOSED
    end
    frozen = frozen or status == STATUS_FROZEN
  end
  return frozen and R_ACCOUNT_FROZEN
end

-- Everything that was asked for.
local function asked(op)
  local amounts = { nil }
  for place = FIRST_LINE, #op, 3 do
    amounts[#amounts + 1] = op[place + 1]
  end
  return amounts
end

-- Answers the denial, or lowers amounts to what limits let pass.
local function judge_limits(limited, op, amounts, now)
  local found = limits.exceeded(limited, op[FEATURE], "", 1, now)
  for i = 1, #amounts do
    local place = FIRST_LINE + (i - 1) * 3
    found = found or limits.exceeded(limited, op[FEATURE], op[place], least(op, place), now)
    if found then
      return found
    end
    amounts[i] = limits.remaining(limited, op[FEATURE], op[place], amounts[i])
  end
end

-- What is missing of the least that is needed, where grants do not have all that was asked for; lowers
-- amounts to what there is.
local function judge_credit(tree, path, op, place, amounts, i, shortfalls)
  local there, needed = draws.spendable(tree, path, op[place]), least(op, place)
  if there < needed then
    shortfalls = #shortfalls > 0 and shortfalls or {}
    insert(shortfalls, { op[place], there, needed - there })
  end
  if amounts[i] > there then
    amounts[i] = there
  end
  return shortfalls
end

-- Answers what is missing, and the draws of each line that grants have all of.
local function judge_credits(tree, path, op, amounts)
  local shortfalls, drawn = NONE, { nil }
  for i = 1, #amounts do
    local place, list = FIRST_LINE + (i - 1) * 3, draws.list()
    drawn[i] = draws.from_grants(tree, path, op[place], amounts[i], list) == 0 and list
    if not drawn[i] then
      shortfalls = judge_credit(tree, path, op, place, amounts, i, shortfalls)
    end
  end
  return shortfalls, drawn
end

-- Status, then limits, then credits: the order of precedence of the reasons. Answers the reason and what
-- is to be said of it, or 0, the amounts and what is drawn for them.
local function judge(tree, path, limited, op, now)
  local reason = judge_status(tree, path)
  if reason then
    return reason, nil, nil, NONE, NONE, 0
  end
  local amounts = asked(op)
  local found = #limited > 0 and judge_limits(limited, op, amounts, now)
  if found then
    return R_LIMIT_EXCEEDED, nil, nil, NONE, found[1], found[2]
  end
  local shortfalls, drawn = judge_credits(tree, path, op, amounts)
  return #shortfalls > 0 and R_INSUFFICIENT_CREDITS or 0, amounts, drawn, shortfalls, NONE, 0
end

-- What the verdict means in a mode, and the amounts to draw; shadow grants all that was asked.
local function decide(reason, amounts, drawn, op)
  if reason ~= 0 then
    return op[MODE] == MODE_ENFORCE and DENIED or GRANTED_SHADOW, asked(op), NONE
  end
  for i = 1, #amounts do
    if amounts[i] < op[FIRST_LINE + (i - 1) * 3 + 1] then
      return GRANTED_PARTIAL, amounts, drawn
    end
  end
  return GRANTED, amounts, drawn
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

local function plan(tree, path, op, amounts, drawn)
  local lines = { nil }
  for i = 1, #amounts do
    local place, list, failed = FIRST_LINE + (i - 1) * 3, drawn[i], nil
    if not list then
      list, failed = plan_line(tree, path, op[place], amounts[i])
      if failed then
        return nil, failed
      end
    end
    lines[i] = { op[place], op[place + 1], 0, list }
  end
  return lines
end

-- Only an account whose credits were drawn can have passed a threshold.
local function warn_balances(journal, warnings)
  for i = 1, #journal, 2 do
    local posting, credit = journal[i], journal[i + 1]
    if credit[C_TOPPED] > 0 then
      local before = credit[C_AVAILABLE] - posting[C_AVAILABLE + E_DELTA_OF]
      limits.balance_warnings(warnings, posting[E_ACCOUNT], posting[E_CREDIT_TYPE], credit, before)
    end
  end
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
  warn_balances(journal, warnings)
  return counts
end

-- Judges, then draws into `target`. Answers what the answer begins with, the lines and the counts; no
-- lines for a denial; a failure when nothing can be decided.
local function place(journal, op, kind, target)
  local tree = journal.tree
  local now, path = tree.partition.now, trees.path(tree, op[O_ACCOUNT])
  if #path == 0 then
    return failure(R_ACCOUNT_NOT_FOUND, "account", op[O_ACCOUNT])
  elseif partitions.backlogged(tree.partition) then
    return failure(R_LEDGER_BACKLOG)
  end
  local limited = limits.settle(tree, path, now)
  local reason, possible, drawn, shortfalls, limit, retry_ms = judge(tree, path, limited, op, now)
  local outcome, amounts, list = decide(reason, possible, drawn, op)
  local warnings = {}
  local reply = {
    0, 0, outcome, op[MODE], reason, retry_ms, shortfalls, limit, warnings,
    nil, nil, nil, nil, nil, nil, nil, nil,
  }
  if outcome == DENIED then
    return reply
  end
  local lines, failed = plan(tree, path, op, amounts, list)
  if failed then
    return failed
  end
  return reply, lines, book(journal, op, kind, target, lines, limited, warnings)
end

local function append_held(reply, state, lines)
  for i = 1, #lines do
    local line, n = lines[i], #reply
    reply[n + 1], reply[n + 2] = line[N_CREDIT_TYPE], line[N_REQUESTED]
    reply[n + 3], reply[n + 4], reply[n + 5] = draws.totals(line[N_DRAWS])
    reply[n + 6] = draws.available(state, line[N_CREDIT_TYPE])
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
