"""Selection outside a run of many rounds: from a configured pool once, or from examples in
memory.
"""

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atgen_ray.api.answering import answer, check_model, connected, find_adapter
from atgen_ray.api.configuration import ConfigSource, Location, Overrides, resolve
from atgen_ray.api.errors import without_traceback
from atgen_ray.api.progress import Steps
from atgen_ray.api.running import OnEvent, follow, open_screen
from atgen_ray.api.runs import tabulate_picks
from atgen_ray.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from atgen_ray.config import RunConfig
    from atgen_ray.core.stored import Stored
    from atgen_ray.runs.leased_run import Snapshot
    from atgen_ray.selection import Embeddings

LONGEST_NAME = 63


@without_traceback
def select(
    config: ConfigSource,
    count: int,
    *,
    on_event: OnEvent | None = None,
    storage: Location | None = None,
    name: str | None = None,
    overrides: Overrides = (),
    progress: bool = True,
) -> "pd.DataFrame":
    """Select once from the pool of `config`, with no labels and no training (experimental design).
    The pool needs no answers.

    The work is kept in the storage like a run's, and the same call again resumes it.

    Args:
        config, on_event, storage, overrides, progress: as for `run`.
        count: how many examples to select.
        name: the name that the work is kept under; default: NAME-select-COUNT.

    Returns:
        The selected examples, best first: `rank`, `id`, `row` in the source, `input`, `score`, and
        a column `part_NAME` for every part of the score.

    Raises:
        UserError: a mistake in the configuration or data, or the call was interrupted.
        RunFailedError: as `run`.

    Example:
        strategy = {"selection.strategy": "facility_location"}
        picks = atgen_ray.select("my-task.yaml", 100, overrides=strategy)
        picks[["id", "input", "score"]].head()
    """
    loaded = configure_selection(config, count, overrides, storage, name)
    end = follow(loaded, "select", open_screen(progress), on_event)
    check_selected(loaded, end)
    from atgen_ray.runs.queries import read_picks
    from atgen_ray.store.run_folder import RunFolder

    return tabulate_picks(read_picks(RunFolder(loaded.storage, loaded.name), 1), [])


def configure_selection(
    config: ConfigSource,
    count: int,
    overrides: Overrides = (),
    storage: Location | None = None,
    name: str | None = None,
) -> "RunConfig":
    """Return the configuration of a run that ends once it has selected `count` examples.

    Raises:
        UserError: as `load_config`; or the run would begin with the labels of another.
    """
    _check_count(count)
    settings = {"selection.first.count": count, "stopping.labels": None}
    loaded = resolve(config, overrides, labels=False, storage=storage, name=name)
    if name is None:
        ending = f"-select-{count}"
        name = loaded.name[: LONGEST_NAME - len(ending)] + ending
    loaded = resolve(loaded, settings, labels=False, name=name)
    if loaded.fork_from is not None:
        raise UserError(
            f"fork_from is '{loaded.fork_from}', expected none: `select` begins without labels"
        )
    return loaded


def check_selected(config: "RunConfig", end: "Snapshot") -> None:
    """Check that the selection came to its end.

    Raises:
        UserError: it was stopped before.
    """
    if end.status == "stopped":
        raise UserError(
            f"the selection '{config.name}' was stopped ({end.message}); the same call goes on "
            f"from there"
        )


@without_traceback
def select_examples(
    examples: "Iterable[str | Mapping[str, Any]] | pd.DataFrame",
    count: int,
    *,
    strategy: str = "huds",
    parameters: Mapping[str, Any] | None = None,
    labeled: "Iterable[Mapping[str, Any]] | pd.DataFrame" = (),
    target: "Iterable[str | Mapping[str, Any]] | pd.DataFrame" = (),
    config: ConfigSource | None = None,
    adapter: Location | None = None,
    seed: int = 0,
    progress: bool = True,
) -> "pd.DataFrame":
    """Select among examples in memory, as the query endpoint of the service does; nothing is kept.

    Ray is started for strategies that look at the outputs of a model, and for no others.

    Args:
        examples: texts, or mappings (or a DataFrame) with `text` and maybe `id`; without ids the
            example at place 0 is called "0". Their other keys are columns, for strategies that
            look at them.
        count: how many to select.
        strategy: its name; `atgen-ray config explain` lists all.
        parameters: of the strategy.
        labeled: examples that have their label already: mappings (or a DataFrame) with `id`,
            `text`, and `label` for strategies that look at labels. They are not selected.
        target: prompts of the use in mind, given like `examples`, for strategies that pick for a
            target.
        config: where the strategy needs them, the sections `model`, `prompt`, `engine` and
            `embedding` of this file, preset, mapping or `RunConfig`; only these are looked at.
        adapter: folder of an adapter of the model; default: the untuned model.
        seed: of every random choice.
        progress: as for `run`.

    Returns:
        The selected examples, best first: `rank`, `id`, `row` (the place in `examples` from 0),
        `input`, `score`, and a column `part_NAME` for every part of the score.

    Raises:
        UserError: an unknown strategy or parameter, an example without text, or a strategy that
            needs a model where `config` has none.

    Example:
        texts = ["how to bake bread", "bread recipes", "fix a bike"]
        atgen_ray.select_examples(texts, 2, strategy="ngf_smp")
    """
    from atgen_ray.selection import find_needs, select_batch

    _check_count(count)
    needs = find_needs(strategy, parameters or {})
    pool = _read_examples(examples, "examples")
    known = {row["id"]: row for row in _read_examples(labeled, "labeled")}
    rows = {row["id"]: at for at, row in enumerate(pool)}
    open_ids = [id_ for id_ in rows if id_ not in known]
    if not open_ids:
        raise UserError("examples holds none without a label, expected at least one")
    labels = {id_: row["label"] for id_, row in known.items() if row.get("label") is not None}
    if "labels" in needs and len(labels) < len(known):
        raise UserError(
            f"strategy '{strategy}' looks at labels, expected `label` in every row of labeled"
        )
    prompts = [row["text"] for row in _read_examples(target, "target")]
    if "target" in needs and not prompts:
        raise UserError(f"strategy '{strategy}' picks for a target, expected `target` with prompts")
    settings = _read_sections(config, strategy, needs, seed)
    texts = {row["id"]: row["text"] for row in [*known.values(), *pool]}
    with Steps(open_screen(progress)) as steps:
        features = None
        embeddings = wanted = None
        if needs & {"generations", "samples", "states"}:
            tuned = None if adapter is None else find_adapter(adapter)
            features = _ask_model(settings, sorted(open_ids), texts, needs, tuned, steps)
        if needs & {"embeddings", "target"}:
            embeddings, wanted = _embed(settings, texts, prompts, steps)
        picks = select_batch(
            strategy,
            parameters or {},
            ids=open_ids,
            count=count,
            labeled=known.keys(),
            embeddings=embeddings,
            features=features,
            texts=texts,
            labels=labels,
            target=wanted,
            fields={row["id"]: row for row in pool},
            seed=seed,
        )
    found = [
        pick | {"row": rows[pick["id"]], "input": texts[pick["id"]], "parts": dict(pick["parts"])}
        for pick in picks.to_pylist()
    ]
    return tabulate_picks(found, [])


