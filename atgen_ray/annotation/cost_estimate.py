"""Cost estimate of annotation before anything is sent: questions, tokens, and dollars of
synchronous and batch requests.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from atgen_ray.annotation.llm.prompts import PromptWriter, bound_cost
from atgen_ray.config import (
    HumanAnnotatorConfig,
    LLMAnnotatorConfig,
    ModelAnnotatorConfig,
    RemoteAnnotatorConfig,
    RunConfig,
    list_annotators,
)
from atgen_ray.config.annotation import Successor
from atgen_ray.config.prices import Price, find_price
from atgen_ray.core.errors import UserError
from atgen_ray.core.money import to_nano
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import format_dollars

SAMPLE = 200  # examples whose questions are counted
Numbers = dict[str, Any]


def estimate_annotation(config: RunConfig, labels: int, texts: Sequence[str]) -> Numbers:
    """Return questions, tokens and dollars for `labels` labels of examples such as `texts`, without
    contacting a provider.

    Prompt tokens are counted with the target model's tokenizer, which comes within a few per
    cent of a provider's own on English; output tokens are counted as the longest that are
    allowed. `dollars_at_most` is what the ledger would reserve: a token for every byte of a
    prompt, all repairs and probes, and every example for all stages of a router.
    """
    dollars = 0.0
    at_most = 0.0
    modes = {"sync": 0.0, "batch": 0.0}
    questions = 0
    prompt_tokens = 0
    output_tokens = 0
    # The first annotator labels everything. The other stages of a router add to the upper bound
    # alone, because nobody knows yet how many labels they will be asked for.
    for index, (key, annotator) in enumerate(list_annotators(config.annotator)):
        if not isinstance(annotator, LLMAnnotatorConfig):
            people = annotator.overlap if isinstance(annotator, HumanAnnotatorConfig) else 1
            at_most += annotator.price_per_label * labels * people
            dollars += annotator.price_per_label * labels * people * (index == 0)
            continue
        sampled, bound = _count_tokens(config, annotator, texts)
        asked = labels * (annotator.votes + (annotator.probe == "all"))
        most = labels * (annotator.votes * (1 + annotator.repair) + (annotator.probe != "off"))
        if isinstance(annotator, ModelAnnotatorConfig):
            at_most += annotator.price_per_label * most
            dollars += annotator.price_per_label * asked * (index == 0)
        elif isinstance(annotator, RemoteAnnotatorConfig):
            prices = {mode: find_price(annotator, key, mode) for mode in modes}
            limit = annotator.max_output_tokens
            at_most += _dollars(prices[annotator.mode], most * bound, most * limit)
            if index == 0:
                modes = {
                    mode: _dollars(price, asked * sampled, asked * limit)
                    for mode, price in prices.items()
                }
                dollars += modes[annotator.mode]
        if index == 0:
            questions = asked
            prompt_tokens = round(asked * sampled)
            output_tokens = asked * annotator.max_output_tokens
    return {
        "dollars": round(dollars, 2),
        "dollars_synchronous": round(modes["sync"] or dollars, 2),
        "dollars_batch": round(modes["batch"] or dollars, 2),
        "dollars_at_most": round(min(at_most, config.stopping.dollars or at_most), 2),
        "annotator_requests": questions,
        "annotator_prompt_tokens": prompt_tokens,
        "annotator_output_tokens_at_most": output_tokens,
    }


def check_budget(config: RunConfig, texts: Sequence[str]) -> None:
    """Check that each budget pays for at least the cheapest label of an example among `texts`.

    Raises:
        UserError: one does not; names the budget and what a label can cost.
    """
    if not texts:
        return
    key, annotator = list_annotators(config.annotator)[0]  # the others may never be asked
    shortest = min(texts, key=lambda text: len(text.encode("utf-8", "replace")))
    worst = price_label(config, key, annotator, shortest)
    budgets = {
        "dollars": config.stopping.dollars,
        "dollars_per_round": config.stopping.dollars_per_round,
    }
    for key, dollars in budgets.items():
        if dollars is not None and to_nano(dollars) < worst:
            raise UserError(
                f"stopping.{key} is {dollars}, expected at least {format_dollars(worst)}, which "
                f"one label can cost"
            )


def price_label(config: RunConfig, key: str, annotator: Successor, text: str) -> int:
    """Return the most that a label of `text` by the annotator at `key` can cost, without repairs
    and probes, in billionths of a dollar.
    """
    if isinstance(annotator, RemoteAnnotatorConfig):
        prompt = PromptWriter(annotator, config.prompt).write(text)
        return bound_cost(annotator, find_price(annotator, key), prompt) * annotator.votes
    price = to_nano(annotator.price_per_label)
    if isinstance(annotator, HumanAnnotatorConfig):
        return price * annotator.overlap
    return price * annotator.votes if isinstance(annotator, LLMAnnotatorConfig) else price


def estimate_judge(config: RunConfig, answers: int, texts: Sequence[str]) -> Numbers:
    """Return questions and dollars for grading `answers` answers to tasks such as `texts`; empty
    without a judge.

    Answer and reference are counted as the longest that the target model may write.
    """
    judge = config.evaluation.judge
    if judge is None:
        return {}
    dollars = 0.0
    if isinstance(judge, RemoteAnnotatorConfig):
        sampled, _ = _count_tokens(config, judge, texts)
        asked = answers * judge.votes
        tokens = sampled + 2 * config.model.max_new_tokens
        price = find_price(judge, "evaluation.judge", judge.mode)
        dollars = _dollars(price, asked * tokens, asked * judge.max_output_tokens)
    elif isinstance(judge, ModelAnnotatorConfig):
        dollars = judge.price_per_label * answers * judge.votes
    return {"judge_requests": answers * judge.votes, "judge_dollars": round(dollars, 2)}


def estimate_minutes(config: RunConfig, labels: int, journal: Journal) -> float | None:
    """Return the minutes for `labels` labels at this annotator's median speed in earlier runs, or
    None without such runs.
    """
    annotator = config.annotator.model_dump(mode="json")
    speeds = [
        event.seconds / event.payload["rows"]
        for record in journal.runs()
        if (record.config.get("annotator") or {}) == annotator
        for event in journal.steps(record.name)
        if event.step == "annotation" and event.payload.get("rows") and event.seconds
    ]
    return round(labels * statistics.median(speeds) / 60, 1) if speeds else None


def _count_tokens(
    config: RunConfig, annotator: LLMAnnotatorConfig, texts: Sequence[str]
) -> tuple[float, float]:
    """Return the mean tokens of a question by the target model's tokenizer, and the mean of their
    upper bounds.
    """
    shots = [(text, "") for text in texts[: annotator.shots]]
    writer = PromptWriter(annotator, config.prompt, shots)
    tokenizer = load_tokenizer(config.model)
    sample = texts[:: -(-len(texts) // SAMPLE)] if texts else [""]
    prompts = [writer.write(text) for text in sample]
    fixed = len(
        tokenizer(" ".join([writer.system, *(text for _, text in writer.shots)]))["input_ids"]
    )
    last = [len(tokenizer(prompt.turns[-1][1])["input_ids"]) for prompt in prompts]
    return fixed + statistics.mean(last), statistics.mean(
        prompt.tokens_at_most for prompt in prompts
    )


def _dollars(price: Price, prompt_tokens: float, output_tokens: float) -> float:
    """Return the price of these tokens in dollars."""
    return (prompt_tokens * price.input + output_tokens * price.output) / 1_000_000
