"""``/v1/batches``: taken by the gateway, done by a job that sends their lines to the gateway. See docs/batches.md."""
