"""Annotation: what faults of providers cost (nothing), how fast rows are labelled against a slow
provider, and how much of a budget becomes labels.

    python benchmarks/annotation.py [--output benchmarks/results/annotation] [--only
    faults|throughput|budget] [--history 100000]

All run against the stand-in of tests/helpers/fakes, which speaks OpenAI's and Anthropic's wires
over HTTP, through the official SDKs. Throughput stands beside that of a client of thirty lines,
which keeps neither journal nor ledger, by as many requests in flight in the same run; `--history`
rows are in the journal before. A budget is held in three ways: by bytes and the longest answer,
as before issue 20; by what answers have cost so far; and by that with the model's tokenizer.
Writes PREFIX.json, PREFIX.md and PREFIX.png.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))

import openai  # noqa: E402
import tokenizers  # noqa: E402
from helpers.annotation_desk import QUICK, Desk, configure, make_texts  # noqa: E402
from helpers.fakes.provider import FakeProvider, run_provider  # noqa: E402
from helpers.fakes.state import label_of  # noqa: E402
from helpers.faults import list_trials, try_fault  # noqa: E402

from atgen_ray.annotation.llm.annotator import LLMAnnotator  # noqa: E402
from atgen_ray.annotation.llm.billing import BillingPolicy  # noqa: E402
from atgen_ray.annotation.llm.prompts import PromptWriter  # noqa: E402
from atgen_ray.annotation.llm.request_log import RequestLog  # noqa: E402
from atgen_ray.annotation.llm.request_records import Settlement  # noqa: E402
from atgen_ray.annotation.registry import build_provider  # noqa: E402
from atgen_ray.annotation.request import AnnotationRequest  # noqa: E402
from atgen_ray.config.prices import find_price  # noqa: E402
from atgen_ray.store.ledger import read_balance  # noqa: E402

LATENCY = 0.2  # seconds of every answer
IN_FLIGHT = (1, 4, 16, 64)
LONGEST = 512  # tokens of an answer
HELD = ("bytes and the longest answer", "answers so far", "answers so far, tokenizer")
GUIDELINES = "State the outcome of the paper in one sentence, with its numbers. " * 3
COLUMNS = ("lost", "paid_twice", "mislabelled", "missing", "doubt", "labelled", "dead", "pauses")


def try_faults(provider: FakeProvider, folder: Path) -> list[dict[str, Any]]:
    rows = []
    for number, (fault, kind, mode) in enumerate(list_trials()):
        place = folder / f"fault-{number}"
        place.mkdir()
        account = try_fault(fault, provider, place, kind, mode)
        counts = {name: getattr(account, name) for name in COLUMNS}
        rows.append({"fault": fault.name, "provider": kind, "mode": mode} | counts)
    return rows


async def ask_plainly(url: str, prompts: list[Any], at_once: int) -> list[str]:
    """What one would write by hand: the official SDK, a semaphore, and the answers in memory."""
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    room = asyncio.Semaphore(at_once)

    async def ask(prompt: Any) -> str:
        turns: list[Any] = [{"role": "system", "content": prompt.system}]
        turns += [{"role": role, "content": text} for role, text in prompt.turns]
        async with room:
            answer = await client.chat.completions.create(
                model="fake", messages=turns, max_tokens=20, temperature=0
            )
        return str(answer.choices[0].message.content)

    return list(await asyncio.gather(*(ask(prompt) for prompt in prompts)))


def fill_journal(desk: Desk, rows: int) -> None:
    """Enter `rows` answered requests of an earlier round."""
    site = desk.site(1)
    log = RequestLog(site.journal, site.lease, site.ledger, "openai/fake", 1)
    prompt = PromptWriter(desk.config.annotator, desk.config.prompt).write("an earlier text")  # type: ignore[arg-type]
    for start in range(0, rows, 10_000):
        pieces = [
            [(AnnotationRequest(f"old-{at}", 0, 0, prompt), 0)]
            for at in range(start, min(rows, start + 10_000))
        ]
        shards, _ = log.intend(pieces, lambda request: 1000)
        log.settle(
            {
                shard.hash: [
                    Settlement(attempt.custom_id, "answered", 500, {"text": "x"}, None, 100, 5)
                    for attempt in shard.attempts
                ]
                for shard in shards
            }
        )


def measure_throughput(
    provider: FakeProvider, folder: Path, rows: int, sample: int, history: int
) -> list[dict[str, Any]]:
    found = []
    for at_once in IN_FLIGHT:
        count = sample if at_once < 16 else rows
        texts = make_texts(count)
        provider.reset()
        provider.set(latency=LATENCY)
        place = folder / f"at-once-{at_once}"
        place.mkdir()
        # Neither asks the provider to keep the answers.
        config = configure(
            provider, "openai", "sync", concurrency=at_once, timeout_seconds=30.0, recovery="none"
        )
        writer = PromptWriter(config.annotator, config.prompt)  # type: ignore[arg-type]
        prompts = [writer.write(text) for text in texts.values()]
        started, used = time.perf_counter(), time.process_time()
        answers = asyncio.run(ask_plainly(provider.openai, prompts, at_once))
        plain, plain_cpu = time.perf_counter() - started, time.process_time() - used
        assert answers == [label_of(text) for text in texts.values()]
        desk = Desk(provider, place, config, texts)
        if history:
            fill_journal(desk, history)
        started, used = time.perf_counter(), time.process_time()
        labels, dead = desk.annotate(2)
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
        assert (len(labels), len(dead)) == (count, 0)
        found.append(
            {
                "in_flight": at_once,
                "rows": count,
                "rows_a_second": round(count / seconds, 1),
                "cpu_ms_a_row": round(1000 * cpu / count, 1),
                "asyncio_client_rows_a_second": round(count / plain, 1),
                "asyncio_client_cpu_ms_a_row": round(1000 * plain_cpu / count, 1),
            }
        )
        print(found[-1], flush=True)
    return found


def make_tokenizer(folder: Path) -> str:
    """The tokenizer of the stand-in's model: four characters a token."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(r"[\s\S]{1,4}"), "isolated"
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


