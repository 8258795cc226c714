"""Reading of small files in this process, with the same readers that Ray runs in its workers, so
that Ray need not start.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pyarrow as pa

from atgen_ray.ray_runtime.private_api import read_with_datasource

_here: ContextVar[bool] = ContextVar("reads_in_process", default=False)
_head: ContextVar[bool] = ContextVar("reads_head", default=False)


@contextmanager
def reading_in_process() -> Iterator[None]:
    """Let `build_split` read files in this process inside the block, without Ray."""
    token = _here.set(True)
    try:
        yield
    finally:
        _here.reset(token)


@contextmanager
def reading_head() -> Iterator[None]:
    """Let `open_source` read only the beginning inside the block, wherever it is, without Ray: of a
    dataset of the hub the first file alone is fetched.
    """
    token = _head.set(True)
    try:
        with reading_in_process():
            yield
    finally:
        _head.reset(token)


def reads_head() -> bool:
    """Return whether only the beginning is to be read."""
    return _head.get()


def reads_in_process() -> bool:
    """Return whether a split is to be read in this process."""
    return _here.get()


class Blocks:
    """Raw blocks in place of a Ray Dataset, read when they are iterated over."""

    def __init__(self, blocks: Iterator[pa.Table]) -> None:
        self._blocks = blocks

    def __iter__(self) -> Iterator[pa.Table]:
        return self._blocks


def read_files(
    reader: type[Any], paths: Sequence[str], options: dict[str, Any], filesystem: Any = None
) -> Blocks:
    """Return the blocks of files by `reader`, a FileBasedDatasource with its own `options`.

    Args:
        filesystem: of fsspec; None for this machine's.
    """
    return Blocks(read_with_datasource(reader, options, paths, filesystem))
