"""Score a model, or an adapter of a run, on given data by given metrics."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from atgen_ray.api.answering import answer, check_model, connected, find_adapter
from atgen_ray.api.configuration import ConfigSource, Location, Overrides, resolve
from atgen_ray.api.errors import without_traceback
from atgen_ray.api.progress import Steps
from atgen_ray.api.running import open_screen
from atgen_ray.api.runs import Run, refer_adapter, tabulate_predictions
from atgen_ray.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from atgen_ray.config import RunConfig
    from atgen_ray.core.stored import Stored
    from atgen_ray.evaluation import Aggregate

# Columns that rows in memory have where nothing else is said.
INPUT, REFERENCES = "input", "references"


@dataclass(frozen=True)
class Evaluation:
    """How good the answers of a model are.

    Attributes:
        metrics: for each metric its `mean` over `count` examples, and the bounds `low` and `high`
            of its bootstrap interval.
            With `labels` these are estimates over the pool, with their standard `error`.
        adapter: the folder of the adapter that was scored; None is the untuned model.
        measured: with `labels`, for each model its `model`, `labels` and `metrics`, and for those
            in `against` the `differences` from the first, by metric: `mean` (above the first where
            it is positive), `low`, `high`, `count` and `error`. Empty else.
    """

    metrics: "dict[str, Aggregate]"
    adapter: Path | None
    _rows: list[dict[str, Any]] = field(repr=False)
    _texts: dict[str, str] = field(repr=False)
    measured: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def table(self) -> "pd.DataFrame":
        """Return a row for each metric: `metric`, `mean`, `low`, `high`, `count`."""
        import pandas as pd

        rows = [{"metric": name, **values} for name, values in self.metrics.items()]
        return pd.DataFrame(rows, columns=["metric", "mean", "low", "high", "count"])

    def predictions(self) -> "pd.DataFrame":
        """Return a row for each example: `id`, `split`, `input`, `prediction`, `references`,
        `error` if the engine gave no answer (which counts as an empty one), and a column for every
        metric.
        """
        return tabulate_predictions(self._rows, self._texts, ("error",))

    def _repr_html_(self) -> str:
        from atgen_ray.api.html import format_table

        columns = ["metric", "mean", "low", "high", "count"]
        rows = [
            (name, value["mean"], value["low"], value["high"], value["count"])
            for name, value in self.metrics.items()
        ]
        return format_table("evaluation", columns, rows)


@without_traceback
def evaluate(
    model: ConfigSource | Run,
    data: "Location | Iterable[Mapping[str, Any]] | pd.DataFrame | None" = None,
    *,
    metrics: Sequence[str] | None = None,
    round: int | None = None,
    adapter: Location | None = None,
    input: str | None = None,
    references: str | Sequence[str] | None = None,
    labels: int | None = None,
    against: Sequence[str | Run] = (),
    overrides: Overrides = (),
    progress: bool = True,
) -> Evaluation:
    """Let a model answer examples greedily, and score the answers.

    Nothing is kept. Ray is started as for `run`.

    With `labels` no answers need be known: a sample of the pool is labelled by the annotator of the
    configuration, as few as are asked for, and the scores are estimates over the pool, with
    intervals. That work is a run of the name MODEL-evaluate-LABELS, which is kept: the same call
    goes on where an earlier one was interrupted, and pays for no label twice.

    Args:
        model: a run, whose adapter is scored; or a configuration as for `run`, of which the
            sections model, prompt, engine and evaluation count. A mapping may hold the section
            `model` alone: {"model": {"id": "Qwen/Qwen3-0.6B"}}.
        data: rows in memory (mappings, or a DataFrame), or a file, folder, URL or data set as
            `data.test` names one; default: the test set of the run or configuration.
        metrics: their names; default: evaluation.metrics of the configuration.
        round: of a run: the adapter after this round, where 0 is the untuned model; default: the
            last one.
        adapter: folder of an adapter to score instead.
        input: column of the input; default: data.input of the configuration, else "input".
        references: column or columns of the known answers; default: those of the configuration,
            else "references".
        labels: how many examples of the pool may be labelled to measure by, 8 or more.
        against: with `labels`: other models, answered for the same examples and compared with the
            first: runs, their names, RUN:ROUND, "untuned", or folders of adapters. No example that
            any of these runs had labelled is drawn.
        overrides: settings to change, as for `run`.
        progress: as for `run`.

    Raises:
        UserError: unknown metrics or columns, no data, or a model that cannot be loaded. Metrics
            that ask judges are refused: their paid requests belong to a run, which keeps them.

    Example:
        run = atgen_ray.open_run("demo")
        tuned = atgen_ray.evaluate(run, "more-papers.jsonl", metrics=["rougeL", "chrf"])
        untuned = atgen_ray.evaluate(run, "more-papers.jsonl", metrics=["rougeL", "chrf"], round=0)
        tuned.metrics["rougeL"]["mean"] - untuned.metrics["rougeL"]["mean"]
        found = atgen_ray.evaluate(run, labels=100, against=["untuned"])
        found.measured[1]["differences"]["rougeL"]
    """
    if labels is not None:
        if data is not None or input is not None or references is not None:
            raise UserError("labels is given beside data, expected one of them")
        more = {} if metrics is None else {"evaluation.metrics": _list_names(metrics, "metrics")}
        return _measure(model, labels, against, round, adapter, overrides, more, progress)
    if against:
        raise UserError("against is given, expected labels beside it")
    if round is not None and (adapter is not None or not isinstance(model, Run)):
        raise UserError(f"round is {round}, expected it for a run, and no adapter beside it")
    tuned = find_adapter(adapter) if adapter is not None else None
    if isinstance(model, Run) and adapter is None:
        tuned = _find_tuned(model, round)
    settings = {} if metrics is None else {"evaluation.metrics": _list_names(metrics, "metrics")}
    with _materialized(data) as location:
        source = _describe(model, location, input, references)
        config = resolve(resolve(source, overrides, labels=False), settings, labels=False)
        _check(config)
        from atgen_ray.preflight import Inputs, raise_problems

        # Small files are read here, so that a mistake in them is told before Ray starts.
        inputs = Inputs(config)
        split = inputs.test
        raise_problems(inputs.problems)
        check_model(config)
        with connected(), Steps(open_screen(progress)) as steps:
            if split is None:
                from atgen_ray.data import build_split

                seed = config.seed if config.data.seed is None else config.data.seed
                split = build_split(config.data, config.prompt, "test", seed)
            return _answer_and_score(config, split.examples, split.gold, tuned, steps)


def _measure(
    model: ConfigSource | Run,
    labels: int,
    against: Sequence[str | Run],
    round: int | None,
    adapter: Location | None,
    overrides: Overrides,
    more: Mapping[str, Any],
    progress: bool,
) -> Evaluation:
    """Return how good models are on the pool, by as few labels."""
    from atgen_ray.api.configuration import check_files
    from atgen_ray.api.measuring import configure_measurement, read_answers, read_measured
    from atgen_ray.api.running import follow

    config = configure_measurement(
        model, labels, against, round=round, adapter=adapter, overrides=overrides
    )
    config = resolve(config, more)
    check_files(config)
    end = follow(config, "evaluate", open_screen(progress))
    if end.status == "stopped":
        raise UserError(f"'{config.name}' was stopped ({end.message}); the same call goes on")
    measured = read_measured(config)
    rows, texts = read_answers(config)
    tuned = None
    if isinstance(model, Run) and adapter is None:
        tuned = _find_tuned(model, round)
    elif adapter is not None:
        tuned = find_adapter(adapter)
    folder = None if tuned is None else tuned.local()
    return Evaluation(measured[0]["metrics"], folder, rows, texts, measured)


def _find_tuned(run: Run, round: int | None) -> "Stored | None":
    """Return the adapter of a run after `round`; None for the untuned model."""
    if round == 0:
        return None
    return refer_adapter(run, round)


def _describe(
    model: ConfigSource | Run,
    location: str | None,
    input: str | None,
    references: str | Sequence[str] | None,
) -> ConfigSource:
    """Return the configuration whose data.test holds the examples to answer."""
    source: ConfigSource = model.config if isinstance(model, Run) else model
    if isinstance(source, Mapping) and "data" not in source and location is not None:
        source = {**source, "data": {"pool": location, "references": REFERENCES}}
    changes: dict[str, Any] = {}
    if location is not None:
        changes = {"data.test": location, "data.path": None, "data.format": "auto"}
        changes["data.test_limit"] = None
    if input is not None:
        changes["data.input"] = input
    if references is not None:
        changes["data.test_references"] = _list_names(references, "references")
    return resolve(source, changes, labels=False)


def _check(config: "RunConfig") -> None:
    """Check that there is something to answer, and no metric that only a run can have."""
    from atgen_ray.evaluation import METRICS

    if config.data.test is None:
        raise UserError("data.test is null, expected data to answer: rows, or where they are")
    for name in config.evaluation.metrics or ():
        if METRICS[name].judges:
            raise UserError(
                f"metrics holds '{name}', whose paid requests belong to a run: set "
                f"evaluation.metrics of a run instead"
            )


def _list_names(names: str | Sequence[str], key: str) -> list[str]:
    found = [names] if isinstance(names, str) else list(names)
    if not found or not all(isinstance(name, str) for name in found):
        raise UserError(f"{key} is {str(names)[:80]!r}, expected names")
    return found


@contextmanager
def _materialized(data: Any) -> Iterator[str | None]:
    """Yield where the rows are during the block; rows in memory are written to a file."""
    if data is None or isinstance(data, str | PathLike):
        yield None if data is None else str(data)
        return
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise UserError(f"data is {str(data)[:80]!r}, expected rows, or where they are")
    from atgen_ray.core.strict_json import encode_json

    records = data.to_dict("records") if hasattr(data, "to_dict") else list(data)
    for at, row in enumerate(records):
        if not isinstance(row, Mapping):
            raise UserError(f"data[{at}] is {str(row)[:80]!r}, expected a mapping of columns")
    if not records:
        raise UserError("data holds no rows, expected at least one")
    with TemporaryDirectory(prefix="atgen-rows-") as folder:
        path = Path(folder) / "rows.jsonl"
        lines = [encode_json(dict(row)) + "\n" for row in records]
        path.write_text("".join(lines), encoding="utf-8")
        yield str(path)


def _answer_and_score(
    config: "RunConfig",
    examples: "pa.Table",
    gold: "pa.Table",
    tuned: "Stored | None",
    steps: Steps,
) -> Evaluation:
    from atgen_ray.engines.likelihood import list_references, read_nats
    from atgen_ray.engines.registry import build_engine
    from atgen_ray.evaluation import METRICS, Resources, choose_metrics, evaluate_splits
    from atgen_ray.evaluation.ray_scoring import score_on_ray

    texts = dict(zip(examples["id"].to_pylist(), examples["text"].to_pylist(), strict=True))
    known = {row["id"]: row["references"] for row in gold.to_pylist()}
    named = [reference for each in known.values() for reference in each]
    metrics = choose_metrics(config.evaluation.metrics, (), named)
    progress = steps.start("evaluation")
    answers: list[dict[str, Any]] = [{"id": id_, "text": "", "error": None} for id_ in texts]
    if not all(METRICS[name].likelihood for name in metrics):
        features = answer(config, examples, tuned, progress)
        answers = features.select(["id", "text", "error"]).to_pylist()
    nats = {}
    if any(METRICS[name].likelihood for name in metrics):
        batch = config.model.model_copy(update={"host": "batch"})
        engine = build_engine(batch, config.prompt, config.engine)
        asked = list_references(texts, known, engine)
        nats = read_nats(answer(config, asked, tuned, progress))
    rows, found = evaluate_splits(
        dict.fromkeys(texts, "test"),
        {row["id"]: row["text"] or "" for row in answers},
        known,
        metrics,
        config.evaluation.bootstrap_samples,
        config.evaluation.confidence,
        config.seed,
        sources=texts,
        resources=Resources(config.evaluation.models),
        scorer=score_on_ray,
        nats=nats,
    )
    errors = {row["id"]: row["error"] for row in answers}
    rows = [row | {"error": errors[row["id"]]} for row in rows]
    return Evaluation(found["test"], None if tuned is None else tuned.local(), rows, texts)
