"""Names of runs.

A name stands in paths, URLs, Ray actor names and database keys, so it is short and plain.
"""

import re

from atgen_ray.core.errors import UserError

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def check_run_name(name: str) -> None:
    """Raise UserError unless `name` matches `NAME_PATTERN`."""
    if not NAME_PATTERN.fullmatch(name):
        raise UserError(
            f"run name is {name[:80]!r}, expected a-z, 0-9 and -, at most 63 characters"
        )
