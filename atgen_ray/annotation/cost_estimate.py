"""Cost estimate of annotation before anything is sent: questions, tokens, and dollars of
synchronous and batch requests.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atgen_ray.annotation.llm.cost_bounds import CostBounds
from atgen_ray.annotation.llm.prompts import PromptWriter
from atgen_ray.annotation.llm.request_counts import MeasuredAnswers, measure_answers
from atgen_ray.annotation.llm.token_counter import CountTokens, find_counter
from atgen_ray.annotation.request import AnnotationRequest
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
from atgen_ray.config.rivals import LargerRival
from atgen_ray.core.errors import UserError
from atgen_ray.core.money import NANO, to_nano
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.store.journal import Journal
from atgen_ray.store.ledger import format_dollars

SAMPLE = 200  # examples whose questions are counted
ASSUMED = 64  # tokens of an answer of which nothing is known
DIGITS = 4  # significant ones of an estimate in dollars
# Settings on which the length of question and answer depends.
SHAPING = ("type", "model", "guidelines", "examples", "shots", "output_schema")
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Lengths:
    """Expected tokens of a question and its answer, where they come from, and the upper bound of
    the question's tokens.
    """

    prompt: float
    output: float
    basis: str
    prompt_at_most: float


def estimate_annotation(
    config: RunConfig, labels: int, texts: Sequence[str], journal: Journal
) -> Numbers:
    """Return questions, tokens and dollars for `labels` labels of examples such as `texts`, without
    contacting a provider.

    `dollars` is what is expected if no answer has to be asked for again; `dollars_assume` says from
    which lengths. They are the means of earlier answers to the same questions in `journal` where
    there are any. Otherwise prompt tokens are counted with the annotator's tokenizer, or with the
    target model's, which comes within a few per cent of a provider's own on English; an answer is
    as long as the worked examples, or `ASSUMED` tokens. `dollars_at_most` is what the ledger would
    reserve before the first answer: all repairs and probes, the longest answers, and every example
    for all stages of a router.
    """
    dollars = 0.0
    at_most = 0.0
    modes = {"sync": 0.0, "batch": 0.0}
    questions = 0
    prompt_tokens = 0
    output_tokens = 0
    output_at_most = 0
    basis = "a fixed price for each label"
    # The first annotator labels everything. The other stages of a router add to the upper bound
    # alone, because nobody knows yet how many labels they will be asked for.
    for index, (key, annotator) in enumerate(list_annotators(config.annotator)):
        if not isinstance(annotator, LLMAnnotatorConfig):
            people, most = 1, 1
            if isinstance(annotator, HumanAnnotatorConfig):
                people, most = annotator.overlap, annotator.most_answers
            at_most += annotator.price_per_label * labels * most
            dollars += annotator.price_per_label * labels * people * (index == 0)
            continue
        lengths = _expect_lengths(config, annotator, key, texts, journal)
        asked = labels * (annotator.votes + (annotator.probe == "all"))
        most = labels * (annotator.votes * (1 + annotator.repair) + (annotator.probe != "off"))
        if isinstance(annotator, ModelAnnotatorConfig):
            at_most += annotator.price_per_label * most
            dollars += annotator.price_per_label * asked * (index == 0)
        elif isinstance(annotator, RemoteAnnotatorConfig):
            prices = {mode: find_price(annotator, key, mode) for mode in modes}
            longest = math.ceil(lengths.prompt_at_most)
            bound = prices[annotator.mode].bound(longest, annotator.max_output_tokens)
            at_most += most * bound / NANO
            if index == 0:
                modes = {
                    mode: _dollars(price, asked * lengths.prompt, asked * lengths.output)
                    for mode, price in prices.items()
                }
                dollars += modes[annotator.mode]
                basis = lengths.basis
        if index == 0:
            questions = asked
            prompt_tokens = round(asked * lengths.prompt)
            output_tokens = round(asked * lengths.output)
            output_at_most = asked * annotator.max_output_tokens
    return {
        "dollars": round_dollars(dollars),
        "dollars_synchronous": round_dollars(modes["sync"] or dollars),
        "dollars_batch": round_dollars(modes["batch"] or dollars),
        "dollars_at_most": round_dollars(min(at_most, config.stopping.dollars or at_most)),
        "dollars_assume": basis,
        "annotator_requests": questions,
        "annotator_prompt_tokens": prompt_tokens,
        "annotator_output_tokens": output_tokens,
        "annotator_output_tokens_at_most": output_at_most,
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
        bounds = CostBounds(annotator, find_price(annotator, key), find_counter(annotator, key))
        prompt = PromptWriter(annotator, config.prompt).write(text)
        return bounds.worst(AnnotationRequest("", 0, 0, prompt)) * annotator.votes
    price = to_nano(annotator.price_per_label)
    if isinstance(annotator, HumanAnnotatorConfig):
        return price * annotator.most_answers
    return price * annotator.votes if isinstance(annotator, LLMAnnotatorConfig) else price


def estimate_judge(config: RunConfig, answers: int, texts: Sequence[str]) -> Numbers:
    """Return questions and dollars for grading `answers` answers to tasks such as `texts` by all
    judges; empty without a judge.

    Answer and reference are counted as the longest that the target model may write, and a verdict
    as `ASSUMED` tokens, or as long as the worked examples.
    """
    judges = config.evaluation.list_judges()
    if not judges:
        return {}
    dollars = 0.0
    for key, judge in judges:
        asked = answers * judge.votes
        if isinstance(judge, RemoteAnnotatorConfig):
            lengths = _expect_lengths(config, judge, key, texts, None)
            tokens = lengths.prompt + 2 * config.model.max_new_tokens
            price = find_price(judge, key, judge.mode)
            dollars += _dollars(price, asked * tokens, asked * lengths.output)
        elif isinstance(judge, ModelAnnotatorConfig):
            dollars += judge.price_per_label * asked
    asked = answers * sum(judge.votes for _, judge in judges)
    return {"judge_requests": asked, "judge_dollars": round_dollars(dollars)}


def estimate_larger(config: RunConfig, answers: int, texts: Sequence[str]) -> Numbers:
    """Return questions and dollars of larger models that are rivals of the tuned model, each of
    which answers its share of `answers`; empty without any.
    """
    larger = [
        (f"evaluation.rivals.{place}.model", rival.model)
        for place, rival in enumerate(config.evaluation.rivals)
        if isinstance(rival, LargerRival)
    ]
    if not larger:
        return {}
    requests = 0
    dollars = 0.0
    for key, model in larger:
        asked = answers // len(larger) * model.votes
        requests += asked
        if isinstance(model, RemoteAnnotatorConfig):
            lengths = _expect_lengths(config, model, key, texts, None)
            price = find_price(model, key, model.mode)
            dollars += _dollars(price, asked * lengths.prompt, asked * lengths.output)
        elif isinstance(model, ModelAnnotatorConfig):
            dollars += model.price_per_label * asked
    return {"rival_requests": requests, "rival_dollars": round_dollars(dollars)}


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


def _expect_lengths(
    config: RunConfig,
    annotator: LLMAnnotatorConfig,
    key: str,
    texts: Sequence[str],
    journal: Journal | None,
) -> Lengths:
    """Return the tokens to expect of a question to `annotator` about a text such as `texts`."""
    shots = [(text, "") for text in texts[: annotator.shots]]
    writer = PromptWriter(annotator, config.prompt, shots)
    prompts = [writer.write(text) for text in texts[:: -(-len(texts) // SAMPLE)] or [""]]
    own = None
    at_most = 0.0
    measured = None
    if isinstance(annotator, RemoteAnnotatorConfig):
        own = find_counter(annotator, key)
        bounds = CostBounds(annotator, find_price(annotator, key), own)
        at_most = statistics.mean(bounds.bound_prompt(prompt) for prompt in prompts)
        measured = _find_measured(config, annotator, key, journal) if journal else None
    if measured is not None:
        count = f"{measured.count} earlier answers to the same questions"
        basis = f"prompts have {measured.prompt:.0f} tokens and answers {measured.output:.0f}"
        return Lengths(measured.prompt, measured.output, f"{basis}, as {count}", at_most)
    named = "the annotator's tokenizer" if own else "the target model's tokenizer"
    counter = own or _count_as_target(config)
    shared = counter(" ".join([writer.system, *(text for _, text in writer.shots)]))
    prompt = shared + statistics.mean(counter(each.turns[-1][1]) for each in prompts)
    worked = [shot.output for shot in (annotator.examples or config.prompt.few_shot)]
    output = float(ASSUMED)
    known = "a guess before the first answer"
    if worked:
        output = statistics.mean(counter(text) for text in worked)
        known = "the mean of the worked examples"
    output = min(output, annotator.max_output_tokens)
    basis = f"answers have {output:.0f} tokens, {known}"
    return Lengths(prompt, output, f"{basis}; {named} counts prompts", at_most)


def _count_as_target(config: RunConfig) -> CountTokens:
    tokenizer = load_tokenizer(config.model)
    return lambda text: len(tokenizer(text)["input_ids"])


def _find_measured(
    config: RunConfig, annotator: RemoteAnnotatorConfig, key: str, journal: Journal
) -> MeasuredAnswers | None:
    """Return what answers to such questions were billed in the runs of the journal, None without
    any.
    """
    wanted = _shape(config.model_dump(mode="json"), key)
    runs = [record.name for record in journal.runs() if _shape(record.config, key) == wanted]
    return measure_answers(journal, runs, f"{annotator.type}/{annotator.model}")  # type: ignore[attr-defined]


def _shape(config: Mapping[str, Any], key: str) -> list[Any]:
    """Return what decides on the length of a question and its answer, in a configuration as plain
    data.
    """
    section: Any = config
    for part in key.split("."):
        section = (section or {}).get(part)
    return [(config.get("prompt") or {}), *((section or {}).get(name) for name in SHAPING)]


def round_dollars(dollars: float) -> float:
    """Return the amount with `DIGITS` significant digits, and to the cent where that is more."""
    if dollars <= 0:
        return dollars
    return round(dollars, max(2, DIGITS - 1 - math.floor(math.log10(dollars))))


def _dollars(price: Price, prompt_tokens: float, output_tokens: float) -> float:
    """Return the price of these tokens in dollars."""
    return (prompt_tokens * price.input + output_tokens * price.output) / 1_000_000
