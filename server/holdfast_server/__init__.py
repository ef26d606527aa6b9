"""The Holdfast server: decides on prepaid credits in Redis, remembers in Postgres."""
