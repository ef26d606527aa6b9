-- What time does by itself: holds and grants expire, future grants become effective (twin: due.py).
--
-- A tree is brought to the present once per call, when it is first touched. What is due is found in
-- the tree's index (lib/due_index.lua), whose members are "h" .. hold id, "g" .. grant id .. account "/" credit type
-- (expires) and "e" .. the same (becomes effective); a root's own name is left out.
--
-- Whenever somebody looks, all is as if it had ended when it was due: in that order, under that time,
-- and with what an end makes due ended in its turn. Nothing of the tree can have happened since, so
-- times never fall within a tree.

-- Entries of what no request asked for: [method, key, fingerprint, feature, labels, caller, ...].
local function context(method, key)
  return pack({ method, key, "", "", {}, "sweeper", "", "", "", {} })
end

local function hex(bytes)
  return (string.gsub(bytes, ".", function(byte)
    return string.format("%02x", string.byte(byte))
  end))
end

local function late_lines(hold)
  local lines = {}
  for i, line in ipairs(hold[H_LINES]) do
    lines[i] = { line[N_CREDIT_TYPE], (draws.totals(line[N_DRAWS])), line[N_CAPTURED] }
  end
  return lines
end

-- Gives back all that is still held; the hold can be committed late from now on.
local function expire_hold(tree, hold_id)
  local hold = trees.hold(tree, hold_id)
  if not hold then
    trees.remove_due(tree, "h" .. hold_id)
    return 0
  end
  local account, expires_ms = hold[H_ACCOUNT], hold[H_EXPIRES]
  local until_ms = expires_ms + LATE_COMMIT_WINDOW_MS
  local counted = settle.captured(hold) > 0 and 1 or 0
  local late = { account, hold[H_FEATURE], hold[H_MODE], late_lines(hold), until_ms, counted }
  local journal = journals.new(tree)
  for _, line in ipairs(hold[H_LINES]) do
    local held = draws.totals(line[N_DRAWS])
    local plan = settle.plan_line(tree, account, line, 0, false, MODE_ENFORCE, 1)
    settle.line(journal, account, line, plan, KIND_HOLD_EXPIRED, expires_ms)
    limits.give_back(tree, hold[H_COUNTS], line[N_CREDIT_TYPE], held, expires_ms)
  end
  if counted == 0 then
    limits.give_back(tree, hold[H_COUNTS], "", 1, expires_ms)
  end
  settle.close(journal, tree, hold_id, hold, KIND_HOLD_EXPIRED)
  partitions.set_late(tree.partition, hold_id, late)
  journals.end_hold(journal, EXPIRED)
  journals.write(journal, context("Expire", hex(hold_id)), account, hold[H_MODE], hold_id, { at_ms = expires_ms })
  return 1
end

-- Credits become available, debt is repaid first; answers what was repaid.
function due.start_grant(journal, account, credit_type, grant, kind)
  local posting, credit = journals.posting(journal, kind, account, credit_type)
  local amount = grant[G_REMAINING]
  local repaid = grant[G_REPAY] == 1 and min(amount, draws.settled(credit, SOURCE_DEBT)) or 0
  grant[G_REMAINING] = 0
  journals.book(posting, credit, C_GRANTED, C_AVAILABLE, amount)
  journals.book(posting, credit, C_DEBT, C_AVAILABLE, -repaid)
  journals.attribute(posting, grant, C_AVAILABLE - PART_BEHIND, amount - repaid)
  if repaid > 0 then
    journals.attribute(posting, grant, C_BURNED - PART_BEHIND, repaid)
  end
  if grant[G_REMAINING] > 0 then
    draws.insert_grant(credit, grant)
    if grant[G_EXPIRES] > 0 then
      trees.add_due(journal.tree, draws.due_member(journal.tree, "g", grant, account, credit_type), grant[G_EXPIRES])
    end
  end
  credit[C_TOPPED] = credit[C_AVAILABLE]
  return repaid
end

-- The unheld rest is lost.
local function expire_grant(tree, account, credit_type, grant)
  local journal = journals.new(tree)
  local posting, credit = journals.posting(journal, KIND_GRANT_EXPIRED, account, credit_type)
  credit[C_TOPPED] = max(0, credit[C_TOPPED] - grant[G_REMAINING])
  journals.transfer(posting, credit, C_AVAILABLE, C_EXPIRED, grant[G_REMAINING], grant)
  draws.forget(tree, account, credit_type, credit, grant)
  journals.write(journal, context("ExpireGrant", hex(grant[G_ID])), nil, nil, nil, { at_ms = grant[G_EXPIRES] })
end

function due.find_pending(credit, grant_id)
  for index, grant in ipairs(trees.pending(credit)) do
    if grant[G_ID] == grant_id then
      return grant, index
    end
  end
end

local function start_pending(tree, account, credit_type, credit, grant_id)
  local grant, index = due.find_pending(credit, grant_id)
  if not grant then
    return
  end
  remove(trees.pending(credit), index)
  local journal = journals.new(tree)
  due.start_grant(journal, account, credit_type, grant, KIND_GRANT_EFFECTIVE)
  journals.write(journal, context("StartGrant", hex(grant_id)), nil, nil, nil, { at_ms = grant[G_EFFECTIVE] })
end

local function change_grant(tree, member)
  local mark, grant_id = string.sub(member, 1, 1), string.sub(member, 2, 17)
  local account, credit_type = string.match(string.sub(member, 18), "^(.*)/([^/]*)$")
  account = account ~= "" and account or trees.root(tree)
  trees.remove_due(tree, member)
  local state = trees.account(tree, account)
  local credit = state and trees.credit(state, credit_type)
  if not credit then
    return 0
  end
  if mark == "e" then
    start_pending(tree, account, credit_type, credit, grant_id)
    return 1
  end
  local grant = draws.find_grant(credit, grant_id)
  if grant and grant[G_REMAINING] > 0 then
    expire_grant(tree, account, credit_type, grant)
  end
  return 1
end

-- Puts what has just become due among what is still to end, by time and then by member, as the index
-- would. What is there already stays.
function due.arise(passing, member, at_ms)
  local list, i = passing.list, passing.next
  while list[i] and (list[i + 1] < at_ms or (list[i + 1] == at_ms and comes_before(list[i], member))) do
    i = i + 2
  end
  -- Behind the last that this call may end there may be more in the index: it waits for its turn there.
  if list[i] ~= member and (list[i] or not passing.is_cut) then
    insert(list, i, at_ms)
    insert(list, i, member)
  end
end

-- Brings a tree of which something is due to the present; `tree.behind` where more is due than one
-- call may end. Answers how many holds ended and how many grants changed.
function due.pass_time(tree)
  tree.swept = true
  local held, granted, passing = 0, 0, { list = due_index.due_now(tree, DUE_MAX), next = 1 }
  tree.behind = #passing.list == 2 * DUE_MAX
  passing.is_cut = tree.behind
  tree.passing = passing
  while passing.list[passing.next] do
    local member = passing.list[passing.next]
    passing.next = passing.next + 2
    if string.sub(member, 1, 1) == "h" then
      held = held + expire_hold(tree, string.sub(member, 2))
    else
      granted = granted + change_grant(tree, member)
    end
  end
  tree.passing = nil
  return held, granted
end
