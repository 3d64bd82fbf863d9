"""How Alembic reaches the database: through the connection that it is handed."""

from __future__ import annotations

from alembic import context

from i2node.controller.store.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,
)
context.run_migrations()
