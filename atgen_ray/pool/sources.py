"""Any dataset as a Ray Dataset: files, folders, globs, URLs, Hugging Face ids and folders made by save_to_disk."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa

from atgen_ray.config import DataConfig
from atgen_ray.errors import UserError, nearest
from atgen_ray.locations import locate
from atgen_ray.pool.in_process import Blocks, read_files, reads_in_process
from atgen_ray.pool.rows import Row

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
COMPRESSIONS = {".gz", ".bz2", ".zst", ".lz4"}
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_SAVED_MARKS = ("dataset_dict.json", "state.json")
_SPLIT = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<start>\d*):(?P<stop>\d*)\])?")
_SHARD = re.compile(r"[-_.]\d+(-of-\d+)?$")
# Names that different publishers give to one split.
_ALIASES = {"validation": ("valid", "val", "dev"), "test": ("testset",), "train": ("training",)}


@dataclass(frozen=True)
class Source:
    """A Ray Dataset of raw blocks, and how to take the rows out of a block."""

    dataset: Any  # ray.data.Dataset, or Blocks
    decode: Callable[[pa.Table], Iterator[Row]]


@dataclass(frozen=True)
class _Place:
    """What the configuration points at."""

    key: str  # data.pool, data.test or data.path
    location: str  # as given
    filesystem: Any  # fsspec
    files: list[str]  # in the order in which they are read
    folder: str | None

    def refuse(self, reason: str) -> UserError:
        return UserError(f"{self.key} is '{self.location}', {reason}")


def open_source(data: DataConfig, key: str, location: str, split: str) -> Source:
    """Open `location`, the value of `key`; `split` is the split of a Hugging Face or saved dataset.

    Rows come in the order of the source: files by path, rows as they stand. Nothing is read yet.

    Raises:
        UserError: nothing is there, its format cannot be told, or it cannot be opened.
    """
    place = _find_place(key, location) if data.path is None else _find_split(data.path, data.subset, split)
    kind = _tell_format(place) if data.format == "auto" else data.format
    if kind == "huggingface":
        return _open_hub(place, data, split)
    if kind == "saved":
        return _open_saved(place, split)
    paths = _pick_files(place, kind)
    if not paths:
        raise place.refuse("expected an existing file, folder, glob or URL with data in it")
    return _open_files(place, kind, paths)


def parse_split(split: str, key: str) -> tuple[str, slice]:
    """The name of a split and the rows to take of it: `train[100:200]`.

    Raises:
        UserError: `split`, the value of `key`, is not of that form.
    """
    found = _SPLIT.fullmatch(split)
    if found is None:
        raise UserError(f"{key} is '{split}', expected a name, or a name with rows as in train[100:200]")
    start, stop = (int(bound) if bound else None for bound in (found["start"], found["stop"]))
    return found["name"], slice(start, stop)


def _find_split(folder: str, subset: str | None, split: str) -> _Place:
    """The files of one split in a dataset's folder."""
    place = _find_place("data.path", folder)
    if place.folder is None:
        raise place.refuse("expected an existing folder")
    if any(place.filesystem.exists(f"{place.folder}/{mark}") for mark in _SAVED_MARKS):
        return place
    named = [path for path in place.files if _kind_of(path)]
    inner = [path for path in named if subset and f"/{subset}/" in path[len(place.folder) :]]
    for name in (split, *_ALIASES.get(split, ())):
        if files := [path for path in inner or named if _name_of_split(path) == name]:
            return _Place("data.path", folder, place.filesystem, files, None)
    known = sorted({_name_of_split(path) for path in named})
    raise place.refuse(f"which has no file of split '{split}'" + (f"; it has {', '.join(known)}" if known else ""))


def _name_of_split(path: str) -> str:
    return _SHARD.sub("", PurePosixPath(path).name.partition(".")[0])


def _find_place(key: str, location: str) -> _Place:
    try:
        filesystem, path = fsspec.core.url_to_fs(locate(location, key))
        if filesystem.isfile(path):
            return _Place(key, location, filesystem, [path], None)
        if filesystem.isdir(path):
            return _Place(key, location, filesystem, _list_folder(filesystem, path), path)
        globbed = sorted(filter(filesystem.isfile, filesystem.glob(path))) if re.search(r"[*?\[]", path) else []
        return _Place(key, location, filesystem, globbed, None)
    except (ImportError, ValueError, OSError) as error:  # a missing driver, an unknown scheme, no access
        raise UserError(f"{key} is '{location}', which cannot be opened: {_first_line(error)}") from error


