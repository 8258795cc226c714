"""Two annotators: the second labels what the first is not sure of (CoAnnotating: Li et al., EMNLP 2023)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from atgen_ray.annotation.human import AWAITING
from atgen_ray.annotation.site import Site
from atgen_ray.config import RouterConfig
from atgen_ray.records import Annotation, DeadLetter

if TYPE_CHECKING:
    from atgen_ray.annotation import Annotator


class Router:
    """Labels of `first` that are sure enough, and labels of `then` for the rest; every example has one label."""

    name = "router"

    def __init__(self, config: RouterConfig, site: Site, build: "Callable[[Any, Site, str], Annotator]") -> None:
        self._config, self._site = config, site
        self._first = build(config.first, site, "annotator.first")
        self._then = build(config.then, site, "annotator.then")

    def annotate_batch(self, ids: Sequence[str], texts: Sequence[str]) -> tuple[list[Annotation], list[DeadLetter]]:
        labels, dead = self._first.annotate_batch(ids, texts)
        threshold = self._config.when.confidence_below
        sure, unsure = list[Annotation](), dict[str, Annotation]()
        for label in labels:
            if label.provenance["confidence"] < threshold:
                unsure[label.id] = label
            else:
                sure.append(label)
        failed = {letter.id: letter.reason for letter in dead}
        passed = [id_ for id_ in ids if id_ in unsure or id_ in failed]
        if not passed:
            return sure, []
        if self._then.name == "human":
            self._hand_over(passed, unsure)
        by_id = dict(zip(ids, texts, strict=True))
        second, left = self._then.annotate_batch(passed, [by_id[id_] for id_ in passed])
        reasons = {
            id_: failed.get(id_) or f"confidence {unsure[id_].provenance['confidence']:.2f} is below {threshold:g}"
            for id_ in passed
        }
        mended = [self._join(label, unsure.get(label.id), reasons[label.id]) for label in second]
        return sure + mended, [replace(letter, reason=f"{letter.reason}; {reasons[letter.id]}") for letter in left]

    def _join(self, label: Annotation, draft: Annotation | None, reason: str) -> Annotation:
        """The second annotator's label with what the first one said and cost."""
        first: dict[str, Any] = {"annotator": self._first.name, "reason": reason}
        dollars = label.dollars
        if draft is not None:
            first |= {"text": draft.text, "dollars": draft.dollars} | draft.provenance
            dollars += draft.dollars
        return replace(label, dollars=dollars, provenance=label.provenance | {"first": first})

    def _hand_over(self, ids: Sequence[str], drafts: dict[str, Annotation]) -> None:
        rows = [{"id": id_, "draft": drafts[id_].text if id_ in drafts else None} for id_ in ids]
        self._site.journal.append(self._site.lease, AWAITING, self._site.round, "annotation", {"examples": rows})
