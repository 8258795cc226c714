"""Runs that are there: what they bought, picked, learnt and answered, as tables.

A `Run` is a name and a place. Every call reads the journal or the run's folder anew, so a run that
goes on shows how far it has come.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atgen_ray.api.configuration import Location
from atgen_ray.api.errors import without_traceback
from atgen_ray.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from datasets import Dataset
    from pydantic import SecretStr

    from atgen_ray.config import RunConfig
    from atgen_ray.core.stored import Stored
    from atgen_ray.runs.additions import Addition
    from atgen_ray.store.events import Event
    from atgen_ray.store.run_folder import RunFolder

# Storage and URL of the journal, as the rooms below take them.
Place = tuple[str, "SecretStr | None"]


class Run:
    """A run of a storage, as `run` and `open_run` return it.

    Tables are pandas DataFrames, empty but for their columns where there is nothing yet. Rounds
    count from 1; round 0 is the untuned model.

    Example:
        run = atgen_ray.open_run("demo")
        run.status, len(run.labels()), run.adapter()
    """

    def __init__(self, name: str, place: Place) -> None:
        """Make a handle; `run` and `open_run` check first that there is such a run."""
        self.name = name
        self.storage = place[0]
        self._database_url = place[1]

    @classmethod
    def of(cls, config: "RunConfig") -> "Run":
        """Return the run that a configuration describes."""
        return cls(config.name, (config.storage, config.database_url))

    @property
    def place(self) -> Place:
        """Where the run is."""
        return self.storage, self._database_url

    @property
    def status(self) -> str:
        """created, running, finished, stopped, failed, or interrupted where its controller died."""
        return str(self.show()["status"])

    @property
    def message(self) -> str:
        """Why the run ended; empty while it goes on."""
        return str(self.show()["message"])

    @property
    @without_traceback
    def config(self) -> "RunConfig":
        """The configuration that the run was started with, or last given."""
        from atgen_ray.config.loading import parse_config
        from atgen_ray.store.existing import open_runs

        with open_runs(*self.place) as journal:
            tree = journal.run(self.name).config
        # The storage as it is called here: the run may have been started in another folder.
        return parse_config(
            tree | {"storage": self.storage, "database_url": self._database_url}, labels=False
        )

    @without_traceback
    def show(self) -> dict[str, Any]:
        """Return all that `atgen-ray runs show --json` prints: `status`, `message`, `round`,
        `labels`, `dollars`, `metrics` (the learning curve), `annotation` (requests and money),
        `changes`, `dead_letters` and `events`.
        """
        from atgen_ray.runs.queries import show_run

        return show_run(self.name, *self.place)

    @without_traceback
    def events(self, after: int = 0) -> "list[Event]":
        """Return the events of the run's journal with a sequence number above `after`, in order."""
        from atgen_ray.store.existing import open_runs

        with open_runs(*self.place) as journal:
            journal.run(self.name)
            return journal.events(self.name, after)

    @without_traceback
    def labels(self) -> "pd.DataFrame":
        """Return every label: `id`, `input`, `text`, `annotator`, `dollars`, `round`, and the `run`
        that bought it, which is another one where the label was taken over.
        """
        from atgen_ray.runs.queries import tabulate_labels

        frame: pd.DataFrame = tabulate_labels(self._read_labels()).to_pandas()
        return frame

    @without_traceback
    def dataset(self) -> "Dataset":
        """Return the labels as a dataset of the library `datasets`, with the columns of
        `labels`.
        """
        from atgen_ray.runs.queries import build_dataset

        return build_dataset(self._read_labels())

    @without_traceback
    def picks(self, round: int | None = None) -> "pd.DataFrame":
        """Return the examples that were selected, best first: `round`, `rank`, `id`, `row` in the
        source, `input`, `score`, and a column `part_NAME` for every part of the score.

        Args:
            round: of this round alone; default: all rounds.
        """
        from atgen_ray.runs.queries import read_picks

        folder = self._folder()
        rounds = self._list_rounds() if round is None else [self._check_round(round)]
        rows = [{"round": at} | pick for at in rounds for pick in read_picks(folder, at)]
        return tabulate_picks(rows, ["round"])

    @without_traceback
    def curve(self) -> "pd.DataFrame":
        """Return the learning curve, a row for every evaluated round: `round`, `labels` and
        `dollars` so far, `seconds` of this round, and for each metric its mean on the test set
        under the metric's name, and its interval under NAME_low and NAME_high.

        Columns of the dev split begin with `dev_`, those of the audit with `audit_`, those of the
        untuned model with solved examples in its prompt with `few_shot_`.
        """
        import pandas as pd

        folder = self._folder()
        rows = folder.read_json("metrics.json") if folder.exists("metrics.json") else []
        columns = ["round", "labels", "dollars", "seconds"]
        table = [
            {
                "round": row["round"],
                "labels": row["labels"],
                "dollars": row["dollars"],
                "seconds": sum(row["seconds"].values()),
                **_spread(row["metrics"], ""),
                **_spread(row.get("dev_metrics"), "dev_"),
                **_spread(row.get("audit_metrics"), "audit_"),
                **_spread(row.get("few_shot_metrics"), "few_shot_"),
            }
            for row in rows
        ]
        return pd.DataFrame(table, columns=None if table else columns)

    @without_traceback
    def predictions(self, round: int | None = None) -> "pd.DataFrame":
        """Return the answers of the model after a round: `id`, `split` (test, dev or audit),
        `input`, `prediction`, `references`, and a column for every metric.

        Args:
            round: 0 is the untuned model; default: the last evaluated round.

        Raises:
            UserError: the round has not been evaluated.
        """
        folder = self._folder()
        evaluated = self._list_steps("evaluation")
        round = max(evaluated, default=0) if round is None else self._check_round(round)
        if round not in evaluated:
            raise UserError(self._explain_round(round, evaluated, "has not been evaluated"))
        from atgen_ray.store.layout import round_folder

        rows = folder.read_jsonl(f"{round_folder(round)}/predictions.jsonl")
        return tabulate_predictions(rows, self._read_texts())

    @without_traceback
    def features(self, round: int) -> "pa.Table":
        """Return the outputs of the model for the candidates of `round`, as a pyarrow table with a
        row for each example: greedy text, token ids, log-probabilities, entropies and samples.

        Raises:
            UserError: the strategy of the round did not look at the model's outputs, or has not
                been asked yet.
        """
        from atgen_ray.store.layout import round_folder

        folder = self._folder()
        rel = f"{round_folder(self._check_round(round))}/features.parquet"
        if not folder.exists(rel):
            generated = self._list_steps("generation")
            raise UserError(self._explain_round(round, generated, "has no outputs of the model"))
        return folder.read_table(rel)

    @without_traceback
    def adapter(self, round: int | None = None) -> Path:
        """Return the folder of the adapter, as peft saves it; from an object store a copy in the
        user's cache.

        Args:
            round: default: the last round that was trained.

        Raises:
            UserError: the round has no adapter, as no round has yet or training.method is full.
        """
        return refer_adapter(self, round).local()

    @without_traceback
    def report(self, output: Location | None = None) -> Path:
        """Return the path of the run's HTML report.

        Args:
            output: the file to write it to; default: the page that the finished run has in its
                folder, and for any other run `report.html` in the working folder.
        """
        if output is None and self.status == "finished" and self._folder().exists("report.html"):
            return self._folder().local("report.html")
        from atgen_ray.reporting.publish import compare_runs

        return compare_runs([self.name], *self.place, Path(output or "report.html"))

    @without_traceback
    def stop(self) -> str:
        """Ask the run's controller to stop, wherever it is, and return a sentence that says what
        will happen; everything committed is saved.

        Raises:
            UserError: its controller died, so that nobody hears.
        """
        from atgen_ray.runs.queries import stop_run

        return stop_run(self.name, *self.place)

    @without_traceback
    def retry(self, only: str | None = None, *, give_up: str | None = None) -> str:
        """Open what an annotating model left without a label, so that it is asked again once the
        run goes on; return a sentence that says what will happen.

        Args:
            only: refused (by the provider), dead (its answers failed their checks) or in-doubt
                (its answer was lost on the way); default: all three.
            give_up: id of a batch job that the provider will never hand out. Its worst case counts
                as paid, and its requests alone are sent again.

        Raises:
            UserError: a controller drives the run, or there is no such batch job.
        """
        from atgen_ray.runs.queries import retry_run

        return retry_run(self.name, *self.place, only, give_up)

    @without_traceback
    def add(self, source: Location) -> "Addition":
        """Add the rows of a file, folder, glob or URL to the run's pool, read as the pool was, and
        return what was added and why the rest was not; `str` of it is a sentence.

        The pool takes them before the next round: of a run that goes on, or of one that has ended
        once it is given its command again.

        Raises:
            UserError: no row is new, the source cannot be used, or the run can take none.
        """
        from atgen_ray.runs.queries import add_to_run

        return add_to_run(self.name, *self.place, str(source))

    @without_traceback
    def promote(self, round: int, *, metric: str | None = None, force: bool = False) -> str:
        """Let the name `<base>:<run>` stand for the adapter of `round` in every service, and
        return a sentence that says so with the score.

        Args:
            metric: by which it is compared with what it replaces; default: the run's first one
                that has a direction.
            force: promote it even if it is shown to be worse.

        Raises:
            UserError: it is shown to be worse, or the run has not trained in that round.
        """
        from atgen_ray.runs.queries import promote_run

        return promote_run(self.name, *self.place, round, metric, force)

    @without_traceback
    def take_promotion_back(self) -> str:
        """Go back to the adapter that was promoted before, and return a sentence that says so.

        Raises:
            UserError: nothing is promoted.
        """
        from atgen_ray.runs.queries import promote_run

        return promote_run(self.name, *self.place, None)

    @without_traceback
    def promotions(self) -> list[str]:
        """Return one line for each promotion and each way back, the oldest first."""
        from atgen_ray.runs.queries import show_promotions

        return show_promotions(self.name, *self.place)

    @without_traceback
    def export(
        self,
        output: Location | None = None,
        *,
        format: str | None = None,
        what: str = "labels",
        round: int | None = None,
        tell: Callable[[str], None] = lambda line: None,
        push: str | None = None,
        public: bool = False,
    ) -> tuple[int, Path]:
        """Write a part of the run to a file or a new folder; return the number of labels or files
        that were written, and where.

        Args:
            output: default: NAME.FORMAT or NAME-WHAT in the working folder.
            format: of labels: jsonl, parquet, csv, openai (chats for fine-tuning), or huggingface,
                which is a folder for `datasets.load_from_disk`; argilla or label-studio, which
                hold answers. Default: jsonl.
            what: labels, one for an example; answers of single people, with their times, the
                agreement and the decisions (jsonl or csv); dataset, a folder of labels with their
                card; adapter; merged, the model with the adapter in its weights; gguf, the same for
                llama.cpp and Ollama; report; or card, that of the model.
            round: of adapter, merged model or card; default: the last one that was trained.
            tell: receives a line on what was measured, such as what rounding did to merged weights.
            push: OWNER/NAME of a repository of the hub, to which a data set, a model or a card is
                pushed then, with the token in HF_TOKEN.
            public: let others read that repository; by default it must be private.

        Raises:
            UserError: an unknown format, or an output that is there or cannot be written.

        Example:
            atgen_ray.open_run("demo").export("demo-merged", what="merged", tell=print)
        """
        from atgen_ray.runs.exporting.export import export_run

        path = None if output is None else Path(output)
        return export_run(self.name, *self.place, what, format, path, round, tell, push, public)

    @without_traceback
    def import_labels(
        self,
        file: Location,
        *,
        format: str = "auto",
        mapping: Mapping[str, str] | None = None,
        rehearse: bool = False,
    ) -> dict[str, Any]:
        """Import existing labels into a run whose annotator is human.

        Args:
            file: an export of Argilla, Label Studio or Prodigy; or .jsonl, .json, .csv, .tsv or
                .parquet with `text` and `id` or `input`, and maybe `annotator`.
            format: auto, argilla, label-studio, prodigy, csv or jsonl.
            mapping: columns of the file (of a tool, its field and question) by `input`, `text`,
                `annotator`, `id` and `seconds`.
            rehearse: only tell what would happen.

        Returns:
            How many were `imported` and `known` before, and those `refused`: each with its `place`
            in the file from 0 and the `reason`. Of these, `unknown` are in no pool, and
            `conflicting` ones have another label. `passed` had no answer; `format` is the file's.

        Raises:
            UserError: a file that cannot be read, or a run that people do not label.
        """
        from atgen_ray.annotation.human.exchange.label_import import import_file

        return import_file(self.name, *self.place, Path(file), format, mapping, rehearse)

    @without_traceback
    def calibrate(
        self, labels: Location | None = None, *, quality: float = 0.95, match: float = 1.0
    ) -> dict[str, Any]:
        """Compare the annotating models of the run with people.

        Args:
            labels: labels of people as .jsonl, .csv or .parquet with `text` and `id` or `input`;
                default: those that the run has.
            quality: share of right labels that is wanted.
            match: F1 of the words from which on two labels say the same; at 1 only case and white
                space may differ.

        Returns:
            `sample` (what was compared, in words), `quality`, and `annotators`: a list with
            `annotator`, `labels`, `compared`, `right`, `accuracy` with its 95% interval from `low`
            to `high`, `threshold` (the confidence from which on labels have that quality, or None)
            and `kept` (the share of labels with that confidence).

        Raises:
            UserError: a file that cannot be read, or no labels of people.
        """
        from atgen_ray.runs.calibration import calibrate_run

        file = None if labels is None else Path(labels)
        return calibrate_run(self.name, *self.place, file, quality, match)

    def __repr__(self) -> str:
        return f"Run({self.name!r}, storage={self.storage!r})"

    def _repr_html_(self) -> str:
        from atgen_ray.api.html import format_pairs

        view = self.show()
        status = f"{view['status']}: {view['message']}" if view["message"] else view["status"]
        pairs = [
            ("status", status),
            ("round", view["round"]),
            ("labels", view["labels"]),
            ("dollars", view["dollars"]),
            ("storage", self.storage),
        ]
        last = view["metrics"][-1]["metrics"] if view["metrics"] else {}
        pairs += [(name, value["mean"]) for name, value in last.items()]
        return format_pairs(f"run {self.name}", pairs)

    def _folder(self) -> "RunFolder":
        from atgen_ray.store.run_folder import RunFolder

        return RunFolder(self.storage, self.name)

    def _read_labels(self) -> list[dict[str, Any]]:
        from atgen_ray.runs.queries import read_labels
        from atgen_ray.store.existing import open_runs

        with open_runs(*self.place) as journal:
            return read_labels(journal, self.storage, self.name)

    def _read_texts(self) -> dict[str, str]:
        """Return the user turns of pool and test set by id."""
        folder = self._folder()
        rels = [rel for rel in ("pool.parquet", "test.parquet") if folder.exists(rel)]
        return {
            row["id"]: row["text"]
            for rel in rels
            for row in folder.read_table(rel, columns=["id", "text"]).to_pylist()
        }

    def _list_steps(self, step: str) -> list[int]:
        """Return the rounds in which the journal has `step`."""
        return sorted(self._find_steps(step))

    def _find_steps(self, step: str) -> dict[int, "Event"]:
        """Return the events of `step` by round."""
        events = self.events()
        return {event.round or 0: event for event in events if event.is_step and event.step == step}

    def _list_rounds(self) -> list[int]:
        return self._list_steps("selection")

    def _check_round(self, round: Any) -> int:
        from atgen_ray.runs.tuned_rounds import check_round

        return check_round(round)

    def _explain_round(self, round: int, known: list[int], lack: str) -> str:
        from atgen_ray.runs.tuned_rounds import explain_round

        return explain_round(self.name, round, known, lack)


