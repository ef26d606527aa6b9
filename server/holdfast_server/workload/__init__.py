"""Traffic like a product's, driven through the public client, and the audit of what it left behind.

`run.run` is what `holdfast replay` and `holdfast demo` call. `trace` is where requests come from,
`population` who makes them, `behaviour` what each does; `drive` does it, and `history` remembers
every answer. `checks` then reads both stores by itself, with none of the service's code.
"""
