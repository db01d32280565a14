"""A project's guards: what personal data its calls may hold, and the prompts and answers that are kept of them."""
