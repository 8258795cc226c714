"""Dry run: estimates what a run would read, generate, buy and compute, without contacting a
provider or loading a model.

Rules of `stopping` that depend on scores cannot be predicted, so the run may end earlier than
estimated.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.annotation import cost_estimate as annotation
from atgen_ray.annotation.cost_estimate import (
    check_budget,
    estimate_annotation,
    estimate_judge,
    estimate_larger,
)
from atgen_ray.annotation.disclosure import find_remote_notes, find_remote_warnings
from atgen_ray.config import RunConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.machine import machine
from atgen_ray.core.records import DeadLetter
from atgen_ray.data import Split, build_split, overlap
from atgen_ray.data.chosen_ids import read_ids
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import OverlongPromptError, PromptBuilder
from atgen_ray.preflight import (
    Inputs,
    find_cluster_problems,
    find_notes,
    find_problems,
    raise_problems,
)
from atgen_ray.ray_runtime.placement import watch_waiting
from atgen_ray.ray_runtime.session import is_private, quieten_ray_data, run_session
from atgen_ray.runs.given_labels import LEAKED, GivenLabels
from atgen_ray.runs.rivals.estimate import estimate_rivals
from atgen_ray.selection.strategy import MODEL
from atgen_ray.store.journal import Journal, open_journal

TOKEN_SAMPLE = 200  # prompts whose tokens are counted
DEAD_LETTERS = 10  # unusable rows that are shown


def plan_run(
    config: RunConfig, tell: Callable[[str | None], None] = lambda _: None
) -> dict[str, Any]:
    """Return rows, labels, dollars, tokens, optimiser steps and device minutes of the run that
    `config` describes.

    Tokens are extrapolated from a sample of prompts, device minutes from the steps of earlier runs
    of the same model in the same journal (None without such runs). `dead_letters` has the first
    unusable rows with their reasons, `notes` has surprising consequences of the configuration, and
    `problems` has the lines of the preflight.

    Small local files are read in this process. Otherwise Ray is started for them, and also where it
    runs on a cluster: `tell` then receives what Ray cannot place, and what is free.

    Raises:
        UserError: the data or the model cannot be read; with the other lines of the preflight.
    """
    inputs = Inputs(config, duplicates=True)
    cluster = not is_private()
    problems = find_problems(config, "run", inputs, cluster)
    if inputs.problems:
        raise_problems([*inputs.problems, *problems])
    here = (
        inputs.pool is not None
        and (inputs.test is not None or config.data.test is None)
        and (inputs.target is not None or config.data.target is None)
        and (inputs.labeled is not None or config.data.labeled is None)
    )
    read = (inputs.pool, inputs.test, inputs.target, inputs.labeled)
    if here and not cluster:
        return _plan(config, *read, problems)

    with run_session(), watch_waiting(tell):
        problems += find_cluster_problems(config) if cluster else []
        if here:
            return _plan(config, *read, problems)
        return plan_within_ray(config, problems)


def plan_within_ray(config: RunConfig, problems: Sequence[str] = ()) -> dict[str, Any]:
    """Return the plan where Ray is running already and reads the data; `problems` were found
    before.
    """
    quieten_ray_data()
    seed = config.seed if config.data.seed is None else config.data.seed
    pool = build_split(config.data, config.prompt, "pool", seed)
    test = build_split(config.data, config.prompt, "test", seed) if config.data.test else None
    wanted = config.data.target
    target = build_split(config.data, config.prompt, "target", seed) if wanted else None
    given = config.data.labeled
    labeled = build_split(config.data, config.prompt, "labeled", seed) if given else None
    return _plan(config, pool, test, target, labeled, problems)


def _plan(
    config: RunConfig,
    pool: "Split | None",
    test: "Split | None",
    target: "Split | None",
    labeled: "Split | None",
    problems: Sequence[str],
) -> dict[str, Any]:
    """Return the plan for splits that have been read."""
    if pool is None:
        raise ValueError("the pool was not read")
    leaked = overlap(pool.examples, test.examples) if test else []
    given = GivenLabels(labeled, config.data.labeled, test) if labeled else None
    known = given.take(pool.examples, leaked) if given else []
    dead = [
        *pool.dead,
        *(test.dead if test else ()),
        *(target.dead if target else ()),
        *(given.dead if given else ()),
        *(DeadLetter(id_, "pool", LEAKED) for id_ in leaked),
    ]
    rows = test.examples.num_rows if test else 0
    warnings = [
        *filter(None, [warn_of_overlap(pool.examples.num_rows, len(leaked))]),
        *find_remote_warnings(config, datetime.fromtimestamp(machine().time(), UTC).date()),
    ]
    read = {
        "rows_without_use": len(pool.dead) + len(leaked),
        "test_rows": rows,
        **({"target_rows": target.examples.num_rows} if target else {}),
        "dead_letters": [
            f"{dead_letter.id}: {dead_letter.reason}" for dead_letter in dead[:DEAD_LETTERS]
        ],
        "notes": [
            *find_notes(config, test.examples if test else None),
            *find_remote_notes(config),
        ],
        "problems": list(problems),
        **({"warnings": warnings} if warnings else {}),
    }
    try:
        with closing(open_journal(config.storage, config.database_url)) as journal:
            summary = PoolSummary(pool.examples.num_rows)
            summary.add(pool.examples, [*leaked, *known])
            summary.given = len(given.labels) if given else 0
            return estimate_run(config, summary, rows, journal) | read
    except UserError as error:
        # The user sees the lines of the preflight and of this error together.
        raise_problems([*problems, *str(error).splitlines()])
        raise


def warn_of_overlap(rows: int, leaked: int) -> str | None:
    """Return a warning if `leaked` of the pool's `rows` examples are in the test set too, else
    None.
    """
    if not leaked:
        return None
    return f"{leaked} of {rows} examples of data.pool stand in data.test too: they are never picked"


class PoolSummary:
    """What an estimate needs of a pool of `rows` examples, whose parts are added in order."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.duplicates = 0
        self.leaked = 0  # examples that are in the test set too, or labelled before
        self.excludable = 0  # near-duplicates that are not
        self.given = 0  # labels that data.labeled gives
        self.shortest: str | None = None
        self.texts: list[str] = []  # spread evenly over the pool
        self._step = math.ceil(rows / TOKEN_SAMPLE)
        self._added = 0

    def add(self, part: pa.Table, leaked: Sequence[str]) -> None:
        """Add the next examples (POOL_SCHEMA), of which the ids `leaked` are in the test set or
        labelled before, and so never selected.
        """
        if not len(part):
            return
        duplicate = pc.is_valid(part["duplicate_of"])
        self.duplicates += pc.sum(duplicate).as_py()
        self.leaked += len(leaked)
        in_test = pc.is_in(part["id"], pa.array(leaked, pa.string()))
        self.excludable += pc.sum(pc.and_not(duplicate, in_test)).as_py()
        lengths = pc.binary_length(part["text"]).to_numpy()
        shortest = part["text"][int(lengths.argmin())].as_py()
        if self.shortest is None or lengths.min() < len(self.shortest.encode()):
            self.shortest = shortest
        first = -self._added % self._step
        spread = pa.array(range(first, len(part), self._step), pa.int64())
        self.texts += part["text"].take(spread).to_pylist()
        self._added += len(part)


