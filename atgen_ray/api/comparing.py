"""Runs side by side: paired differences on the test examples, and the report that shows them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atgen_ray.api.configuration import Location
from atgen_ray.api.errors import without_traceback
from atgen_ray.api.runs import Run, find_place
from atgen_ray.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from atgen_ray.reporting.comparison import RunPair


@dataclass(frozen=True)
class Comparison:
    """Several runs on the first metric that all of them have.

    Attributes:
        names: the runs, in the order given.
        metric: the metric; None where the runs have none in common.
        differing: the value of each run for every setting in which they differ.
    """

    names: list[str]
    metric: str | None
    differing: dict[str, list[str]]
    _pairs: "Sequence[RunPair]" = field(repr=False)

    def differences(self) -> "pd.DataFrame":
        """Return a row for each pair: `first`, `second`, `metric`, and the mean `difference`,
        second minus first, over the `count` test examples that both answered, with its 95 %
        interval from `low` to `high`.

        `first_labels` is how many labels the first run needed for the second one's final score, and
        `second_labels` the other way round; missing where the score was never reached.
        """
        import pandas as pd

        columns = ["first", "second", "metric", "difference", "low", "high", "count"]
        columns += ["first_labels", "second_labels"]
        return pd.DataFrame([self._describe(pair) for pair in self._pairs], columns=columns)

    def _describe(self, pair: "RunPair") -> dict[str, Any]:
        from atgen_ray.reporting.formats import name_letter

        names = {name_letter(index): name for index, name in enumerate(self.names)}
        found = pair.difference
        row: dict[str, Any] = {
            "first": names[pair.first],
            "second": names[pair.second],
            "metric": pair.metric,
            "difference": found.mean if found else None,
            "low": found.low if found else None,
            "high": found.high if found else None,
            "count": found.count if found else 0,
        }
        reached = {reach.run: reach.labels for reach in pair.reaches}
        row["first_labels"] = reached.get(pair.first)
        row["second_labels"] = reached.get(pair.second)
        return row

    def _repr_html_(self) -> str:
        from atgen_ray.api.html import format_table

        rows = [self._describe(pair) for pair in self._pairs]
        shown = ["first", "second", "metric", "difference", "low", "high", "count"]
        return format_table("comparison", shown, [[row[key] for key in shown] for row in rows])


@without_traceback
def compare(
    runs: Sequence[str | Run], *, storage: Location | None = None, database_url: str | None = None
) -> Comparison:
    """Compare at least two runs of one storage on the first metric that all of them have.

    Args:
        runs: names, or runs as `run` and `open_run` return them.
        storage: folder or URL that holds the runs; default: that of the first `Run`, else
            `./atgen-runs`.
        database_url: URL of the journal; default: that of the first `Run`, else ATGEN_DATABASE_URL,
            else the database in the storage.

    Raises:
        UserError: fewer than two runs, or a name that no run has.

    Example:
        atgen_ray.compare(["demo", "demo-random"]).differences()
    """
    names, place = _name_runs(runs, storage, database_url, least=2)
    from atgen_ray.reporting.comparison import compare_views
    from atgen_ray.reporting.publish import view_runs

    found = compare_views(view_runs(names, *place))
    return Comparison(names, found.metric, found.differing, found.pairs)


@without_traceback
def report(
    runs: str | Run | Sequence[str | Run],
    output: Location = "report.html",
    *,
    storage: Location | None = None,
    database_url: str | None = None,
) -> Path:
    """Write one self-contained HTML report of a run, or of several compared, and a PNG of the
    learning curve beside it; return the page's path.

    Args:
        runs, storage, database_url: as for `compare`; one run is enough.
        output: the HTML file to write.

    Raises:
        UserError: a name that no run has, or a file that cannot be written.

    Example:
        atgen_ray.report(["demo", "demo-random"], "both.html")
    """
    names, place = _name_runs(runs, storage, database_url, least=1)
    from atgen_ray.reporting.publish import compare_runs

    return compare_runs(names, *place, Path(output))


def _name_runs(
    runs: str | Run | Sequence[str | Run],
    storage: Location | None,
    database_url: str | None,
    least: int,
) -> tuple[list[str], tuple[str, Any]]:
    """Return the names of the runs, and where they are."""
    given = [runs] if isinstance(runs, str | Run) else runs
    if len(given) < least or not all(isinstance(each, str | Run) for each in given):
        some = "at least two runs" if least > 1 else "at least one run"
        raise UserError(f"runs is {str(runs)[:80]!r}, expected {some}, by name or as opened")
    first = next((each for each in given if isinstance(each, Run)), None)
    if first is not None and storage is None and database_url is None:
        place = first.place
    else:
        place = find_place(storage, database_url)
    return [each.name if isinstance(each, Run) else each for each in given], place
