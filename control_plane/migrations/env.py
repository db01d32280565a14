"""Alembic's entry point; ``migrate`` hands it the connection."""

from alembic import context

from control_plane.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