def estimate_run(
    config: RunConfig, pool: PoolSummary, test_rows: int, journal: Journal
) -> dict[str, Any]:
    """Return the estimate for `pool`.

    Raises:
        UserError: a budget buys no label at all.
    """
    check_budget(config, [] if pool.shortest is None else [pool.shortest])
    # Leaked and, if so configured, duplicate examples are read but never selected.
    selectable = pool.rows - pool.leaked
    if config.data.duplicates.action == "exclude":
        selectable -= pool.excludable
    labels = estimate_labels(config, selectable)
    work = estimate_work(config, pool.rows, selectable, test_rows, labels, pool.given)
    texts = pool.texts
    bought = labels[-1] if labels else 0
    audit = config.evaluation.audit
    measured = audit.labels if audit else 0
    rivals = estimate_rivals(config, test_rows, measured, bought - measured + pool.given)
    graded = work["evaluation"] + rivals.graded
    work["evaluation"] += rivals.generated
    work["embedding"] += rivals.embedded
    generated = work["generation"] + work["evaluation"]
    return {
        "pool_rows": pool.rows,
        "near_duplicates": pool.duplicates,
        **({"given_labels": pool.given} if pool.given else {}),
        "rounds": len(labels),
        "labels": bought,
        **estimate_annotation(config, bought, texts, journal),
        **estimate_judge(config, graded, texts),
        **estimate_larger(config, rivals.asked, texts),
        "annotation_minutes": annotation.estimate_minutes(config, bought, journal),
        "generated_rows": generated,
        # A selection that reads no model does not need one.
        "prompt_tokens": round(generated * _count_tokens(config, texts)) if generated else 0,
        "output_tokens_at_most": generated * config.model.max_new_tokens,
        "optimizer_steps": work["training"],
        "device_minutes": estimate_minutes(journal, config.model.id, work),
    }