def measure_budgets(provider: FakeProvider, folder: Path, rows: int) -> list[dict[str, Any]]:
    """Label `rows` texts of 50 to 200 characters by batch jobs, with budgets around what they cost
    without one; answers have 14 tokens in the mean, some three times as many.
    """
    rng = random.Random(0)
    texts = {
        f"e{at:03d}": f"{'some words of a paper ' * rng.randint(2, 8)}{at} [[words-{words}]]"
        for at in range(rows)
        for words in [min(40, int(rng.lognormvariate(1.9, 0.6)))]
    }
    tokenizer = make_tokenizer(folder / "tokenizer")
    settings: dict[str, Any] = {
        "price": {"input": 0.25, "output": 2.0, "batch_discount": 0.5},
        "max_output_tokens": LONGEST,
        "guidelines": GUIDELINES,
        "shard_rows": 20_000,
    }
    whole = folder / "true-cost"
    whole.mkdir()
    desk = Desk(provider, whole, configure(provider, "openai", "batch", **settings), texts)
    assert len(desk.annotate()[0]) == rows
    cost = read_balance(desk.journal, "paid").paid
    outputs = [bill.output for bill in provider.bills()]
    print(
        f"{cost:.6f} dollars, answers of {sum(outputs) / rows:.1f} tokens, at most {max(outputs)}"
    )
    found = []
    for share in (0.5, 1.0, 1.2):
        for held in HELD:
            provider.reset()
            place = folder / f"budget-{share}-{held}"
            place.mkdir()
            more = {"tokenizer": tokenizer} if "tokenizer" in held else {}
            config = configure(
                provider, "openai", "batch", {"dollars": share * cost}, **settings, **more
            )
            desk = Desk(provider, place, config, texts)
            annotator = build_as_before(desk) if held == HELD[0] else desk.annotator()
            labels, _ = annotator.annotate_batch([*texts], [*texts.values()])
            price = find_price(config.annotator, "annotator")  # type: ignore[arg-type]
            used = sum(
                price.nano(label.provenance["prompt_tokens"], label.provenance["output_tokens"])
                for label in labels
            )
            paid = read_balance(desk.journal, "paid").paid
            assert paid <= share * cost
            found.append(
                {
                    "budget": f"{share:g} x true cost",
                    "held_by": held,
                    "labels": f"{len(labels)} of {rows}",
                    "budget_that_became_labels": f"{used / 1e9 / (share * cost):.1%}",
                    "paid_for_answers_cut": f"{(paid - used / 1e9) / (share * cost):.1%}",
                    "batch_jobs": provider.calls()["/v1/batches"]
                    or provider.calls()["POST /v1/batches"],
                }
            )
            print(found[-1], flush=True)
    return found


def build_as_before(desk: Desk) -> LLMAnnotator:
    """An annotator whose ledger learns nothing."""
    config: Any = desk.config.annotator
    price = find_price(config, "annotator")
    billing = BillingPolicy(
        worst=lambda request: price.nano(request.prompt.tokens_at_most, LONGEST),
        cost=price.nano,
        resend=False,
        cancel=False,
    )
    provider = build_provider(config, desk.config.name, "annotator")
    return LLMAnnotator(config, desk.site(), provider, billing, QUICK, "openai/fake")


def tabulate(report: dict[str, list[dict[str, Any]]]) -> str:
    parts = []
    for rows in report.values():
        names = list(rows[0])
        lines = [
            f"| {' | '.join(name.replace('_', ' ') for name in names)} |",
            "|" + " --- |" * len(names),
        ]
        parts.append(
            "\n".join(
                [*lines, *(f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows)]
            )
        )
    return "\n\n".join(parts) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    numbers = [row["in_flight"] for row in rows]
    for name, label in (
        ("rows_a_second", "atgen-ray"),
        ("asyncio_client_rows_a_second", "30 lines of asyncio"),
    ):
        axes.plot(numbers, [row[name] for row in rows], "o-", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.set_xlabel("requests in flight")
    axes.set_ylabel(f"rows a second, {LATENCY * 1000:.0f} ms an answer")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/annotation"), metavar="PREFIX"
    )
    parser.add_argument("--only", choices=["faults", "throughput", "budget"])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument(
        "--sample", type=int, default=100, help="rows with fewer than 16 requests in flight"
    )
    parser.add_argument(
        "--history", type=int, default=0, help="answered requests in the journal before"
    )
    arguments = parser.parse_args()
    report: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name, run_provider(Path(name)) as provider:
        if arguments.only in (None, "throughput"):
            report["throughput"] = measure_throughput(
                provider, Path(name), arguments.rows, arguments.sample, arguments.history
            )
        if arguments.only in (None, "budget"):
            report["budget"] = measure_budgets(provider, Path(name), 300)
        if arguments.only in (None, "faults"):
            report["faults"] = try_faults(provider, Path(name))
    prefix = arguments.output
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    prefix.with_suffix(".md").write_text(tabulate(report))
    print(tabulate(report))
    if "throughput" in report:
        draw(report["throughput"], prefix.with_suffix(".png"))


if __name__ == "__main__":
    main()