@without_traceback
def open_run(name: str, *, storage: Location | None = None, database_url: str | None = None) -> Run:
    """Open a run that exists, finished or not.

    Args:
        storage: folder or URL that holds the runs; default: `./atgen-runs`.
        database_url: URL of the journal; default: ATGEN_DATABASE_URL from the environment, else the
            SQLite database in the storage.

    Raises:
        UserError: no runs are there, or none of that name; with the nearest name.

    Example:
        atgen_ray.open_run("demo").labels()
    """
    from atgen_ray.store.existing import open_runs

    if not isinstance(name, str):
        raise UserError(f"name is {str(name)[:80]!r}, expected the name of a run")
    place = find_place(storage, database_url)
    with open_runs(*place) as journal:
        journal.run(name)
    return Run(name, place)


@without_traceback
def list_runs(
    storage: Location | None = None, *, database_url: str | None = None
) -> list[dict[str, Any]]:
    """Return all runs of a storage, the oldest first: `name`, `status`, `round`, `labels`,
    `dollars` and when each was last `updated` (UTC, ISO 8601).

    Args:
        storage, database_url: as for `open_run`.

    Raises:
        UserError: no runs are there; the default storage may be one where there are none yet.

    Example:
        pandas.DataFrame(atgen_ray.list_runs())
    """
    from atgen_ray.runs.queries import list_runs as query

    return query(*find_place(storage, database_url))


