"""The dry run: what a run would read, generate, buy and compute. Contacts no provider and loads no model."""

import math
import statistics
from collections import defaultdict
from typing import Any

from atgen_ray.config import RunConfig
from atgen_ray.journal import open_journal
from atgen_ray.selection import find_strategy

TOKEN_SAMPLE = 200  # prompts whose tokens are counted


def plan_run(config: RunConfig) -> dict[str, Any]:
    """Rows, labels, dollars, tokens, optimiser steps and device minutes of the run that `config` describes.

    Tokens are extrapolated from a sample of prompts; device minutes from the steps of earlier runs of the same model
    in the same journal (None where there is none yet).

    Raises:
        UserError: the data or the model cannot be read.
    """
    from atgen_ray.checkpoints import load_tokenizer
    from atgen_ray.driver import ray_session
    from atgen_ray.pool import build_split
    from atgen_ray.pool.prompts import OverlongPrompt, PromptBuilder

    with ray_session():
        pool = build_split(config.data, config.prompt, "pool", config.seed)
        test = build_split(config.data, config.prompt, "test", config.seed) if config.data.test else None
    builder = PromptBuilder(load_tokenizer(config.model), config.prompt, config.model.max_prompt_tokens)
    lengths = []
    for text in pool.examples["text"].to_pylist()[:TOKEN_SAMPLE]:
        try:
            lengths.append(len(builder.encode(text)))
        except OverlongPrompt:
            lengths.append(config.model.max_prompt_tokens)
    duplicates = pool.examples.num_rows - pool.examples["duplicate_of"].null_count
    selectable = pool.examples.num_rows - (duplicates if config.data.duplicates.action == "exclude" else 0)
    labels = _labels_by_round(config, selectable)
    rows = _rows_by_step(config, selectable, test.examples.num_rows if test else 0, labels)
    generated = rows["generation"] + rows["evaluation"]
    mean_tokens = statistics.mean(lengths)
    return {
        "pool_rows": pool.examples.num_rows,
        "near_duplicates": duplicates,
        "rows_without_use": len(pool.dead),
        "test_rows": test.examples.num_rows if test else 0,
        "rounds": len(labels),
        "labels": labels[-1] if labels else 0,
        "dollars": round(config.annotator.price_per_label * (labels[-1] if labels else 0), 2),
        "generated_rows": generated,
        "prompt_tokens": round(generated * mean_tokens),
        "output_tokens_at_most": generated * config.model.max_new_tokens,
        "optimizer_steps": rows["training"],
        "device_minutes": _estimate_minutes(config, rows),
    }


def _labels_by_round(config: RunConfig, selectable: int) -> list[int]:
    limit = min(selectable, config.stopping.labels or selectable)
    first = config.selection.first.count or config.selection.count
    labels: list[int] = []
    while len(labels) < config.stopping.rounds and (not labels or labels[-1] < limit):
        labels.append(min(limit, first if not labels else labels[-1] + config.selection.count))
    return labels


def _rows_by_step(config: RunConfig, selectable: int, test: int, labels: list[int]) -> dict[str, int]:
    """Rows of every step over the whole run; for training, optimiser steps."""
    training, first = config.training, config.selection.first.strategy
    rows: dict[str, int] = defaultdict(int)
    rows["evaluation"] = test * (len(labels) + config.evaluation.zero_shot)
    for index, count in enumerate(labels):
        strategy = find_strategy(first if first and index == 0 else config.selection.strategy)
        if strategy.needs & {"generations", "samples"}:
            left = selectable - (labels[index - 1] if index else 0)
            rows["generation"] += min(left, config.selection.candidates or left)
        if "embeddings" in strategy.needs:
            rows["embedding"] = selectable
        learnt = max(1, round(count * (1 - config.evaluation.dev_fraction)))
        rows["training"] += math.ceil(math.ceil(learnt / training.batch_size) * training.epochs)
    return rows


def _estimate_minutes(config: RunConfig, rows: dict[str, int]) -> float | None:
    journal = open_journal(config.storage, config.database_url)
    speeds = defaultdict(list)
    for record in journal.runs():
        if record.config["model"]["id"] == config.model.id:
            for event in journal.events(record.name):
                if event.kind == "step" and event.payload.get("rows") and event.seconds:
                    speeds[event.step].append(event.seconds / event.payload["rows"])
    if any(count and not speeds[step] for step, count in rows.items()):
        return None
    return round(sum(count * statistics.median(speeds[step]) for step, count in rows.items() if count) / 60, 1)
