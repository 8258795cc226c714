"""Ids of examples that were chosen elsewhere: selection.ids, given as a list or a file."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.config import DataConfig
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.locations import locate
from atgen_ray.data.in_process import reading_in_process
from atgen_ray.data.sources import open_source

KEY = "selection.ids"
PLAIN = {"", ".txt", ".ids"}  # endings of a file with one id a line
ALIKE = 1_000  # ids of the pool among which a similar one is looked for


def read_ids(given: str | Sequence[str]) -> list[str]:
    """Return the ids that the value of selection.ids names, each once and in its order.

    Raises:
        UserError: the file cannot be read, is empty, or is a table without a column id.
    """
    ids = _read_file(given) if isinstance(given, str) else [*given]
    ids = [*dict.fromkeys(id_.strip() for id_ in ids if id_.strip())]
    if not ids:
        raise UserError(f"{KEY} is {str(given)[:200]!r}, which names no example")
    return ids


def find_unknown_ids(
    given: str | Sequence[str], ids: Sequence[str], pool: Iterable[pa.Table]
) -> Iterator[str]:
    """Yield one line if some of `ids` are no examples of the pool, whose parts have a column id."""
    unknown = dict.fromkeys(ids)
    known = list[str]()
    for part in pool:
        asked = pa.array(unknown, pa.string())
        for id_ in part["id"].filter(pc.is_in(part["id"], asked)).to_pylist():
            del unknown[id_]
        known += part["id"].slice(0, ALIKE - len(known)).to_pylist() if len(known) < ALIKE else []
    if not unknown:
        return
    first = next(iter(unknown))
    hint = nearest(first, known)
    hint = hint if "did you mean" in hint else f", whose ids are such as '{known[0]}'"
    others = f" (and so are {len(unknown) - 1} others)" if len(unknown) > 1 else ""
    place = f" of '{given}'" if isinstance(given, str) else ""
    yield f"{KEY}: '{first[:80]}'{place} is no example of the pool{others}{hint}"


def _read_file(location: str) -> list[str]:
    path = locate(location, KEY)
    if PurePosixPath(path.partition("?")[0]).suffix.lower() in PLAIN:
        try:
            with fsspec.open(path, "rt", encoding="utf-8") as file:
                return [str(line) for line in file]
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"{KEY} is {location[:200]!r}, expected a file that can be read: "
                f"{' '.join(str(error).split())[:200]}"
            ) from None
    with reading_in_process():
        source = open_source(DataConfig(pool=location), KEY, path, "train")
        ids = []
        for block in source.dataset:
            for record, wrong, place in source.decode(block):
                if wrong is not None:
                    raise UserError(f"{KEY} is {location[:200]!r}: {place}{wrong}")
                if not isinstance(record, dict) or record.get("id") is None:
                    raise UserError(
                        f"{KEY} is {location[:200]!r}, expected a column 'id': {place}has none"
                    )
                ids.append(str(record["id"]))
    return ids
