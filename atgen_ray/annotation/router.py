"""Router between two annotators: the second labels what the first is not confident of
(CoAnnotating: Li et al., EMNLP 2023).
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
    """Takes confident labels from `first`, and labels of all other examples from `then`; every
    example has at most one label.
    """

    name = "router"

    def __init__(
        self,
        config: RouterConfig,
        context: AnnotationContext,
        build: Callable[[Any, AnnotationContext, str], Annotator],
    ) -> None:
        self._config = config
        self._context = context
        self._first = build(config.first, context, "annotator.first")
        self._then = build(config.then, context, "annotator.then")

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
        failed = {dead_letter.id: dead_letter.reason for dead_letter in dead}
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
        # Labels by people are in the journal already, with what the first annotator said.
        if not isinstance(self._then, HumanAnnotator):
            second = [join_first(label, first[label.id]) for label in second]
            left = [
                replace(dead_letter, reason=f"{dead_letter.reason}; {reasons[dead_letter.id]}")
                for dead_letter in left
            ]
        return sure + second, left

    def _describe(self, label: Annotation | None, reason: str) -> dict[str, Any]:
        """Return what the first annotator said of an example, and the reason why that is not
        enough.
        """
        described: dict[str, Any] = {"annotator": self._first.name, "reason": reason}
        if label is not None:
            described |= {"text": label.text, "dollars": label.dollars, **label.provenance}
        return described
