-- A page of grants is found without reading all entries of their account.
--
-- Contract: what schema.sql says of this index, for a ledger that was made without it. The code before it
-- needs no change. While the index is made, nothing is recorded: entries wait in the outbox.

-- Entries by which something of a grant is lost are few: a list of grants asks how much.
CREATE INDEX entry_losses ON holdfast.entry (account, tenant, credit_type)
    WHERE delta_expired <> 0 OR delta_revoked <> 0;