def find_place(storage: Location | None, database_url: str | None = None) -> Place:
    """Return where runs are, by the caller's arguments, the environment and the defaults."""
    from pydantic import SecretStr

    from atgen_ray.config.loading import database_url_from_environment
    from atgen_ray.store.existing import DEFAULT_STORAGE

    url = SecretStr(database_url) if database_url else database_url_from_environment()
    return str(storage or DEFAULT_STORAGE), url


def tabulate_picks(rows: list[dict[str, Any]], before: list[str]) -> "pd.DataFrame":
    """Tabulate rows of `read_picks` with a column for every part; columns `before` come first."""
    import pandas as pd

    columns = [*before, "rank", "id", "row", "input", "score"]
    names = sorted({name for row in rows for name in row["parts"]})
    table = [
        {key: row[key] for key in columns}
        | {f"part_{name}": row["parts"].get(name) for name in names}
        for row in rows
    ]
    return pd.DataFrame(table, columns=[*columns, *(f"part_{name}" for name in names)])


def tabulate_predictions(
    rows: list[dict[str, Any]], texts: Mapping[str, str], more: tuple[str, ...] = ()
) -> "pd.DataFrame":
    """Tabulate rows of predictions.jsonl with their inputs and a column for every metric."""
    import pandas as pd

    columns = ["id", "split", "input", "prediction", "references", *more]
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    table = [
        {key: row[key] for key in columns if key != "input"}
        | {"input": texts.get(row["id"])}
        | row["scores"]
        for row in rows
    ]
    return pd.DataFrame(table, columns=[*columns, *names])


def _spread(metrics: Mapping[str, Any] | None, prefix: str) -> dict[str, float | None]:
    """Return mean and bounds of each metric as columns."""
    columns: dict[str, float | None] = {}
    for name, value in (metrics or {}).items():
        columns[f"{prefix}{name}"] = value["mean"]
        columns[f"{prefix}{name}_low"] = value["low"]
        columns[f"{prefix}{name}_high"] = value["high"]
    return columns


def refer_adapter(run: Run, round: int | None) -> "Stored":
    """Return a reference to the adapter that `run.adapter` returns, for other nodes."""
    from atgen_ray.runs.tuned_rounds import refer_tuned
    from atgen_ray.store.existing import open_runs

    with open_runs(*run.place) as journal:
        return refer_tuned(journal, run._folder(), round)[1]
