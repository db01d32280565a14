"""The agent runtime: published agents as models, on LangChain against our own gateway. See docs/architecture.md."""
