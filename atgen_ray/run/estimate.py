"""The dry run: what a run would read, generate, buy and compute. Contacts no provider and loads no
model.

Where the rules of `stopping` look at scores, which nobody knows beforehand, the run may end earlier
than planned.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from atgen_ray.annotation import cost_estimate as annotation
from atgen_ray.annotation.cost_estimate import check_budget, estimate_annotation, estimate_judge
from atgen_ray.config import RunConfig
from atgen_ray.config.selection import add_needs
from atgen_ray.core.errors import UserError
from atgen_ray.core.records import DeadLetter
from atgen_ray.data import Split, build_split, overlap
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import OverlongPrompt, PromptBuilder
from atgen_ray.preflight import (
    Inputs,
    find_cluster_problems,
    find_notes,
    find_problems,
    raise_problems,
)
from atgen_ray.ray_runtime.placement import watch_waiting
from atgen_ray.ray_runtime.session import is_private, quieten_ray_data, run_session
from atgen_ray.selection import find_needs
from atgen_ray.selection.strategy import MODEL
from atgen_ray.store.journal import Journal, open_journal

TOKEN_SAMPLE = 200  # prompts whose tokens are counted
DEAD_LETTERS = 10  # rows without use that are shown
LEAKED = "its text is also in the test set"


def plan_run(
    config: RunConfig, tell: Callable[[str | None], None] = lambda _: None
) -> dict[str, Any]:
    """Rows, labels, dollars, tokens, optimiser steps and device minutes of the run that `config`
    describes.

    Tokens are extrapolated from a sample of prompts; device minutes from the steps of earlier runs
    of the same model in the same journal (None where there is none yet). `dead_letters` has the
    first rows that cannot be used, with the reason; `notes` is what nobody wants without knowing
    it; `problems` has the lines of the preflight.

    Small local files are read in this process; otherwise Ray is started for them, and where it
    works on a cluster: `tell` then hears what Ray cannot place, and what is free.

    Raises:
        UserError: the data or the model cannot be read; with the other lines of the preflight.
    """
    inputs = Inputs(config, duplicates=True)
    cluster = not is_private()
    problems = find_problems(config, "run", inputs, cluster)
    if inputs.problems:
        raise_problems([*inputs.problems, *problems])
    here = inputs.pool is not None and (inputs.test is not None or config.data.test is None)
    if here and not cluster:
        return _plan(config, inputs.pool, inputs.test, problems)

    with run_session(), watch_waiting(tell):
        problems += find_cluster_problems(config) if cluster else []
        if here:
            return _plan(config, inputs.pool, inputs.test, problems)
        return plan_within_ray(config, problems)


def plan_within_ray(config: RunConfig, problems: Sequence[str] = ()) -> dict[str, Any]:
    """As `plan_run`, where Ray is there already and reads the data; `problems` were found
    before.
    """
    quieten_ray_data()
    seed = config.seed if config.data.seed is None else config.data.seed
    pool = build_split(config.data, config.prompt, "pool", seed)
    test = build_split(config.data, config.prompt, "test", seed) if config.data.test else None
    return _plan(config, pool, test, problems)


def _plan(
    config: RunConfig, pool: "Split | None", test: "Split | None", problems: Sequence[str]
) -> dict[str, Any]:

    if pool is None:
        raise ValueError("the pool was not read")
    leaked = overlap(pool.examples, test.examples) if test else []
    dead = [
        *pool.dead,
        *(test.dead if test else ()),
        *(DeadLetter(id_, "pool", LEAKED) for id_ in leaked),
    ]
    rows = test.examples.num_rows if test else 0
    warning = warn_of_overlap(pool.examples.num_rows, len(leaked))
    read = {
        "rows_without_use": len(pool.dead) + len(leaked),
        "test_rows": rows,
        "dead_letters": [f"{letter.id}: {letter.reason}" for letter in dead[:DEAD_LETTERS]],
        "notes": find_notes(config, test.examples if test else None),
        "problems": list(problems),
        **({"warnings": [warning]} if warning else {}),
    }
    try:
        with closing(open_journal(config.storage, config.database_url)) as journal:
            return estimate_run(config, pool.examples, leaked, rows, journal) | read
    except UserError as error:
        raise_problems([*problems, *str(error).splitlines()])
        raise


def warn_of_overlap(rows: int, leaked: int) -> str | None:
    """What to tell of a pool of `rows` examples, of which `leaked` are in the test set too; None
    where none is.
    """
    if not leaked:
        return None
    return f"{leaked} of {rows} examples of data.pool stand in data.test too: they are never picked"


def estimate_run(
    config: RunConfig, pool: pa.Table, leaked: Sequence[str], test_rows: int, journal: Journal
) -> dict[str, Any]:
    """What the run will come to on `pool` (POOL_SCHEMA), of which the ids `leaked` are in the test
    set too.

    Raises:
        UserError: a budget buys no label at all.
    """
    rows = pool.select(["id", "duplicate_of", "text"]).to_pylist()
    check_budget(config, [row["text"] for row in rows])
    duplicates = {row["id"] for row in rows if row["duplicate_of"]}
    unwanted = {*leaked} | duplicates if config.data.duplicates.action == "exclude" else {*leaked}
    labels = estimate_labels(config, len(rows) - len(unwanted))
    work = estimate_work(config, len(rows), len(rows) - len(unwanted), test_rows, labels)
    generated = work["generation"] + work["evaluation"]
    texts = [row["text"] for row in rows]
    bought = labels[-1] if labels else 0
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


def estimate_labels(config: RunConfig, selectable: int) -> list[int]:
    """Labels after each round, when `selectable` examples may be picked."""
    limit = min(selectable, config.stopping.labels or selectable)
    labels: list[int] = []
    while len(labels) < config.rounds and (labels[-1] if labels else 0) < limit:
        labels.append(
            min(limit, (labels[-1] if labels else 0) + config.count_picks(len(labels) + 1))
        )
    return labels


def estimate_work(
    config: RunConfig, pool: int, selectable: int, test: int, labels: list[int]
) -> dict[str, int]:
    """Rows of each step over the whole run with `labels` after each round; for training, optimiser
    steps.

    `pool` examples are read, of which `selectable` may be picked, and `test` in the test set. What
    is held out of training is as large as `evaluation.dev_fraction` says; in a run it is drawn.
    """
    training = config.training
    selection = config.selection
    dev_fraction = config.evaluation.dev_fraction
    work = dict.fromkeys(("embedding", "generation", "training", "evaluation"), 0)
    work["evaluation"] = test * (config.evaluation.zero_shot + bool(config.evaluation.few_shot))
    work["embedding"] = pool if training.reweight else 0
    for index, count in enumerate(labels):
        own = selection.first.strategy if index == 0 else None
        needs = find_needs(
            own or selection.strategy, selection.first.parameters if own else selection.parameters
        )
        needs = add_needs(needs, selection.shortlist)
        if needs & MODEL:
            left = selectable - (labels[index - 1] if index else 0)
            seen = min(left, selection.candidates or left)
            work["generation"] += (
                min(seen, selection.shortlist.count) if selection.shortlist else seen
            )
        if "embeddings" in needs:
            work["embedding"] = pool
        dev = round(count * dev_fraction)
        work["evaluation"] += test + dev
        work["training"] += math.ceil(
            math.ceil(max(1, count - dev) / training.batch_size) * training.epochs
        )
    return work


def estimate_minutes(journal: Journal, model: str, work: dict[str, int]) -> float | None:
    """Minutes for `work` at the median speed of each step in earlier runs of `model`; None for a
    step never seen.
    """
    speeds: dict[str | None, list[float]] = defaultdict(list)
    for record in journal.runs():
        if record.config["model"]["id"] == model:
            for event in journal.events(record.name, kind="step"):
                if event.payload.get("rows") and event.seconds:
                    speeds[event.step].append(event.seconds / event.payload["rows"])
    if any(count and not speeds[step] for step, count in work.items()):
        return None
    return round(
        sum(count * statistics.median(speeds[step]) for step, count in work.items() if count) / 60,
        1,
    )


def _count_tokens(config: RunConfig, texts: list[str]) -> float:
    """Mean tokens of a prompt, from a sample spread evenly over `texts`."""
    longest = config.model.max_prompt_tokens
    builder = PromptBuilder(load_tokenizer(config.model), config.prompt, longest)
    lengths = []
    for text in texts[:: math.ceil(len(texts) / TOKEN_SAMPLE)]:
        try:
            lengths.append(len(builder.encode(text)))
        except OverlongPrompt:
            lengths.append(longest)
    return statistics.mean(lengths)
