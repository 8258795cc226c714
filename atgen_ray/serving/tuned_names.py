"""Names of fine-tuned models: `ft:<base>:<suffix>:<id>` is the last adapter of the run
`ft-<suffix>-<id>`, or of `ft-<id>` where the suffix is empty. Names alone say which run it is.
"""

import re

RUN = re.compile(r"ft-(?:(?P<suffix>[a-z0-9][a-z0-9-]{0,39})-)?(?P<id>[0-9a-f]{12})")
ROUND = 1  # the one round of a supervised job
_PREFIX = "ft:"


def name_run(suffix: str, id: str) -> str:
    """Return the name of a job's run."""
    return f"ft-{suffix}-{id}" if suffix else f"ft-{id}"


def name_model(base: str, run: str) -> str | None:
    """Return the name of the model that a job's run makes; None for another run."""
    found = RUN.fullmatch(run)
    return f"{_PREFIX}{base}:{found['suffix'] or ''}:{found['id']}" if found else None


def find_tuning_run(base: str, model: str) -> str | None:
    """Return the run of a fine-tuned model's name; None for another name."""
    if not model.startswith(f"{_PREFIX}{base}:"):
        return None
    suffix, colon, id = model.removeprefix(f"{_PREFIX}{base}:").rpartition(":")
    run = name_run(suffix, id)
    found = RUN.fullmatch(run) if colon else None
    if found is None or (found["suffix"] or "") != suffix:
        return None
    return run
