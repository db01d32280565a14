"""Tool calls and structured output on self-hosted models: arguments that satisfy their schema, whatever the model."""