def _list_folder(filesystem: Any, folder: str) -> list[str]:
    """Files below `folder`, without hidden ones and the markers (_SUCCESS) of other tools."""
    found = sorted(filesystem.find(folder))
    inner = ((path, PurePosixPath(path[len(folder.rstrip("/")) :]).parts) for path in found)
    return [path for path, parts in inner if not any(part.startswith((".", "_")) for part in parts)]


def _kind_of(path: str) -> str | None:
    name = PurePosixPath(path.lower())
    return SUFFIXES.get(PurePosixPath(name.stem).suffix if name.suffix in COMPRESSIONS else name.suffix)


def _tell_format(place: _Place) -> str:
    kinds = {kind for kind in map(_kind_of, place.files) if kind}
    if place.folder and any(place.filesystem.exists(f"{place.folder}/{mark}") for mark in _SAVED_MARKS):
        return "saved"
    if not place.files and not place.folder and _HUB_ID.fullmatch(place.location) and not _kind_of(place.location):
        return "huggingface"
    if len(kinds) == 1:
        return kinds.pop()
    if not place.files:
        raise place.refuse("expected an existing file, folder, glob or URL, or a Hugging Face dataset id")
    found = f"its files are of several kinds ({', '.join(sorted(kinds))})" if kinds else "its name does not tell"
    raise place.refuse(f"and {found}: set data.format to jsonl, csv, parquet, saved or huggingface")


def _pick_files(place: _Place, kind: str) -> list[str]:
    named = [path for path in place.files if _kind_of(path) == kind]
    return named or place.files


def _open_files(place: _Place, kind: str, paths: list[str]) -> Source:
    import ray.data
    from pyarrow.fs import LocalFileSystem
    from ray.data.datasource import Partitioning

    from atgen_ray.pool import files

    # Given outright, or Ray would take a `#` or `%` in a file name for a part of a URL.
    local = isinstance(place.filesystem, fsspec.get_filesystem_class("file"))
    if local and reads_in_process():
        readers = {"parquet": files.ParquetRecords, "jsonl": files.JsonRecords}
        decode = files.decode_columns if kind == "parquet" else files.decode_records
        return Source(read_files(readers.get(kind, files.CsvRecords), paths), decode)
    filesystem = LocalFileSystem() if local else place.filesystem
    try:
        if kind == "parquet":
            # A column of a partitioned table may stand in its folders' names: lang=en/0.parquet
            datasource = files.ParquetRecords(paths, filesystem=filesystem, partitioning=Partitioning("hive"))
            return Source(ray.data.read_datasource(datasource), files.decode_columns)
        reader = files.JsonRecords if kind == "jsonl" else files.CsvRecords
        return Source(ray.data.read_datasource(reader(paths, filesystem=filesystem)), files.decode_records)
    except (OSError, ValueError) as error:
        raise place.refuse(f"which cannot be read: {_first_line(error)}") from error


def _open_hub(place: _Place, data: DataConfig, split: str) -> Source:
    import datasets

    try:
        loaded = datasets.load_dataset(
            locate(place.location, place.key), data.subset, split=split, revision=data.revision
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = f"no file or folder here, and Hugging Face cannot load it (subset {data.subset}, split {split})"
        raise place.refuse(f"{reason}: {_first_line(error)}") from error
    return _open_arrow(loaded)


def _open_saved(place: _Place, split: str) -> Source:
    import datasets

    try:
        loaded = datasets.load_from_disk(
            locate(place.location, place.key), storage_options=place.filesystem.storage_options
        )
    except (OSError, ValueError, KeyError, RecursionError, datasets.exceptions.DatasetsError) as error:
        raise place.refuse(f"expected a folder made by datasets.save_to_disk: {_first_line(error)}") from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            key = "a split" if place.key == "data.path" else f"{place.key}_split"
            raise UserError(f"{key} is '{split}', no split of '{place.location}'{nearest(split, loaded)}")
        loaded = loaded[split]
    return _open_arrow(loaded)


def _open_arrow(dataset: Any) -> Source:
    import ray.data

    from atgen_ray.pool import files

    # Not ray.data.from_huggingface: it asks the hub for a dataset of the same name, even for data that is here.
    blocks = list(dataset.with_format("arrow").iter(batch_size=10_000))
    empty = dataset.features.arrow_schema.empty_table()
    if reads_in_process():
        return Source(Blocks(iter(blocks or [empty])), files.decode_columns)
    return Source(ray.data.from_arrow(blocks or [empty]), files.decode_columns)


def _first_line(error: BaseException) -> str:
    """Of the error that `datasets` says was the cause, where it only says that there was one."""
    told = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
    return next(iter(str(told).splitlines()), type(told).__name__)
