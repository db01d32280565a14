"""The ``objecta`` command."""
