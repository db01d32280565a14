"""Guards of a project: personal data found, masked or refused, and prompts kept for those who want them."""
