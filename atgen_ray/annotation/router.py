"""Two annotators: the second labels what the first is not sure of (CoAnnotating: Li et al., EMNLP
2023).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from atgen_ray.annotation.context import AnnotationContext, Annotator
from atgen_ray.annotation.human.annotator import HumanAnnotator
from atgen_ray.annotation.human.round_tasks import join_first
from atgen_ray.config import RouterConfig
from atgen_ray.core.records import Annotation, DeadLetter


class Router:
    """Labels of `first` that are sure enough, and labels of `then` for the rest; every example has
    one label.
    """

    name = "router"

    def __init__(
        self,
        config: RouterConfig,
        site: AnnotationContext,
        build: Callable[[Any, AnnotationContext, str], Annotator],
    ) -> None:
        self._config = config
        self._site = site
        self._first = build(config.first, site, "annotator.first")
        self._then = build(config.then, site, "annotator.then")

    def annotate_batch(
        self, ids: Sequence[str], texts: Sequence[str]
    ) -> tuple[list[Annotation], list[DeadLetter]]:
        labels, dead = self._first.annotate_batch(ids, texts)
        threshold = self._config.when.confidence_below
        sure = list[Annotation]()
        unsure = dict[str, Annotation]()
        for label in labels:
            if label.provenance["confidence"] < threshold:
                unsure[label.id] = label
            else:
                sure.append(label)
        failed = {letter.id: letter.reason for letter in dead}
        passed = [id_ for id_ in ids if id_ in unsure or id_ in failed]
        if not passed:
            return sure, []
        reasons = {
            id_: failed.get(id_)
            or f"confidence {unsure[id_].provenance['confidence']:.2f} is below {threshold:g}"
            for id_ in passed
        }
        first = {id_: self._describe(unsure.get(id_), reasons[id_]) for id_ in passed}
        by_id = dict(zip(ids, texts, strict=True))
        if isinstance(self._then, HumanAnnotator):
            self._then.expect(first)
        second, left = self._then.annotate_batch(passed, [by_id[id_] for id_ in passed])
        if not isinstance(
            self._then, HumanAnnotator
        ):  # whose labels have it already, and are in the journal
            second = [join_first(label, first[label.id]) for label in second]
            left = [
                replace(letter, reason=f"{letter.reason}; {reasons[letter.id]}") for letter in left
            ]
        return sure + second, left

    def _describe(self, label: Annotation | None, reason: str) -> dict[str, Any]:
        """What the first annotator said of an example, and why that is not enough."""
        said = (
            {}
            if label is None
            else {"text": label.text, "dollars": label.dollars} | label.provenance
        )
        return {"annotator": self._first.name, "reason": reason} | said
