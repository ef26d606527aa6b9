"""Recovery: what happens to a partition whose hot store may have lost what it had acknowledged."""
