"""For the people on call: policies, the kill switch, and what passes while a store is away.

`gate` stands before the engine and answers what must not wait for a store; `spool` keeps what
passed until `replay` has booked it; `config` holds the policies in memory; `kill` is the switch.
"""
