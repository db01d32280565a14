"""Organisations, their projects and their users."""
