"""Agents: a slug, immutable numbered versions, and a pointer at the published one."""
