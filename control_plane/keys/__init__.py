"""API keys: made, shown once, authenticated, revoked."""
