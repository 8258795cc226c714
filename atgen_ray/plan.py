"""The dry run: what a run would read, generate, buy and compute. Contacts no provider and loads no model.

Where the rules of `stopping` look at scores, which nobody knows beforehand, the run may end earlier than planned.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from atgen_ray.annotation import estimate as annotation
from atgen_ray.annotation.estimate import check_budget, estimate_annotation, estimate_judge
from atgen_ray.config import RunConfig
from atgen_ray.journal import Journal, open_journal
from atgen_ray.placement import watch_waiting
from atgen_ray.selection import find_needs
from atgen_ray.state import MODEL, add_needs

TOKEN_SAMPLE = 200  # prompts whose tokens are counted


def plan_run(config: RunConfig, tell: Callable[[str | None], None] = lambda _: None) -> dict[str, Any]:
    """Rows, labels, dollars, tokens, optimiser steps and device minutes of the run that `config` describes.

    Tokens are extrapolated from a sample of prompts; device minutes from the steps of earlier runs of the same model
    in the same journal (None where there is none yet). `tell` hears what Ray cannot place, and what is free.

    Raises:
        UserError: the data or the model cannot be read.
    """
    from atgen_ray.driver import run_session

    with run_session(), watch_waiting(tell):
        return plan_within_ray(config)


def plan_within_ray(config: RunConfig) -> dict[str, Any]:
    """As `plan_run`, where Ray is there already."""
    from atgen_ray.pool import build_split, overlap
    from atgen_ray.ray_session import quieten_ray_data

    quieten_ray_data()
    pool = build_split(config.data, config.prompt, "pool", config.seed)
    test = build_split(config.data, config.prompt, "test", config.seed) if config.data.test else None
    leaked = overlap(pool.examples, test.examples) if test else []
    with closing(open_journal(config.storage, config.database_url)) as journal:
        read = {"rows_without_use": len(pool.dead) + len(leaked), "test_rows": test.examples.num_rows if test else 0}
        plan = estimate_run(config, pool.examples, leaked, read["test_rows"], journal) | read
    warning = warn_of_overlap(pool.examples.num_rows, len(leaked))
    return plan | ({"warnings": [warning]} if warning else {})


def warn_of_overlap(rows: int, leaked: int) -> str | None:
    """What to tell of a pool of `rows` examples, of which `leaked` are in the test set too; None where none is."""
    if not leaked:
        return None
    return f"{leaked} of {rows} examples of data.pool stand in data.test too: they are never picked"


def estimate_run(
    config: RunConfig, pool: pa.Table, leaked: Sequence[str], test_rows: int, journal: Journal
) -> dict[str, Any]:
    """What the run will come to on `pool` (POOL_SCHEMA), of which the ids `leaked` are in the test set too.

    Raises:
        UserError: a budget buys no label at all.
    """
    rows = pool.select(["id", "duplicate_of", "text"]).to_pylist()
    check_budget(config, [row["text"] for row in rows])
    duplicates = {row["id"] for row in rows if row["duplicate_of"]}
    unwanted = {*leaked} | duplicates if config.data.duplicates.action == "exclude" else {*leaked}
    labels = expect_labels(config, len(rows) - len(unwanted))
    work = expect_work(config, len(rows), len(rows) - len(unwanted), test_rows, labels)
    generated = work["generation"] + work["evaluation"]
    texts, bought = [row["text"] for row in rows], labels[-1] if labels else 0
    return {
        "pool_rows": len(rows),
        "near_duplicates": len(duplicates),
        "rounds": len(labels),
        "labels": bought,
        **estimate_annotation(config, bought, texts),
        **estimate_judge(config, work["evaluation"], texts),
        "annotation_minutes": annotation.estimate_minutes(config, bought, journal),
        "generated_rows": generated,
        "prompt_tokens": round(generated * _count_tokens(config, texts)),
        "output_tokens_at_most": generated * config.model.max_new_tokens,
        "optimizer_steps": work["training"],
        "device_minutes": estimate_minutes(journal, config.model.id, work),
    }


def expect_labels(config: RunConfig, selectable: int) -> list[int]:
    """Labels after each round, when `selectable` examples may be picked."""
    limit = min(selectable, config.stopping.labels or selectable)
    labels: list[int] = []
    while len(labels) < config.rounds and (labels[-1] if labels else 0) < limit:
        labels.append(min(limit, (labels[-1] if labels else 0) + config.count_picks(len(labels) + 1)))
    return labels


def expect_work(config: RunConfig, pool: int, selectable: int, test: int, labels: list[int]) -> dict[str, int]:
    """Rows of each step over the whole run with `labels` after each round; for training, optimiser steps.

    `pool` examples are read, of which `selectable` may be picked, and `test` in the test set. What is held out of
    training is as large as `evaluation.dev_fraction` says; in a run it is drawn.
    """
    training, selection, dev_fraction = config.training, config.selection, config.evaluation.dev_fraction
    work = dict.fromkeys(("embedding", "generation", "training", "evaluation"), 0)
    work["evaluation"] = test * (config.evaluation.zero_shot + bool(config.evaluation.few_shot))
    work["embedding"] = pool if training.reweight else 0
    for index, count in enumerate(labels):
        own = selection.first.strategy if index == 0 else None
        needs = find_needs(own or selection.strategy, selection.first.parameters if own else selection.parameters)
        needs = add_needs(needs, selection.shortlist)
        if needs & MODEL:
            left = selectable - (labels[index - 1] if index else 0)
            seen = min(left, selection.candidates or left)
            work["generation"] += min(seen, selection.shortlist.count) if selection.shortlist else seen
        if "embeddings" in needs:
            work["embedding"] = pool
        dev = round(count * dev_fraction)
        work["evaluation"] += test + dev
        work["training"] += math.ceil(math.ceil(max(1, count - dev) / training.batch_size) * training.epochs)
    return work


def estimate_minutes(journal: Journal, model: str, work: dict[str, int]) -> float | None:
    """Minutes for `work` at the median speed of each step in earlier runs of `model`; None for a step never seen."""
    speeds: dict[str | None, list[float]] = defaultdict(list)
    for record in journal.runs():
        if record.config["model"]["id"] == model:
            for event in journal.events(record.name, kind="step"):
                if event.payload.get("rows") and event.seconds:
                    speeds[event.step].append(event.seconds / event.payload["rows"])
    if any(count and not speeds[step] for step, count in work.items()):
        return None
    return round(sum(count * statistics.median(speeds[step]) for step, count in work.items() if count) / 60, 1)


def _count_tokens(config: RunConfig, texts: list[str]) -> float:
    """Mean tokens of a prompt, from a sample spread evenly over `texts`."""
    from atgen_ray.checkpoints import load_tokenizer
    from atgen_ray.pool.prompts import OverlongPrompt, PromptBuilder

    longest = config.model.max_prompt_tokens
    builder = PromptBuilder(load_tokenizer(config.model), config.prompt, longest)
    lengths = []
    for text in texts[:: math.ceil(len(texts) / TOKEN_SAMPLE)]:
        try:
            lengths.append(len(builder.encode(text)))
        except OverlongPrompt:
            lengths.append(longest)
    return statistics.mean(lengths)
