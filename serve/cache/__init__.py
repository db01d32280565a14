"""The exact response cache: answers kept for callers who ask for it, within their organisation."""
