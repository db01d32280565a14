"""Hosted providers that speak another dialect: LangChain chat models behind OpenAI's wire. See docs/providers.md."""
