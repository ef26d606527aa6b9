"""The audit: reads both stores by itself and compares them with what the service has acknowledged.

Nothing here uses the service's code. The ledger's rows come through SQL written here, the hot
store's values are unpacked here, and the chain is recomputed from its definition. Only the balances
that are compared come through the public client.
"""
