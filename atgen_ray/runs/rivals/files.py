"""Where rivals are kept in a run's folder, and what is said of each.

The folder `rounds/NNN/rivals/KEY` holds `predictions.jsonl`, rows as those of an evaluation, and
`rival.json`: `rival` (its type), `title`, `split`, `labels` that it had, `metrics` of that split,
`absent` metrics with the reason, `dollars`, `dollars_per_thousand` answers, and what more the rival
has to say. `atgen_ray/reporting/rivals.py` reads them.
"""

from typing import Any

from atgen_ray.config.rivals import (
    FewShotRival,
    LargerRival,
    NearestRival,
    PromptRival,
    Rival,
    ZeroShotRival,
)
from atgen_ray.store.journal import Journal
from atgen_ray.store.layout import RIVAL_FACTS, rivals_folder
from atgen_ray.store.run_folder import RunFolder

STEP = "rival-"  # before a rival's key: the name of its step


def name_rival(rival: Rival) -> str:
    """Return the name of a rival in reports."""
    if isinstance(rival, ZeroShotRival):
        return "zero-shot"
    if isinstance(rival, NearestRival):
        return "nearest label"
    if isinstance(rival, FewShotRival):
        return f"few-shot ({rival.k})"
    if isinstance(rival, PromptRival):
        return "searched prompt"
    return f"{rival.name}, zero-shot"


def read_rival_dollars(run: str, journal: Journal, folder: RunFolder) -> float:
    """Return the dollars that larger models cost as rivals: they are entered in round 0 and bought
    no label.
    """
    found = {}
    for event in journal.steps(run):
        step = str(event.step)
        if step.startswith(f"{STEP}{LargerRival.model_fields['type'].default}"):
            key = step.removeprefix(STEP)
            path = f"{rivals_folder(event.round or 0)}/{key}/{RIVAL_FACTS}"
            facts: dict[str, Any] = folder.read_json(path) if folder.exists(path) else {}
            # The same answers in a later round were paid for once.
            found[key] = float(facts.get("dollars") or 0.0)
    return sum(found.values())
