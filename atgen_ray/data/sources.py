"""Datasets as Ray Datasets: files, folders, globs, URLs, Hugging Face ids and folders made by
save_to_disk. `atgen_ray/data/places.py` says which files these are.
"""

import json
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import fsspec
import pyarrow as pa

from atgen_ray.config import DataConfig
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.data.hub import CARD, HubDataset
from atgen_ray.data.in_process import read_files, reads_head, reads_in_process
from atgen_ray.data.places import (
    Place,
    check_inside,
    find_place,
    find_split,
    first_line,
    keep_split,
    pick_kind,
    pick_most_common,
    read_beside,
    tell_format,
)
from atgen_ray.data.rows import Row
from atgen_ray.data.split_files import (
    pick_files,
    read_options,
)
from atgen_ray.ray_runtime.hardware import share_cpus

_SPLIT = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<start>\d*):(?P<stop>\d*)\])?")


@dataclass(frozen=True)
class Source:
    """A Ray Dataset of raw blocks, and the function that decodes the rows of a block."""

    dataset: Any  # ray.data.Dataset, or Blocks
    decode: Callable[[pa.Table], Iterator[Row]]


def open_source(data: DataConfig, key: str, location: str, split: str) -> Source:
    """Open `location`, the value of `key`; `split` is the split of a dataset that holds several.

    Rows come in the order of the source: files by path, rows as they are in the file. Only a
    dataset's own description is read yet; files of the hub are copied to its cache.

    Raises:
        UserError: nothing is there, its format cannot be told, it cannot be opened, or it names
            files outside itself.
    """
    if data.path is None:
        place = find_place(key, location)
    else:
        place = find_split(data.path, data.subset, split)
    kind = tell_format(place) if data.format == "auto" else data.format
    if kind == "huggingface":
        return _open_repository(place, data, split)
    if kind == "saved":
        return _open_saved(place, split)
    if place.folder is not None and data.path is None:
        place = keep_split(place, kind, split)
    paths = pick_kind(place, kind)
    if not paths:
        raise place.refuse("expected an existing file, folder, glob or URL with data in it")
    return _open_files(place, kind, paths)


def parse_split(split: str, key: str) -> tuple[str, slice]:
    """Parse `train[100:200]` into the name of a split and the rows to take of it.

    Raises:
        UserError: `split`, the value of `key`, is not of that form.
    """
    found = _SPLIT.fullmatch(split)
    if found is None:
        raise UserError(
            f"{key} is '{split}', expected a name, or a name with rows as in train[100:200]"
        )
    start = int(found["start"]) if found["start"] else None
    stop = int(found["stop"]) if found["stop"] else None
    return found["name"], slice(start, stop)


def _open_files(
    place: Place, kind: str, paths: list[str], options: dict[str, Any] | None = None
) -> Source:
    """Open files that every worker can reach: with Ray Data, or inside `reading_in_process` in this
    process.
    """
    import ray.data

    if place.is_local and reads_in_process():
        reader, decode = _choose_reader(kind)
        return Source(read_files(reader, paths, options or {}), decode)
    if reads_head():
        reader, decode = _choose_reader(kind)
        return Source(read_files(reader, paths, options or {}, place.filesystem), decode)
    try:
        source, decode = _build_source(place, kind, paths, options or {})
        return Source(ray.data.read_datasource(source, **share_cpus()), decode)
    except (OSError, ValueError) as error:
        raise place.refuse(f"which cannot be read: {first_line(error)}") from error


def _choose_reader(kind: str) -> tuple[Any, Any]:
    """Return the class of the Ray datasource that reads files of a kind, and the decoder of its
    blocks.
    """
    from atgen_ray.data import file_formats as files

    if kind == "parquet":
        return files.ParquetRecords, files.decode_columns
    if kind == "arrow":
        return files.ArrowRecords, files.decode_columns
    if kind == "csv":
        return files.CsvRecords, files.decode_records
    return files.JsonRecords, files.decode_records


