"""Router between annotators in stages: each labels what the stages before it are not sure of, do
not agree on, or could not label (CoAnnotating: Li et al., EMNLP 2023).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from atgen_ray.annotation.context import AnnotationContext, Annotator, SuspectLetter
from atgen_ray.annotation.cost_estimate import price_label
from atgen_ray.annotation.human.annotator import HumanAnnotator
from atgen_ray.annotation.human.round_tasks import join_first
from atgen_ray.annotation.llm.voting import measure_agreement
from atgen_ray.config import RouterConfig
from atgen_ray.config.annotation import RouteConfig, Successor
from atgen_ray.config.annotators.language_models import LLMAnnotatorConfig
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.money import to_nano
from atgen_ray.core.records import Annotation, DeadLetter

EVERY = 1 << 63  # draws of `mix_seed` are below it


@dataclass(frozen=True)
class Stage:
    """One annotator of a router, and what it is asked for."""

    key: str
    config: Successor
    when: RouteConfig
    annotator: Annotator


@dataclass(frozen=True)
class Case:
    """What the stages have said of one example so far.

    Attributes:
        label: the last label; None where the last stage gave none.
        letter: why the last stage gave none.
        stage: the last stage that was asked.
        texts: the labels of all stages.
        passed: why the example was passed on each time, in order.
    """

    stage: Stage
    label: Annotation | None = None
    letter: DeadLetter | None = None
    texts: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()


class Router:
    """Asks the first stage for every example, and each further one for those that its conditions
    name. The last label counts; every example has at most one.
    """

    name = "router"

    def __init__(
        self,
        config: RouterConfig,
        context: AnnotationContext,
        build: Callable[[Any, AnnotationContext, str], Annotator],
    ) -> None:
        self._context = context
        self._stages = [
            Stage(key, annotator, when, build(annotator, context, key))
            for key, annotator, when in config.list_stages()
        ]

    def annotate_batch(
        self, ids: Sequence[str], texts: Sequence[str]
    ) -> tuple[list[Annotation], list[DeadLetter]]:
        by_id = dict(zip(ids, texts, strict=True))
        first, *others = self._stages
        labels, dead = first.annotator.annotate_batch(ids, texts)
        # An example with neither label nor dead letter waits for money: no other stage is asked.
        cases = {label.id: Case(first, label, None, (label.text,)) for label in labels}
        cases |= {letter.id: Case(first, None, letter) for letter in dead}
        for stage in others:
            reasons = {
                id_: reason
                for id_ in ids
                if id_ in cases and (reason := self._explain(stage, cases[id_], by_id[id_]))
            }
            if reasons:
                self._ask(stage, reasons, cases, by_id)
        return (
            [case.label for case in cases.values() if case.label],
            [case.letter for case in cases.values() if case.letter],
        )

    def _ask(
        self,
        stage: Stage,
        reasons: Mapping[str, str],
        cases: dict[str, Case],
        texts: Mapping[str, str],
    ) -> None:
        """Ask a stage for the examples in `reasons`, and put what it says into `cases`."""
        before = {id_: cases.pop(id_) for id_ in reasons}
        told = {id_: _describe(case, reasons[id_]) for id_, case in before.items()}
        if isinstance(stage.annotator, HumanAnnotator):
            stage.annotator.expect(told)
        labels, dead = stage.annotator.annotate_batch(
            list(reasons), [texts[id_] for id_ in reasons]
        )
        for label in labels:
            # Labels by people are in the journal already, with what the earlier stages said. They
            # may be of other examples too: those that somebody imported.
            people = isinstance(stage.annotator, HumanAnnotator)
            joined = label if people else join_first(label, told[label.id])
            case = before.get(label.id) or Case(stage)
            passed = (*case.passed, reasons.get(label.id, ""))
            cases[label.id] = Case(stage, joined, None, (*case.texts, label.text), passed)
        for letter in dead:
            case = before.get(letter.id) or Case(stage)
            passed = (*case.passed, reasons.get(letter.id, ""))
            if not isinstance(stage.annotator, HumanAnnotator):
                letter = replace(letter, reason="; ".join([letter.reason, *reversed(passed)]))
            cases[letter.id] = Case(stage, None, letter, case.texts, passed)

    def _explain(self, stage: Stage, case: Case, text: str) -> str | None:
        """Return why a stage is asked for an example, or None where it is not."""
        asked = _list_kinds(stage, case)
        reasons = [reason for kind, reason in _name_kinds(stage, case).items() if kind in asked]
        if not reasons:
            seed = self._context.config.seed
            if not is_drawn(seed, stage.key, case.label, stage.when.share):
                return None
            reasons = ["it was drawn at random"]
        limit = stage.when.price_at_most
        if limit is not None:
            price = price_label(self._context.config, stage.key, stage.config, text)
            if price > to_nano(limit):
                return None
        return " and ".join(reasons)


def is_drawn(seed: int, key: str, label: Annotation | None, share: float) -> bool:
    """Return whether an example belongs to the random share that the stage at `key` labels besides;
    only what has a label does.
    """
    return label is not None and mix_seed(seed, "share", key, label.id) < share * EVERY


def _name_kinds(stage: Stage, case: Case) -> dict[str, str]:
    """Return the kinds of an example by the conditions of a stage, each with the reason."""
    if isinstance(case.letter, SuspectLetter):
        return {"suspect": case.letter.reason}
    if case.label is None:
        return {"failed": case.letter.reason if case.letter else ""}
    when = stage.when
    found = dict[str, str]()
    confidence = case.label.provenance.get("confidence")
    if confidence is not None and confidence < when.confidence_below:
        found["unsure"] = f"confidence {confidence:.2f} is below {when.confidence_below:g}"
    agreement = measure_agreement(case.texts)
    if agreement < when.agreement_below:
        found["disputed"] = (
            f"the agreement of {len(case.texts)} annotators, {agreement:.2f}, is below "
            f"{when.agreement_below:g}"
        )
    return found or {"sure": "labels that nobody doubts were asked for too"}


def _list_kinds(stage: Stage, case: Case) -> Sequence[str]:
    """Return the kinds that a stage is asked for. The annotator of a suspect label may say that it
    is buried, or that people alone may see it.
    """
    people = isinstance(stage.annotator, HumanAnnotator)
    kinds: Sequence[str] = stage.when.kinds or ("unsure", "disputed", "failed", "suspect")
    if isinstance(case.letter, SuspectLetter) and isinstance(case.stage.config, LLMAnnotatorConfig):
        choice = case.stage.config.suspects
        models = choice == "auto" and stage.when.kinds is not None
        if choice == "bury" or not (people or models):
            return [kind for kind in kinds if kind != "suspect"]
    return kinds


def _describe(case: Case, reason: str) -> dict[str, Any]:
    """Return what the last stage said of an example, and the reason why that is not enough.

    The text of a suspect label is no draft, so that it has another name.
    """
    described: dict[str, Any] = {"annotator": case.stage.annotator.name, "reason": reason}
    if case.label is not None:
        label = case.label
        described |= {"text": label.text, "dollars": label.dollars, **label.provenance}
    elif isinstance(case.letter, SuspectLetter):
        described |= {"commanded": case.letter.text, **case.letter.provenance}
    return described
