"""Checks of data, prompts and metrics: small local files are read here in the way a run reads them;
large or remote ones are left to the run.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa

from atgen_ray.config import (
    DataConfig,
    ModelAnnotatorConfig,
    PromptConfig,
    RunConfig,
    list_annotators,
)
from atgen_ray.core.errors import UserError
from atgen_ray.core.locations import locate
from atgen_ray.data import Split, build_split
from atgen_ray.data.chosen_ids import find_unknown_ids, read_ids
from atgen_ray.data.in_process import reading_in_process
from atgen_ray.data.split import SplitName
from atgen_ray.evaluation import METRICS, Case, Resources, choose_metrics
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import OverlongPromptError, PromptBuilder
from atgen_ray.preflight.check import Setting, list_models
from atgen_ray.preflight.inspection import inspect_checkpoint

SMALL = 8 << 20  # bytes of files that are read here: about a second's work
SAMPLE = 50  # rows that prompts and metrics are tried on
# Settings of adapters, which full fine-tuning does not read.
ADAPTER_KEYS = {"rank", "alpha", "dropout", "target_modules"}
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class Inputs:
    """The splits of a run that are small files of this machine. Each is read once, when first asked
    for.

    A split is None if it is large, elsewhere or not configured. `problems` has a line for each
    split that cannot be used.
    """

    def __init__(self, config: RunConfig, duplicates: bool = False) -> None:
        """Prepare to read; with `duplicates` near-duplicates are found too, which takes most of the
        time.
        """
        off = config.data.duplicates.model_copy(update={"action": "off"})
        self._data = (
            config.data if duplicates else config.data.model_copy(update={"duplicates": off})
        )
        self._config = config
        self.problems: list[str] = []

    @cached_property
    def pool(self) -> Split | None:
        """Return the pool."""
        return self._read("pool", self._data.pool)

    @cached_property
    def test(self) -> Split | None:
        """Return the test set."""
        return None if self._data.test is None else self._read("test", self._data.test)

    @cached_property
    def target(self) -> Split | None:
        """Return the target."""
        return None if self._data.target is None else self._read("target", self._data.target)

    @cached_property
    def labeled(self) -> Split | None:
        """Return the rows that are labelled before the run."""
        location = self._data.labeled
        return None if location is None else self._read("labeled", location)

    def _read(self, split: SplitName, location: str) -> Split | None:
        config = self._config
        seed = config.seed if config.data.seed is None else config.data.seed
        try:
            key = f"data.{split}"
            if not is_small(self._data.narrow(key), key, location):
                return None
            with reading_in_process():
                return build_split(self._data, config.prompt, split, seed)
        except UserError as error:
            self.problems += str(error).splitlines()
            return None


def is_small(data: DataConfig, key: str, location: str) -> bool:
    """Return whether `location`, the value of `key`, is on this disk and small. It is small too if
    nothing is there, since reading it then tells so at once.

    Raises:
        UserError: a package that is not installed, or without such a file.
    """
    if data.path is not None:
        key = "data.path"
        location = data.path
    path = locate(location, key)
    if data.format == "huggingface" or "://" in path:
        return False
    try:
        found = (
            [Path(path)]
            if Path(path).exists()
            else [Path(str(each)) for each in fsspec.filesystem("file").glob(path)]
        )
        files = [file for each in found for file in (each.rglob("*") if each.is_dir() else [each])]
        # Columns in the names of folders (key=value) are read by Ray Data alone.
        if any("=" in part for file in files for part in file.parts):
            return False
        if not found and _HUB_ID.fullmatch(path) and not Path(path).suffix:
            return False
        return sum(file.stat().st_size for file in files if file.is_file()) <= SMALL
    except OSError:  # too long a name, no permission: the reader gives the message for it
        return True


def find_data_files(data: DataConfig) -> dict[str, tuple[str, str]]:
    """Return by key the locations of the data that are on this disk, each as given and as an
    absolute path or pattern.

    Raises:
        UserError: a package that is not installed, or without such a file.
    """
    named = data.locations
    if data.path is not None:
        named = {"data.path": data.path, "data.labeled": data.labeled}
    found = {}
    for key, location in named.items():
        if location is None or data.narrow(key).format == "huggingface":
            continue
        path = locate(location, key)
        if "://" not in path and _is_here(absolute := str(Path(path).absolute())):
            found[key] = (location, absolute)
    return found


def check_data_files(setting: Setting, places: dict[str, tuple[str, str]]) -> Iterator[str]:
    """Check that this machine has the `places` that `find_data_files` found on another: Ray reads
    on every machine.
    """
    for key, (location, path) in places.items():
        if not _is_here(path):
            yield (
                f"{key} is '{location}', which not all machines of this Ray cluster have at "
                f"{path}, expected a path that they share, or a URL as s3://BUCKET/FILE"
            )


def _is_here(path: str) -> bool:
    """Return whether there is a file or folder at an absolute path or pattern."""
    try:
        return Path(path).exists() or bool(fsspec.filesystem("file").glob(path))
    except (OSError, ValueError):  # too long a name; the reader gives the message for it
        return False


def check_data(setting: Setting, inputs: Inputs) -> Iterator[str]:
    """Check the files, columns and template of the pool, the test set, the target and the rows
    labelled before.
    """
    _ = inputs.pool, inputs.test, inputs.target, inputs.labeled  # reading them fills `problems`
    yield from inputs.problems


def check_ids(setting: Setting, inputs: Inputs) -> Iterator[str]:
    """Check the ids of selection.ids, as far as the pool is read here."""
    given = setting.config.selection.ids
    if given is None:
        return
    ids = read_ids(given)
    if inputs.pool is not None:
        yield from find_unknown_ids(given, ids, [inputs.pool.examples])


def check_prompts(setting: Setting, inputs: Inputs) -> Iterator[str]:
    """Check that every model's tokenizer makes prompts of the first examples, and that models which
    are given instructions have a chat template.
    """
    config = setting.config
    texts = inputs.pool.examples["text"].slice(0, SAMPLE).to_pylist() if inputs.pool else []
    for key, model, _ in list_models(setting):
        prompt = config.prompt if key == "model" else PromptConfig()
        try:
            inspect_checkpoint(model.id, f"{key}.id", model.revision)
            tokenizer = load_tokenizer(model, f"{key}.id")
            builder = PromptBuilder(tokenizer, prompt, model.max_prompt_tokens)
        except UserError as error:
            # The message names the key of the target model; here it may be an annotator's.
            yield re.sub(r"^model\.", f"{key}.", str(error))
            continue
        if key != "model" and tokenizer.chat_template is None and not _has_shots(setting, key):
            yield (
                f"{key}.id is '{model.id}', whose tokenizer has no chat template, expected a "
                f"model that follows "
                f"instructions, or worked examples in {key.rpartition('.')[0]}.examples"
            )
        if key == "model" and texts and not any(_fits(builder, text) for text in texts):
            yield (
                f"model.max_prompt_tokens is {model.max_prompt_tokens}, which none of the first "
                f"{len(texts)} examples "
                "keeps within, and prompt.overlong is 'reject': make it larger, or set "
                "prompt.overlong=truncate"
            )


def check_metrics(setting: Setting, inputs: Inputs) -> Iterator[str]:
    """Check every metric that loads no model on references, each compared with itself."""
    if not setting.trains or inputs.problems:
        return
    evaluation = setting.config.evaluation
    stopping = setting.config.stopping
    split = inputs.test or inputs.pool
    gold = split.gold.slice(0, SAMPLE)["references"].to_pylist() if split else []
    cases = [Case(references[0], references, references[0]) for references in gold]
    if not cases:
        return
    names = choose_metrics(
        evaluation.metrics, stopping.steering, [case.prediction for case in cases]
    )
    for name in names:
        metric = METRICS[name]
        if not metric.heavy and not metric.judges and not metric.likelihood:
            yield from _try_metric(name, cases)


def _try_metric(name: str, cases: Sequence[Case]) -> Iterator[str]:
    try:
        values = np.asarray(METRICS[name].score(cases, Resources()), dtype=np.float64)
    except Exception as error:  # whatever it raises here would end the run once labels are paid
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        yield (
            f"evaluation.metrics holds '{name}', which fails on the answers of this dataset: "
            f"{reason[:200]}"
        )
        return
    if np.isnan(values).all() and len(cases) < SAMPLE:
        yield (
            f"evaluation.metrics holds '{name}', which can judge none of the answers of this "
            f"dataset"
        )


def _fits(builder: PromptBuilder, text: str) -> bool:
    try:
        builder.encode(text)
    except OverlongPromptError:
        return False
    return True


def _has_shots(setting: Setting, key: str) -> bool:
    """Return whether the annotating or judging model of `key` is given worked examples."""
    asked = [
        *list_annotators(setting.config.annotator),
        *setting.config.evaluation.list_asked(),
    ]
    return any(
        isinstance(annotator, ModelAnnotatorConfig) and bool(annotator.examples)
        for name, annotator in asked
        if f"{name}.model" == key
    )


def find_notes(config: RunConfig, test: pa.Table | None) -> list[str]:
    """Return notes on settings that are valid, but that few users want."""
    notes = []
    audit = config.evaluation.audit
    if test is None and audit is not None:
        notes.append(
            f"data.test is null: {audit.labels} labels of the pool measure, and are not trained on"
        )
    elif test is None and not config.evaluation.dev_fraction:
        notes.append(
            "data.test is null and evaluation.dev_fraction is 0: nothing will be evaluated, "
            "without a curve; evaluation.audit measures by labels of the pool"
        )
    elif test is None:
        notes.append("data.test is null: only the dev split of the labels will be evaluated")
    adapter = sorted(config.training.model_fields_set & ADAPTER_KEYS)
    if config.training.method == "full" and adapter:
        notes.append(
            f"training.method is 'full', which has no adapter: training.{adapter[0]} has no effect"
        )
    return notes