def _check_count(count: Any) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UserError(f"count is {str(count)[:80]!r}, expected a whole number from 1")


def _read_examples(given: Any, name: str) -> list[dict[str, Any]]:
    """Return rows with `id` and `text`, whose ids are all different."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise UserError(f"{name} is {str(given)[:80]!r}, expected a list of texts or of mappings")
    records = given.to_dict("records") if hasattr(given, "to_dict") else list(given)
    rows: dict[str, dict[str, Any]] = {}
    for at, record in enumerate(records):
        row = {"text": record} if isinstance(record, str) else record
        if not isinstance(row, Mapping) or not isinstance(row.get("text"), str):
            raise UserError(f"{name}[{at}] has no text, expected a string under 'text'")
        id_ = str(row.get("id", at))
        if id_ in rows:
            raise UserError(f"{name} holds the id {id_[:80]!r} twice")
        rows[id_] = {**row, "id": id_}
    return list(rows.values())


def _read_sections(
    config: ConfigSource | None, strategy: str, needs: Iterable[str], seed: int
) -> "RunConfig":
    """Return a configuration with the sections of `config` that selection uses, and defaults for
    everything else.
    """
    from atgen_ray.config import RunConfig
    from atgen_ray.config.loading import read_tree

    tree: Any = config if config is not None else {}
    if isinstance(tree, str | PathLike):
        tree = read_tree(str(Path(tree)))
    if isinstance(tree, RunConfig):
        tree = tree.model_dump()
    if not isinstance(tree, Mapping):
        return resolve(tree)
    read = {"generations", "samples", "states"}
    if dict(tree.get("embedding") or {}).get("source") == "model":
        read |= {"embeddings", "target"}  # they are the model's states
    if not tree.get("model") and set(needs) & read:
        raise UserError(
            f"strategy '{strategy}' looks at the model's outputs, expected config with a section "
            f"`model`"
        )
    kept = {key: tree[key] for key in ("model", "prompt", "engine", "embedding") if tree.get(key)}
    unused = {"data": {"pool": "examples"}, "model": {"id": "none"}, "seed": seed}
    return resolve(unused | kept, labels=False)


def _ask_model(
    config: "RunConfig",
    ids: list[str],
    texts: Mapping[str, str],
    needs: Iterable[str],
    adapter: "Stored | None",
    steps: Steps,
) -> "pa.Table":
    """Generate the features of the examples `ids`, with states if the strategy needs them."""
    import pyarrow as pa

    from atgen_ray.core.records import SAMPLES
    from atgen_ray.engines.hidden_states import append_states

    check_model(config)
    examples = pa.table({"id": ids, "text": [texts[id_] for id_ in ids]})
    samples = SAMPLES if "samples" in needs else 0
    with connected():
        features = answer(config, examples, adapter, steps.start("generation"), samples)
        if "states" not in needs:
            return features
        model, prompt, engine = config.model, config.prompt, config.engine
        progress = steps.start("states")
        return append_states(features, examples, model, prompt, engine, adapter, progress)


def _embed(
    config: "RunConfig", texts: Mapping[str, str], target: list[str], steps: Steps
) -> "tuple[Embeddings, Embeddings]":
    """Compute vectors of `texts`, by id, and of the `target` in this process, whitened by those of
    `texts`.
    """
    from atgen_ray.embedding import EmbeddingSpace, fit_whitening
    from atgen_ray.embedding.encoder import PART_ROWS, embed_texts
    from atgen_ray.ray_runtime.hardware import count_threads
    from atgen_ray.selection import Embeddings

    progress, done = steps.start("embedding"), 0
    everything = [*texts.values(), *target]

    def note() -> None:
        nonlocal done
        progress(min(done, len(everything)), len(everything))
        done += PART_ROWS

    encoder = EmbeddingSpace.of(config).build_encoder(count_threads(1, None))
    vectors = embed_texts(encoder, everything, note)
    whitening = fit_whitening(vectors[: len(texts)], config.embedding.whitening)
    if whitening is not None:
        vectors = whitening.apply(vectors)
    places = [f"{at:09d}" for at in range(len(target))]
    return Embeddings(list(texts), vectors[: len(texts)]), Embeddings(places, vectors[len(texts) :])
