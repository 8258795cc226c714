"""Command that writes a new revision: `python -m atgen_ray.store.migrations "What changed"`."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from atgen_ray.store.migrations import list_revisions, upgrade


def write_revision(message: str) -> None:
    """Write the difference between the tables in `tables.py` and the last revision as a new one."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "atgen.db")
        engine = sa.create_engine(f"sqlite:///{file}")
        with engine.begin() as connection:
            upgrade(connection)
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent))
        config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            number = f"{int(list_revisions()[-1]) + 1:04d}"
            command.revision(config, message, autogenerate=True, rev_id=number)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit('usage: python -m atgen_ray.store.migrations "What changed"')
    write_revision(sys.argv[1])
