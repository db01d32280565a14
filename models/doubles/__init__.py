"""Doubles shipped with the product: deterministic stand-ins that speak the real protocols."""
