"""Anthropic's Messages API over any model the platform serves."""
