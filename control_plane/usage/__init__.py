"""The ledger: every metered call once, and its daily roll-up."""
