"""Judges of the metrics `llm_judge` and `judge_spread`: annotators that grade answers.

Its questions go through the request log and the ledger in the same way as questions for labels.
"""

from collections.abc import Sequence
from dataclasses import replace

from atgen_ray.annotation.asked_models import ask_all, identify
from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.config import PromptConfig
from atgen_ray.config.annotation import AnyLLMAnnotatorConfig
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
    judge = judge.model_copy(update={"guidelines": guidelines, "checks": checks})
    config = context.config.model_copy(update={"prompt": PromptConfig()})

    def ask(materials: Sequence[str]) -> list[str]:
        """Return the verdict on each of `materials`, in their order.

        Raises:
            RunPaused: the budget does not pay for all of them.
        """
        texts = {identify(material): material for material in materials}
        grading = replace(context, config=config)
        given, _ = ask_all(judge, grading, key, texts, "verdict", "grading {left} of {all} answers")
        return [given[identify(material)] for material in materials]

    return ask
