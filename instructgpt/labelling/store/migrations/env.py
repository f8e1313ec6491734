"""Run by Alembic: applies migrations on the connection that `database.upgrade` gives, in its transaction."""

from __future__ import annotations

from alembic import context

from instructgpt.labelling.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite can't alter a table, Alembic then makes it anew
)
context.run_migrations()
