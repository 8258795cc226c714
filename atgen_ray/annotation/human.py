"""People: what a router passes on to them.

The pages on which people label are a part of the service. Without it the examples wait in the dead letters, each with
its reason, and the journal's event `awaiting-human` lists them with the label that a person would confirm or mend.
"""

from collections.abc import Sequence

from atgen_ray.annotation.site import Site
from atgen_ray.config import HumanAnnotatorConfig
from atgen_ray.records import Annotation, DeadLetter

AWAITING = "awaiting-human"


class AbsentHuman:
    """Nobody is there to label: every example becomes a dead letter that says so."""

    name = "human"

    def __init__(self, config: HumanAnnotatorConfig, site: Site) -> None:
        self._site = site

    def annotate_batch(self, ids: Sequence[str], texts: Sequence[str]) -> tuple[list[Annotation], list[DeadLetter]]:
        return [], [DeadLetter(id_, "annotation", "it awaits a human, and nobody labels for this run") for id_ in ids]
