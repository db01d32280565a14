"""Batches: what is asked, how far it is, and the jobs that do it."""
