"""The engine owns the hot store: it packs operations, runs the scripts, reads the answers.

`engine` is the front; `batcher` puts what waits into one script call; `store` speaks to Redis or
Valkey; `codec` is the wire between Python and Lua; `keys` builds every key; `lua/` decides.
"""
