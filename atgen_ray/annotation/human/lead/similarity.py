"""The examples that are most similar to a given one, by the embeddings in a run's folder."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.annotation.human.task_store import TaskConflictError, TaskUnknownError
from atgen_ray.embedding.pool import FOLDER, HASHES, load_whitening, read_vectors
from atgen_ray.store.run_folder import RunFolder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NEAREST = 1000  # examples that count as similar
KEPT = 64  # answers in memory, each a few dozen kB

_known: OrderedDict[tuple[str, ...], list[tuple[str, float]]] = OrderedDict()
_lock = threading.Lock()


def find_nearest(
    folder: RunFolder, like: str, count: int, list_ids: Callable[[], Sequence[str]]
) -> list[tuple[str, float]]:
    """Return the `NEAREST` of some examples that are nearest to the example `like`, itself among
    them, and the cosine of their embeddings, the largest first.

    Args:
        count: how many examples there are to choose from.
        list_ids: gives their ids, where the answer is not known yet.

    Raises:
        TaskUnknownError: the pool has no such example.
        TaskConflictError: the run has no embeddings.
    """
    files = folder.list(FOLDER) if folder.exists("pool.parquet") else []
    if not files:
        raise TaskConflictError(
            f"like is {like[:80]!r}, but run '{folder.name}' has no embeddings: its strategy does "
            f"not need them"
        )
    # The files' names are random, so a run that was made anew has other keys; examples are only
    # added, so their number says which there are.
    key = (folder.root, files[0], str(count), like)
    with _lock:
        if key in _known:
            _known.move_to_end(key)
            return _known[key]
    found = _measure(folder, files, like, list_ids())
    with _lock:
        _known[key] = found
        while len(_known) > KEPT:
            _known.popitem(last=False)
    return found


def _measure(
    folder: RunFolder, files: Sequence[str], like: str, ids: Sequence[str]
) -> list[tuple[str, float]]:
    import numpy as np

    pool = folder.read_table("pool.parquet", ["id", "content"])
    content = pool["content"].filter(pc.equal(pool["id"], like)).to_pylist()
    if not content:
        raise TaskUnknownError(f"run '{folder.name}' has no example {like[:80]!r}")
    pool = pool.filter(pc.is_in(pool["id"], pa.array(ids, pa.string())))
    query = _find_vector(folder, files, content[0])
    if query is None:
        raise TaskConflictError(f"like is {like[:80]!r}, an example without an embedding")
    whitening = load_whitening(folder)
    query = query if whitening is None else whitening.apply(query[None])[0]
    contents: list[pa.Array] = []
    cosines = []
    for file in files:  # a part at a time, which is all that memory must hold
        for part in folder.scan_table(file):
            vectors = read_vectors(part["embedding"])
            vectors = vectors if whitening is None else whitening.apply(vectors)
            contents += part["content"].cast(HASHES).chunks
            cosines.append(vectors @ query if vectors.size else np.full(len(part), np.nan))
    places = pc.index_in(pool["content"].cast(HASHES), pa.chunked_array(contents, HASHES))
    measured = np.append(np.concatenate(cosines), np.nan)
    scores = measured[places.fill_null(-1).to_numpy()]
    order = np.argsort(-np.nan_to_num(scores, nan=-2.0), kind="stable")[:NEAREST]
    names = pool["id"].take(pa.array(order)).to_pylist()
    return [
        (name, float(score))
        for name, score in zip(names, scores[order].tolist(), strict=True)
        if score == score  # not NaN: an example without an embedding
    ]


def _find_vector(
    folder: RunFolder, files: Sequence[str], content: str
) -> "npt.NDArray[np.float32] | None":
    """Return the embedding of a text; None without one. Only hashes are read of other files."""
    for file in files:
        place = pc.index(folder.read_table(file, ["content"])["content"], content).as_py()
        if place >= 0:
            row = folder.read_table(file, ["embedding"]).slice(place, 1)
            vectors = read_vectors(row["embedding"])
            return vectors[0] if vectors.size else None
    return None
