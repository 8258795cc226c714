"""Judges of the metrics `llm_judge` and `judge_spread`: annotators that grade answers.

Its questions go through the request log and the ledger in the same way as questions for labels.
"""

from collections.abc import Sequence
from dataclasses import replace

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.llm.prompts import JUDGED
from atgen_ray.annotation.registry import build_annotator
from atgen_ray.config import PromptConfig
from atgen_ray.config.annotation import AnyLLMAnnotatorConfig
from atgen_ray.core.errors import RunPaused
from atgen_ray.core.hashing import digest
from atgen_ray.evaluation import JudgeFn
from atgen_ray.evaluation.metrics.llm_judge import INSTRUCTIONS


def build_judges(context: AnnotationContext) -> list[JudgeFn]:
    """Return a function for each judge of the configuration, which asks it for verdicts.

    Equal material is graded once a round by each. A verdict that is still unusable after a repair
    is empty.
    """
    return [_build(key, judge, context) for key, judge in context.config.evaluation.list_judges()]


def _build(key: str, judge: AnyLLMAnnotatorConfig, context: AnnotationContext) -> JudgeFn:
    guidelines = "\n\n".join(filter(None, (INSTRUCTIONS, judge.guidelines)))
    # A verdict must contain a digit unless the user gives a pattern, because it is a grade.
    checks = judge.checks.model_copy(update={"regex": judge.checks.regex or r".*\d.*"})
    # Answers of the target model are graded whatever they say, and each for itself.
    kept = {"suspects": "keep", "probe": "off"}
    judge = judge.model_copy(update={"guidelines": guidelines, "checks": checks, **kept})
    config = context.config.model_copy(update={"prompt": PromptConfig()})

    def ask(materials: Sequence[str]) -> list[str]:
        """Return the verdict on each of `materials`, in their order.

        Raises:
            RunPaused: the budget does not pay for all of them.
        """
        texts = {_identify(material): material for material in materials}
        grading = replace(context, config=config, texts=texts, labeled=[], shortfalls=[])
        verdicts, unusable = build_annotator(judge, grading, key).annotate_batch(
            list(texts), list(texts.values())
        )
        given = {verdict.id: verdict.text for verdict in verdicts}
        given |= {dead_letter.id: "" for dead_letter in unusable}
        if left := len(texts) - len(given):
            why = grading.describe_shortfall(grading.shortfalls[-1]).replace("label", "verdict")
            kept = f"{key} from grading {left} of {len(texts)} answers"
            raise RunPaused(f"the budget keeps {kept}: {why}; raise it, and the run goes on")
        return [given[_identify(material)] for material in materials]

    return ask


def _identify(material: str) -> str:
    return JUDGED + digest(material.encode("utf-8", "replace"), size=12)
