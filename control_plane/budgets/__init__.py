"""Budgets: what a scope may cost in a period; counted from the ledger, held in Redis."""
