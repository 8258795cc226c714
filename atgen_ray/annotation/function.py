"""Annotators that are a function: the easiest kind for a package of one's own."""

from collections.abc import Callable, Sequence

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.pricing import buy_labels
from atgen_ray.config import PluginAnnotatorConfig
from atgen_ray.core.records import Annotation, DeadLetter

# Prompt texts to labels in the same order; None where there is no label.
LabelFunction = Callable[[Sequence[str]], Sequence[str | None]]


class FunctionAnnotator:
    """Labels by a function, at the price in `price_per_label`, within the budget.

    The function gets `batch_size` texts at a time; between two calls the run can be stopped. After
    a kill in the middle of a round, the round's texts are asked for again.
    """

    def __init__(
        self,
        config: PluginAnnotatorConfig,
        context: AnnotationContext,
        label: LabelFunction,
        batch_size: int = 32,
    ) -> None:
        self.name = config.name
        self._price = config.price_per_label
        self._context = context
        self._label = label
        self._batch_size = batch_size

    def annotate_batch(
        self, ids: Sequence[str], texts: Sequence[str]
    ) -> tuple[list[Annotation], list[DeadLetter]]:
        bought = buy_labels(self._context, self.name, ids, self._price)
        labels: list[Annotation] = []
        dead: list[DeadLetter] = []
        for start in range(0, bought, self._batch_size):
            end = min(start + self._batch_size, bought)
            answers = self._label(texts[start:end])
            if len(answers) != end - start:
                raise AssertionError(
                    f"annotator '{self.name}' gave {len(answers)} labels for {end - start} texts"
                )
            for id_, answer in zip(ids[start:end], answers, strict=True):
                if answer is None:
                    reason = f"annotator '{self.name}' gave no label"
                    dead.append(DeadLetter(id_, "annotation", reason))
                else:
                    labels.append(Annotation(id_, answer, self.name, self._price))
            self._context.progress(end, len(ids))
        return labels, dead
