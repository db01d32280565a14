"""Responses and conversations: the state of OpenAI's stateful API, kept for gateways that keep none."""
