"""Environment that Alembic runs: our tables, on the connection that `upgrade` passes on."""

from alembic import context

from atgen_ray.store.migrations import VERSION_TABLE
from atgen_ray.store.tables import TABLES

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=TABLES,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