def _build_source(
    place: Place, kind: str, paths: list[str], options: dict[str, Any]
) -> tuple[Any, Any]:
    """Return the Ray datasource of files of one kind, and the decoder of its blocks. `options` are
    those of CSV.
    """
    from pyarrow.fs import LocalFileSystem
    from ray.data.datasource import Partitioning

    reader, decode = _choose_reader(kind)
    # Without an explicit file system Ray takes a `#` or `%` in a file name for a part of a URL.
    filesystem = LocalFileSystem() if place.is_local else place.filesystem
    if kind == "parquet":
        # A partitioned table has a column in the names of its folders: lang=en/0.parquet
        return reader(paths, filesystem=filesystem, partitioning=Partitioning("hive")), decode
    return reader(paths, filesystem=filesystem, **(options if kind == "csv" else {})), decode


def _open_repository(place: Place, data: DataConfig, split: str) -> Source:
    """Open a dataset with the layout of the hub: a folder here, or else a repository there."""
    if place.folder is not None:
        card = read_beside(place, CARD)
        picked, options = _pick_files(place, place.relative(), data, split, card)
        chosen = place.keep(picked)
        return _open_files(chosen, *pick_most_common(chosen), options)
    try:
        dataset = HubDataset(place.location, data.revision)
        listed = dataset.list_files()
        card = dataset.card
        picked, options = _pick_files(place, listed, data, split, card)
        kind, files = pick_most_common(replace(place, files=picked))
        files = files[:1] if reads_head() else files
        copies = dataset.fetch(files)
    except (OSError, ValueError) as error:
        asked = f"(subset {data.subset}, split {split})"
        reason = (
            f"no file or folder here, and Hugging Face cannot load it {asked}: {first_line(error)}"
        )
        raise place.refuse(reason) from error
    here = replace(
        place, filesystem=fsspec.filesystem("file"), files=copies, folder=str(dataset.folder)
    )
    check_inside(here, copies, here.folder)
    return _open_here(here, kind, copies, options)


def _pick_files(
    place: Place, paths: list[str], data: DataConfig, split: str, card: str | None
) -> tuple[list[str], dict[str, Any]]:
    try:
        picked, options = pick_files(paths, split, data.subset, card)
        return picked, read_options(options)
    except UserError as error:
        asked = f"(subset {data.subset}, split {split})"
        raise place.refuse(f"and Hugging Face cannot load it {asked}: {error}") from error


def _open_here(place: Place, kind: str, paths: list[str], options: dict[str, Any]) -> Source:
    """Read files that only this machine has, such as the hub's cache, in this process into the
    object store.
    """
    import ray.data

    if reads_head():
        reader, decode = _choose_reader(kind)
        return Source(read_files(reader, paths, options if kind == "csv" else {}), decode)
    try:
        source, decode = _build_source(place, kind, paths, options)
        blocks = [ray.put(block) for task in source.get_read_tasks(1) for block in task()]
    except (OSError, ValueError) as error:
        raise place.refuse(f"which cannot be read: {first_line(error)}") from error
    return Source(ray.data.from_arrow_refs(blocks or [ray.put(pa.table({}))]), decode)


def _open_saved(place: Place, split: str) -> Source:
    """Open a folder made by datasets.save_to_disk. Its descriptions name splits and files, of which
    only those inside it are read.
    """
    try:
        splits = json.loads(read_beside(place, "dataset_dict.json") or "null")
        inner = ""
        if splits is not None:
            names = [str(name) for name in splits["splits"]]
            if split not in names:
                key = "a split" if place.key == "data.path" else f"{place.key}_split"
                raise UserError(
                    f"{key} is '{split}', no split of '{place.location}'{nearest(split, names)}"
                )
            inner = f"{split}/"
        state = json.loads(read_beside(place, f"{inner}state.json") or "null")
        paths = [
            posixpath.join(place.folder or "", inner, file["filename"])
            for file in state["_data_files"]
        ]
        # An index selects rows of the files, and reading them all would add rows to the pool.
        if state.get("_indices_data_files"):
            raise ValueError(
                "it picks its rows by an index; save it again, which writes the rows themselves"
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise place.refuse(
            f"expected a folder made by datasets.save_to_disk: {first_line(error)}"
        ) from error
    check_inside(place, paths, place.folder)
    return _open_files(place, "arrow", paths)
