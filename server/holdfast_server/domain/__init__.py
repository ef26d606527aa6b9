"""What Holdfast means, without I/O, clock or third-party code.

`operation` and `reply` are what goes into the engine and what comes out; `entry` is the ledger row;
`policy` resolves modes; `twin` is the decision itself in Python, the oracle for the Lua scripts.
"""
