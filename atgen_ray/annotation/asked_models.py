"""Questions to models that give no labels: judges, and rivals of the tuned model.

They go through the request log and the ledger in the same way as questions for labels. Their ids
begin with JUDGED, so that no answer passes for a label.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.llm.prompts import JUDGED
from atgen_ray.annotation.registry import build_annotator
from atgen_ray.config import LLMAnnotatorConfig, list_annotators
from atgen_ray.config.annotation import AnyLLMAnnotatorConfig
from atgen_ray.config.rivals import LargerRival
from atgen_ray.core.errors import RunPaused
from atgen_ray.core.hashing import digest
from atgen_ray.core.money import NANO
from atgen_ray.store.ledger import read_paid


@dataclass(frozen=True)
class LargerAnswers:
    """Answers of a larger model by example, and the dollars that all of them cost."""

    predictions: dict[str, str]
    unusable: int  # examples without a usable answer, which count as empty ones
    dollars: float


def ask_all(
    model: AnyLLMAnnotatorConfig,
    context: AnnotationContext,
    key: str,
    texts: Mapping[str, str],
    what: str,
    work: str,
) -> tuple[dict[str, str], str]:
    """Return the answer to each of `texts`, by id, and the name under which the model is entered in
    the request log; an answer that is still unusable after a repair is empty.

    Args:
        key: of the model in the configuration.
        what, work: an answer, and what the budget keeps the model from, in words: "verdict" and
            "grading {left} of {all} answers".

    Raises:
        RunPaused: the budget does not pay for all of them.
    """
    asking = replace(context, texts=dict(texts), labeled=[], shortfalls=[])
    # Answers count whatever they say, and each for itself.
    model = model.model_copy(update={"suspects": "keep", "probe": "off"})
    annotator = build_annotator(model, asking, key)
    answers, unusable = annotator.annotate_batch(list(texts), list(texts.values()))
    given = {answer.id: answer.text for answer in answers}
    given |= {dead_letter.id: "" for dead_letter in unusable}
    if left := len(texts) - len(given):
        why = asking.describe_shortfall(asking.shortfalls[-1]).replace("label", what)
        kept = f"{key} from {work.format(left=left, all=len(texts))}"
        raise RunPaused(f"the budget keeps {kept}: {why}; raise it, and the run goes on")
    return given, annotator.name


def ask_larger(
    rival: LargerRival, context: AnnotationContext, key: str, texts: Mapping[str, str]
) -> LargerAnswers:
    """Return what the model of `rival` answers to `texts`, by id.

    It is told what the run's annotator is told, unless it has guidelines of its own. Equal texts
    are asked once, and a question that the request log has is never asked again.

    Raises:
        RunPaused: the budget does not pay for all of them.
    """
    model = rival.model
    if not model.guidelines:
        told = find_guidelines(context)
        model = model.model_copy(update={"guidelines": told})
    asked = {identify(rival.key, text): text for text in texts.values()}
    given, name = ask_all(
        model, context, key, asked, "answer", "answering {left} of {all} examples"
    )
    paid = read_paid(context.journal, context.lease.run, name, context.round)
    return LargerAnswers(
        {id_: given[identify(rival.key, text)] for id_, text in texts.items()},
        sum(not text for text in given.values()),
        sum(paid.get(id_, 0) for id_ in asked) / NANO,
    )


def find_guidelines(context: AnnotationContext) -> str:
    """Return what the run's first annotator is told, if it is a model; people's guidelines are
    told to every model.
    """
    first = list_annotators(context.config.annotator)[0][1]
    return first.guidelines if isinstance(first, LLMAnnotatorConfig) else ""


def identify(*parts: str) -> str:
    """Return the id of a question, in the request log, that is made of these parts."""
    return JUDGED + digest(*(part.encode("utf-8", "replace") for part in parts), size=12)
