"""The decision in plain Python: the oracle that the Lua scripts are held against.

`World.submit` takes the same operations as the engine and gives the same answers and entries, with
the store's clock as an argument. Each module has a Lua file of the same name in `engine/lua/lib`
and
each operation a Lua file of the same name in `engine/lua/operations`; function names agree.
Slow and obvious on purpose: it is read to learn the rules, and run by the property tests.
"""

from holdfast_server.domain.twin.world import World

__all__ = ["World"]
