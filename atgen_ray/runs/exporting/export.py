"""Exports of a run by what they are: labels, single answers, a data set, a model, a report, or a
card.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import parse_config
from atgen_ray.core.checkpoints import is_adapter
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.locations import check_output
from atgen_ray.core.strict_json import encode_json
from atgen_ray.models.loading import load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.reporting.publish import compare_runs
from atgen_ray.runs.exporting.cards import write_dataset_card, write_model_card
from atgen_ray.runs.exporting.facts import RunFacts, collect_facts, number_people
from atgen_ray.runs.exporting.folders import CARD, copy_adapter, count_files, make_folder
from atgen_ray.runs.exporting.gguf_file import check_convertible, write_gguf
from atgen_ray.runs.exporting.hub import check_push, push
from atgen_ray.runs.exporting.merging import Merged, save_merged, spread_out
from atgen_ray.runs.exporting.modelfile import write_modelfile
from atgen_ray.runs.messages import write_messages
from atgen_ray.runs.queries import ANSWERS, LABELS, export_labels, read_labels
from atgen_ray.runs.state import RunState
from atgen_ray.runs.tuned_rounds import refer_tuned
from atgen_ray.store.changes import audited
from atgen_ray.store.existing import open_runs
from atgen_ray.store.exports import note_export
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import name_user
from atgen_ray.store.run_folder import RunFolder

DATASET = "dataset"  # labels as a folder for a hub, with their card
GGUF = "gguf"
MODELS = ("adapter", "merged", GGUF)
PAGE = "report"
MODEL_CARD = "card"
KINDS = (LABELS, ANSWERS, DATASET, *MODELS, PAGE, MODEL_CARD)
_PUSHED = ", ".join((DATASET, *MODELS)) + f" or {MODEL_CARD}"
WEIGHTS = "labels in weights"  # what a model is, in the list of exports

Tell = Callable[[str], None]


@dataclass(frozen=True)
class _Source:
    """A run that is exported, and what hears how it goes."""

    config: RunConfig
    journal: Journal
    folder: RunFolder
    tell: Tell


def export_run(
    name: str,
    storage: str,
    database_url: SecretStr | None,
    what: str,
    format: str | None = None,
    output: Path | None = None,
    round: int | None = None,
    tell: Tell = lambda line: None,
    repository: str | None = None,
    public: bool = False,
) -> tuple[int, Path]:
    """Write a part of a run to `output`, by default NAME-WHAT in the working folder; return the
    number of labels or files that were written, and where.

    Args:
        what: one of KINDS.
        format: of labels and answers; default: jsonl.
        round: of a model; default: the last one that was trained.
        tell: receives a line on each thing that was found out, such as the loss of rounding.
        repository: OWNER/NAME on the hub, to which a data set, a model or a card is pushed then.
        public: let others read the repository.

    Raises:
        UserError: an unknown run, kind, format or round, or an output that cannot be written.
    """
    if what not in KINDS:
        raise UserError(f"--what is {what[:80]!r}, expected a known kind{nearest(what, KINDS)}")
    if round is not None and what not in (*MODELS, MODEL_CARD):
        raise UserError(f"--round is {round}, but --what {what} is of the whole run: leave it out")
    if repository is not None:
        if what not in (DATASET, *MODELS, MODEL_CARD):
            raise UserError(f"--push takes {_PUSHED}, but --what is '{what}'")
        check_push(repository)
    if what in (LABELS, ANSWERS):
        return export_labels(name, storage, database_url, format or "jsonl", output, what)
    if format is not None:
        raise UserError(f"--format is {format[:80]!r}, but --what {what} has one format alone")
    with open_runs(storage, database_url) as journal:
        source = open_source(journal, name, storage, database_url, tell)
        with audited(journal.database, f"export {what}", run=name) as said:
            if what == PAGE:
                page = output or Path(f"{name}-report.html")
                return 1, compare_runs([name], storage, database_url, page)
            path = output or Path(f"{name}-card.md" if what == MODEL_CARD else f"{name}-{what}")
            place = str(path.absolute())
            files, said["rows"] = write_part(source, what, path, round, name_user(), place)
        if repository is not None:
            _push(source, what, path, said["rows"], repository, public)
    return files, path


def _push(source: _Source, what: str, path: Path, rows: int, repository: str, public: bool) -> None:
    """Push what was written to the hub, and enter that it went there."""
    name = source.config.name
    kind = "dataset" if what == DATASET else "model"
    with audited(source.journal.database, f"push {what}", run=name, to=repository) as said:
        said["rows"] = rows
        url = push(path, repository, kind, public, f"{what} of the run {name} of atgen-ray")
    note_export(source.journal, name, _noun(what), what, rows, name_user(), url)
    source.tell(f"pushed to {url}{'' if public else ', which is private'}")


def _noun(what: str) -> str:
    """Return what an export holds, for the list of exports."""
    return {DATASET: LABELS, MODEL_CARD: MODEL_CARD}.get(what, WEIGHTS)


def open_source(
    journal: Journal,
    name: str,
    storage: str,
    database_url: SecretStr | None,
    tell: Tell = lambda line: None,
) -> _Source:
    """Return the run `name` of an open journal, to be exported.

    Raises:
        UserError: no run has that name.
    """
    # The storage as it is called here: the run may have been started in another folder.
    here = {"storage": storage, "database_url": database_url}
    config = parse_config(journal.run(name).config | here, labels=False)
    return _Source(config, journal, RunFolder(storage, name), tell)


def write_part(
    source: _Source, what: str, path: Path, round: int | None, by: str, place: str | None
) -> tuple[int, int]:
    """Write a data set, a model or a card to `path` and enter that it left the house; return how
    many files were written, and how many labels they hold or learnt from.

    Args:
        by, place: as in `note_export`.
    """
    files, rows = _write(source, what, path, round)
    note_export(source.journal, source.config.name, _noun(what), what, rows, by, place)
    return files, rows


def _write(source: _Source, what: str, path: Path, round: int | None) -> tuple[int, int]:
    """Return what `write_part` returns."""
    if what == MODEL_CARD:
        check_output(path)
        trained, tuned = refer_tuned(source.journal, source.folder, round)
        facts = collect_facts(source.config, source.journal, source.folder, trained)
        kind = "adapter" if is_adapter(tuned.local()) else "merged"
        path.write_text(write_model_card(facts, kind), encoding="utf-8")
        return 1, 1
    with make_folder(path) as folder:
        if what == DATASET:
            rows = write_dataset(source, folder)
        else:
            rows = write_model(source, what, round, folder)
        return count_files(folder), rows


def write_dataset(source: _Source, folder: Path) -> int:
    """Write the labels as rows and as chats with their card; return their number."""
    config = source.config
    rows = read_labels(source.journal, config.storage, config.name)
    numbered = number_people(row["annotator"] for row in rows)
    rows = [row | {"annotator": person} for row, person in zip(rows, numbered, strict=True)]
    files = {"default": "labels.jsonl", "messages": "messages.jsonl"}
    chats = write_messages(rows, config.prompt.system)
    for file, lines in zip(files.values(), (rows, chats), strict=True):
        with (folder / file).open("wb") as opened:
            opened.writelines(encode_json(line).encode() + b"\n" for line in lines)
    last = max((row["round"] for row in rows), default=0)
    facts = collect_facts(config, source.journal, source.folder, last)
    (folder / CARD).write_text(write_dataset_card(facts, files), encoding="utf-8")
    return len(rows)


def write_model(source: _Source, what: str, round: int | None, folder: Path) -> int:
    """Write the model of a round with its card to `folder`; return how many labels it learnt
    from.
    """
    config = source.config
    round, stored = refer_tuned(source.journal, source.folder, round)
    tuned = stored.local()
    facts = collect_facts(config, source.journal, source.folder, round)
    notes: list[str] = []
    if what == GGUF:
        check_convertible(config.model)
    if what == "adapter":
        if not is_adapter(tuned):
            raise UserError(
                f"--what is 'adapter', but run '{config.name}' trained all weights "
                f"(training.method is {config.training.method}): expected merged"
            )
        copy_adapter(tuned, folder, facts.base)
    elif what == GGUF:
        notes += write_for_llama_cpp(source, facts, tuned, folder)
    else:
        notes.append(describe_rounding(merge(source, facts, tuned, folder)))
    for note in notes:
        source.tell(note)
    (folder / CARD).write_text(write_model_card(facts, what, notes), encoding="utf-8")
    return facts.labels


def merge(source: _Source, facts: RunFacts, tuned: Path, folder: Path) -> Merged:
    """Write the merged model to `folder`; its rounding is measured on labels of the run."""
    config = source.config
    state = RunState(config, source.journal, source.folder)
    labels = spread_out(state.labels(facts.round))
    texts = state.texts(label.id for label in labels)
    pairs = [(texts[label.id], label.text) for label in labels]
    return save_merged(config.model, config.prompt, tuned, pairs, folder)


def write_for_llama_cpp(source: _Source, facts: RunFacts, tuned: Path, folder: Path) -> list[str]:
    """Write the merged model as a GGUF file with its Modelfile; return what was measured."""
    config = source.config
    file = f"{config.name}.gguf"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".merged-") as place:
        whole = Path(place)
        merged = merge(source, facts, tuned, whole)
        apart = write_gguf(config.model, config.prompt, merged, whole, folder / file, config.name)
        saved = config.model.model_copy(update={"id": place, "revision": None})
        prompts = PromptBuilder(
            load_tokenizer(saved), config.prompt, config.model.max_prompt_tokens
        )
    modelfile = write_modelfile(file, prompts, config.model)
    (folder / "Modelfile").write_text(modelfile, encoding="utf-8")
    notes = [describe_rounding(merged)]
    if apart is not None:
        notes.append(
            f"The GGUF file was read back with transformers and gave the log-probabilities of the "
            f"merged model: they differ by {apart}."
        )
    return notes


def describe_rounding(merged: Merged) -> str:
    """Return one line on what rounding to the base's number format did."""
    if merged.rounding is None:
        return (
            f"The weights are in {merged.dtype}, as the base's. What rounding did was not "
            f"measured: the run has no label that fits its prompt."
        )
    return (
        f"The weights are in {merged.dtype}, as the base's. Rounding to it moved the "
        f"log-probabilities of the run's own labels by {merged.rounding}, against base and "
        f"adapter in float32."
    )
