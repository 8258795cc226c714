"""Reading a split in this process, by the readers that Ray would run in its workers: for small
files, without Ray.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pyarrow as pa

_here: ContextVar[bool] = ContextVar("reads_in_process", default=False)


@contextmanager
def reading_in_process() -> Iterator[None]:
    """Inside the block `build_split` reads files in this process, and Ray is not started."""
    token = _here.set(True)
    try:
        yield
    finally:
        _here.reset(token)


def reads_in_process() -> bool:
    """Whether a split is to be read in this process."""
    return _here.get()


class Blocks:
    """Raw blocks in the place of a Ray Dataset, read as they are asked for."""

    def __init__(self, blocks: Iterator[pa.Table]) -> None:
        self._blocks = blocks

    def __iter__(self) -> Iterator[pa.Table]:
        return self._blocks


def read_files(reader: type[Any], paths: Sequence[str], options: dict[str, Any]) -> Blocks:
    """The blocks of local files by `reader`, a FileBasedDatasource with `options` of its own."""
    return Blocks(_read(reader, paths, options))


def _read(reader: type[Any], paths: Sequence[str], options: dict[str, Any]) -> Iterator[pa.Table]:
    from pyarrow.fs import LocalFileSystem
    from ray.data import DataContext

    source: Any = object.__new__(
        reader
    )  # its constructor puts the paths into Ray's store, which would start Ray
    source._filesystem = LocalFileSystem()
    source._data_context = DataContext.get_current()
    for name, value in options.items():
        setattr(source, f"_{name}", value)
    for path in paths:
        with source._open_input_source(source._filesystem, path) as file:
            yield from source._read_stream(file, path)
