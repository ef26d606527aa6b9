"""The flusher: takes entries from the outbox of the hot store to the ledger, each exactly once."""
