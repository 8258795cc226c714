"""Access to a storage that exists already; a command that only looks never creates one."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pydantic import SecretStr

from atgen_ray.config import RunConfig
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.store.journal import Journal, find_journal

DEFAULT_STORAGE = str(RunConfig.model_fields["storage"].default)


@contextmanager
def open_runs(storage: str, database_url: SecretStr | None) -> Iterator[Journal]:
    """Open the journal of an existing storage for the block; create nothing.

    Raises:
        UserError: there is no journal, and so no run.
    """
    where = find_journal(storage, database_url)
    if where is None:
        siblings = [f"{path.parent}" for path in Path(storage).absolute().parent.glob("*/atgen.db")]
        hint = nearest(str(Path(storage).absolute()), siblings) if siblings else ""
        raise UserError(
            f"--storage is '{storage}', where no runs are, expected the one that runs were "
            f"given{hint}"
        )
    with closing(where) as journal:
        yield journal
