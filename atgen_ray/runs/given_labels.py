"""Labels of data.labeled: they are in the journal before round 0 ends, at no cost.

Where its text is that of an example of the pool, the label is that example's; otherwise the row
becomes an example of its own, behind those of data.pool. Either way it is never selected.
"""

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.config import DataConfig
from atgen_ray.core.records import GIVEN, POOL_SCHEMA, Annotation, DeadLetter
from atgen_ray.data import Split, overlap

LEAKED = "its text is also in the test set"
KNOWN = "its text is labelled already: it is in data.labeled"
REPEATED = "its text is in data.labeled before, with another answer"


class GivenLabels:
    """Labels of data.labeled on their way into the pool, which is passed block by block.

    Attributes:
        labels: of the rows read and the pool passed so far, in the order of the rows.
        dead: rows that are no label, and examples of the pool that repeat a labelled text.
    """

    def __init__(self, split: Split | None, location: str | None, test: Split | None) -> None:
        """Prepare the rows of `split`, read from `location`; None: there are none."""
        self.dead: list[DeadLetter] = []
        self._location = location
        self._examples = POOL_SCHEMA.empty_table()
        self._answers: dict[str, str] = {}  # by content, in the order of the rows
        self._ids: dict[str, str] = {}  # of the example that has the label, by content
        self._own: set[str] = set()  # contents that the pool did not have yet
        if split is not None:
            self._prepare(split, test)

    @property
    def labels(self) -> list[Annotation]:
        """Return a label for each usable row, free of cost."""
        said = {GIVEN: self._location}
        return [
            Annotation(self._ids[content], answer, GIVEN, 0.0, said)
            for content, answer in self._answers.items()
        ]

    @property
    def rest(self) -> pa.Table:
        """Return the labelled rows whose text the pool did not have, POOL_SCHEMA."""
        ids = [self._ids[content] for content in self._answers if content in self._own]
        return self._examples.filter(pc.is_in(self._examples["id"], pa.array(ids, pa.string())))

    def take(self, examples: pa.Table, leaked: Sequence[str] = ()) -> list[str]:
        """Give the labels to the examples of the pool (POOL_SCHEMA) that have their texts, the
        first of each text, and return the ids of all that have, but for `leaked`.
        """
        if not self._answers:
            return []
        contents = pa.array(self._answers, pa.string())
        met = examples.select(["id", "content"]).filter(pc.is_in(examples["content"], contents))
        apart = set(leaked)
        taken = [row for row in met.to_pylist() if row["id"] not in apart]
        for row in taken:
            if row["content"] in self._own:
                self._own.remove(row["content"])
                self._ids[row["content"]] = row["id"]
            else:
                self.dead.append(DeadLetter(row["id"], "pool", KNOWN))
        return [row["id"] for row in taken]

    def _prepare(self, split: Split, test: Split | None) -> None:
        leaked = set(overlap(split.examples, test.examples)) if test else set[str]()
        gold = split.gold.to_pylist()
        answers = {row["id"]: row["references"][0] for row in gold}
        self.dead += split.dead
        self._examples = split.examples
        for row in split.examples.select(["id", "content"]).to_pylist():
            id_, content = row["id"], row["content"]
            if id_ in leaked:
                self.dead.append(DeadLetter(id_, "pool", LEAKED))
            elif content not in self._answers:
                self._answers[content] = answers[id_]
                self._ids[content] = id_
                self._own.add(content)
            elif self._answers[content] != answers[id_]:
                self.dead.append(DeadLetter(id_, "pool", REPEATED))


def read_given(data: DataConfig, test: Split | None, read: Callable[[], Split]) -> GivenLabels:
    """Return the labels of data.labeled, which `read` reads; none where it is null."""
    split = None if data.labeled is None else read()
    return GivenLabels(split, data.labeled, test)
