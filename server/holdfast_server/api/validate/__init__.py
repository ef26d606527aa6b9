"""Protobuf requests to domain operations: pure functions that raise HoldfastError for a wrong form.

Every function takes the tenant that `dispatch` has settled. What needs state to be judged (does the
account exist, is the hold still open) is the engine's matter.
"""