def estimate_labels(config: RunConfig, selectable: int) -> list[int]:
    """Return the labels after each round when `selectable` examples may be selected."""
    limit = min(selectable, config.stopping.labels or selectable)
    labels: list[int] = []
    total = config.evaluation.audit.labels if config.evaluation.audit else 0
    ids = config.selection.ids
    chosen = None if ids is None else len(read_ids(ids))
    while len(labels) < config.rounds and total < limit:
        first = chosen if chosen is not None and not labels else None
        total = min(limit, total + (first or config.count_picks(len(labels) + 1)))
        labels.append(total)
    return labels


def estimate_work(
    config: RunConfig, pool: int, selectable: int, test: int, labels: list[int], given: int = 0
) -> dict[str, int]:
    """Return the rows of each step over the whole run with `labels` after each round; for training,
    optimiser steps.

    `pool` examples are read, of which `selectable` may be selected, and `test` are in the test set;
    `given` labels come from data.labeled.
    The dev split is counted as `evaluation.dev_fraction` of the labels; in a run it is drawn.
    """
    training = config.training
    selection = config.selection
    dev_fraction = config.evaluation.dev_fraction
    audit = config.evaluation.audit
    measured = audit.labels if audit else 0
    test += measured
    work = {
        "embedding": pool if config.embeds else 0,
        "generation": 0,
        "training": 0,
        "evaluation": test * (config.evaluation.starts + bool(config.evaluation.few_shot)),
    }
    for index, count in enumerate(labels):
        needs = config.list_needs(index + 1)
        if needs & MODEL:
            # The model answers the candidates, or with a shortlist only its examples.
            left = selectable - (labels[index - 1] if index else measured)
            seen = min(left, selection.candidates or left)
            if selection.shortlist:
                seen = min(seen, selection.shortlist.count)
            work["generation"] += seen
        learnt = count - measured + given
        dev = round(learnt * dev_fraction)
        work["evaluation"] += test + dev
        batches = math.ceil(max(1, learnt - dev) / training.batch_size)
        work["training"] += math.ceil(batches * training.epochs)
    return work


def estimate_minutes(journal: Journal, model: str, work: dict[str, int]) -> float | None:
    """Return the minutes for `work` at the median speed of each step in earlier runs of `model`, or
    None if a step has no earlier run.
    """
    speeds: dict[str | None, list[float]] = defaultdict(list)
    for record in journal.runs():
        if record.config["model"]["id"] == model:
            for event in journal.steps(record.name):
                if event.payload.get("rows") and event.seconds:
                    speeds[event.step].append(event.seconds / event.payload["rows"])
    if any(count and not speeds[step] for step, count in work.items()):
        return None
    seconds = sum(count * statistics.median(speeds[step]) for step, count in work.items() if count)
    return round(seconds / 60, 1)


def _count_tokens(config: RunConfig, texts: list[str]) -> float:
    """Return the mean tokens of a prompt, from the sample `texts`."""
    longest = config.model.max_prompt_tokens
    builder = PromptBuilder(load_tokenizer(config.model), config.prompt, longest)
    lengths = []
    for text in texts:
        try:
            lengths.append(len(builder.encode(text)))
        except OverlongPromptError:
            lengths.append(longest)
    return statistics.mean(lengths)
