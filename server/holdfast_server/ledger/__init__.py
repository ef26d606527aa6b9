"""The ledger: what Postgres remembers. The only package that speaks to Postgres."""
