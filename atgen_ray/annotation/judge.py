"""An annotator as the judge of answers: its questions go through the book of requests and the
ledger, as labels do.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from atgen_ray.annotation.context import AnnotationContext
from atgen_ray.annotation.llm.prompts import JUDGED
from atgen_ray.annotation.registry import build_annotator
from atgen_ray.config import PromptConfig
from atgen_ray.core.errors import RunPaused
from atgen_ray.evaluation import JudgeFn
from atgen_ray.evaluation.metrics.llm_judge import INSTRUCTIONS

KEY = "evaluation.judge"


def build_judge(site: AnnotationContext) -> JudgeFn | None:
    """How the metric `llm_judge` asks evaluation.judge at `site`; None where nobody is configured.

    Equal material is graded once a round. A verdict that is unusable, also when asked for again, is
    empty.
    """
    judge = site.config.evaluation.judge
    if judge is None:
        return None
    guidelines = "\n\n".join(filter(None, (INSTRUCTIONS, judge.guidelines)))
    checks = judge.checks.model_copy(update={"regex": judge.checks.regex or r".*\d.*"})
    judge = judge.model_copy(update={"guidelines": guidelines, "checks": checks})
    config = site.config.model_copy(update={"prompt": PromptConfig()})

    def ask(materials: Sequence[str]) -> list[str]:
        texts = {_identify(material): material for material in materials}
        bench = replace(site, config=config, texts=texts, labeled=[], shortfalls=[])
        verdicts, unusable = build_annotator(judge, bench, KEY).annotate_batch(
            list(texts), list(texts.values())
        )
        given = {verdict.id: verdict.text for verdict in verdicts} | {
            letter.id: "" for letter in unusable
        }
        if left := len(texts) - len(given):
            why = bench.describe_shortfall(bench.shortfalls[-1]).replace("label", "verdict")
            grading = f"{KEY} from grading {left} of {len(texts)} answers"
            raise RunPaused(f"the budget keeps {grading}: {why}; raise it, and the run goes on")
        return [given[_identify(material)] for material in materials]

    return ask


def _identify(material: str) -> str:
    return JUDGED + hashlib.blake2b(material.encode("utf-8", "replace"), digest_size=12).hexdigest()
