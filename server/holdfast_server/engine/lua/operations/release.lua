-- Release and Extend: give all of a hold back, or give it more time (twin: World.release, World.extend).
--
-- Operation: account, hold id; Extend: ttl_ms.
-- Release answers settled lines; Extend answers expires_ms.
local TTL_MS = 13

function holding.release(op, tree)
  local hold = trees.hold(tree, op[O_HOLD])
  if not hold then
    return settle.gone(tree.partition, op[O_HOLD], false)
  end
  local now, account, mode = tree.partition.now, hold[H_ACCOUNT], hold[H_MODE]
  local journal, lines = journals.new(tree), {}
  local untouched = settle.captured(hold) == 0
  for i, line in ipairs(hold[H_LINES]) do
    local plan = settle.plan_line(tree, account, line, 0, false, mode, 1)
    lines[i] = settle.line(journal, account, line, plan, KIND_RELEASE, now)
  end
  settle.count(tree, hold, lines, untouched, now, {})
  settle.close(journal, tree, op[O_HOLD], hold, KIND_RELEASE)
  journals.end_hold(journal, RELEASED)
  local first_seq, last_seq, entry = journals.write(journal, op[O_CONTEXT], account, mode, op[O_HOLD])
  settle.remember_end(tree.partition, op[O_HOLD], RELEASED, hold[H_LINES], first_seq)
  return decided(first_seq, last_seq, GRANTED, mode, NONE, unpack(lines)), entry
end

function holding.extend(op, tree)
  local hold = trees.hold(tree, op[O_HOLD])
  if not hold then
    return settle.gone(tree.partition, op[O_HOLD], false)
  end
  local expires_ms = settle.extended(hold, op[TTL_MS], tree.partition.now)
  if not expires_ms then
    return failure(R_HOLD_MAXIMUM_AGE, "maximum_age_ms", text(HOLD_AGE_MS_MAX))
  end
  hold[H_EXPIRES] = expires_ms
  trees.set_hold(tree, op[O_HOLD], hold)
  trees.add_due(tree, "h" .. op[O_HOLD], expires_ms)
  local journal = journals.new(tree)
  journals.posting(journal, KIND_EXTEND, hold[H_ACCOUNT], hold[H_LINES][1][N_CREDIT_TYPE])
  local first_seq, last_seq, entry =
    journals.write(journal, op[O_CONTEXT], hold[H_ACCOUNT], hold[H_MODE], op[O_HOLD])
  return decided(first_seq, last_seq, GRANTED, hold[H_MODE], NONE, expires_ms), entry
end
