"""How good models are on a pool without answers, by as few labels as asked for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atgen_ray.api.configuration import ConfigSource, Location, Overrides, resolve
from atgen_ray.api.runs import Run, find_place
from atgen_ray.core.errors import UserError

if TYPE_CHECKING:
    from atgen_ray.config import RunConfig

LEAST = 8  # labels; fewer measure nothing
LONGEST_NAME = 63


def configure_measurement(
    model: "ConfigSource | Run",
    labels: int,
    against: Sequence[str | Run] = (),
    *,
    round: int | None = None,
    adapter: Location | None = None,
    overrides: Overrides = (),
    storage: Location | None = None,
    name: str | None = None,
) -> "RunConfig":
    """Return the configuration of a run that labels a sample of the pool and scores models by it.

    Args:
        model: what is measured: a run, or a configuration, of which the untuned model is measured.
        labels: to buy at most.
        against: other models, to be compared on the same examples.
        round, adapter: as for `evaluate`.
        name: of the work; default: MODEL-evaluate-LABELS.

    Raises:
        UserError: as `load_config`; too few labels, or an unknown run.
    """
    if labels < LEAST:
        raise UserError(f"labels is {labels}, expected {LEAST} or more")
    first = str(adapter) if adapter is not None else "untuned"
    if isinstance(model, Run) and adapter is None:
        first = model.name if round is None else f"{model.name}:{round}"
    others = [each.name if isinstance(each, Run) else str(each) for each in against]
    source: ConfigSource = model.config if isinstance(model, Run) else model
    loaded = resolve(source, overrides, storage=storage)
    if name is None:
        ending = f"-evaluate-{labels}"
        name = loaded.name[: LONGEST_NAME - len(ending)] + ending
    audit = loaded.evaluation.audit
    sections = {} if audit is None else audit.model_dump()
    settings: dict[str, Any] = {
        "evaluation.audit": sections | {"labels": labels, "models": [first, *others]},
        "evaluation.dev_fraction": 0.0,
        # Nothing is trained, and no rule ends it but the money.
        "stopping.labels": None,
        "stopping.plateau": None,
        "stopping.gain": None,
        "stopping.dev_target": {},
        "fork_from": None,
        "data.test": None,
    }
    return resolve(loaded, settings, name=name)


def add_rivals(
    run: Run,
    names: Sequence[str],
    overrides: Overrides = (),
    storage: Location | None = None,
) -> "RunConfig":
    """Return the configuration of `run` with the rivals `names`, as their defaults are, beside
    those that it has.

    Raises:
        UserError: a name is unknown.
    """
    had = run.config
    loaded = resolve(had, overrides, storage=storage)
    asked = resolve(loaded, {"evaluation.rivals": [name.strip() for name in names]})
    merged = {rival.key: rival for each in (had, asked) for rival in each.evaluation.rivals}
    rivals = [rival.model_dump() for rival in merged.values()]
    return resolve(loaded, {"evaluation.rivals": rivals}, name=run.name)


def open_model(source: str, storage: Location | None) -> "ConfigSource | Run":
    """Return the run of that name if the storage has one, and else the configuration `source`."""
    from atgen_ray.store.existing import open_runs
    from atgen_ray.store.journal import find_journal

    place = find_place(storage, None)
    name = source.partition(":")[0]
    journal = find_journal(*place)
    if journal is None:
        return source
    with open_runs(*place) as runs:
        return Run(name, place) if runs.find_run(name) is not None else source


def read_measured(config: "RunConfig") -> list[dict[str, Any]]:
    """Return what was found of each model, as `describe_models`."""
    from atgen_ray.store.layout import AUDIT_MODELS
    from atgen_ray.store.run_folder import RunFolder

    found: list[dict[str, Any]] = RunFolder(config.storage, config.name).read_json(AUDIT_MODELS)
    return found


def read_answers(config: "RunConfig") -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the scored answers of the first model, and the inputs by id."""
    from atgen_ray.store.run_folder import RunFolder

    folder = RunFolder(config.storage, config.name)
    rows = [row | {"error": None} for row in folder.read_jsonl("audit/000/predictions.jsonl")]
    ids = [row["id"] for row in rows]
    texts = folder.read_rows("pool.parquet", ids, ["id", "text"])
    return rows, {row["id"]: row["text"] for row in texts}
