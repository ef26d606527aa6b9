"""Faults, injected on purpose: what `holdfast chaos` and the fault tests share.

`proxy` stands between two processes and breaks what passes. `plan` decides from a seed what goes
wrong when; `stack` is a whole service with stores of its own that `inject` does it to, while
`load` calls it and `history` remembers every attempt. `checkers` then say what does not hold.
"""
