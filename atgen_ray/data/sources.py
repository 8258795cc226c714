"""Datasets as Ray Datasets: files, folders, globs, URLs, Hugging Face ids and folders made by
save_to_disk.

Every kind of location is resolved to a list of files, and each file is checked before any is
opened: with links followed, it must be inside the configured location. A dataset's own description
(a README, a state.json, a symbolic link) cannot lead elsewhere.
"""

import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import fsspec
import pyarrow as pa

from atgen_ray.config import DataConfig
from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.locations import locate
from atgen_ray.data.hub import CARD, HubDataset
from atgen_ray.data.in_process import read_files, reads_head, reads_in_process
from atgen_ray.data.rows import Row
from atgen_ray.data.split_files import (
    NO_DATA,
    list_splits,
    name_split,
    pick_files,
    pick_split,
    read_options,
)
from atgen_ray.ray_runtime.hardware import share_cpus

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
}
COMPRESSIONS = {".gz", ".bz2", ".zst", ".lz4"}
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_SAVED_MARKS = ("dataset_dict.json", "state.json")
_SPLIT = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<start>\d*):(?P<stop>\d*)\])?")
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Source:
    """A Ray Dataset of raw blocks, and the function that decodes the rows of a block."""

    dataset: Any  # ray.data.Dataset, or Blocks
    decode: Callable[[pa.Table], Iterator[Row]]


@dataclass(frozen=True)
class _Place:
    """A resolved location of the configuration."""

    key: str  # data.pool, data.test or data.path
    location: str  # as given
    filesystem: Any  # fsspec
    files: list[str]  # in the order in which they are read
    folder: str | None

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fsspec.get_filesystem_class("file"))

    def relative(self) -> list[str]:
        """Return the files relative to the folder."""
        return [path.removeprefix(f"{self.folder}/") for path in self.files]

    def keep(self, relative: list[str]) -> "_Place":
        """Return the same place with some of its files."""
        files = [
            path for path in self.files if path.removeprefix(f"{self.folder}/") in set(relative)
        ]
        return replace(self, files=files)

    def refuse(self, reason: str) -> UserError:
        """Return an error about this location."""
        return UserError(f"{self.key} is '{self.location}', {reason}")


def open_source(data: DataConfig, key: str, location: str, split: str) -> Source:
    """Open `location`, the value of `key`; `split` is the split of a dataset that holds several.

    Rows come in the order of the source: files by path, rows as they are in the file. Only a
    dataset's own description is read yet; files of the hub are copied to its cache.

    Raises:
        UserError: nothing is there, its format cannot be told, it cannot be opened, or it names
            files outside itself.
    """
    if data.path is None:
        place = _find_place(key, location)
    else:
        place = _find_split(data.path, data.subset, split)
    kind = _tell_format(place) if data.format == "auto" else data.format
    if kind == "huggingface":
        return _open_repository(place, data, split)
    if kind == "saved":
        return _open_saved(place, split)
    if place.folder is not None and data.path is None:
        place = _keep_split(place, kind, split)
    paths = _pick_kind(place, kind)
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


def _find_split(folder: str, subset: str | None, split: str) -> _Place:
    """Return the files of one split in a dataset's folder."""
    place = _find_place("data.path", folder)
    if place.folder is None:
        raise place.refuse("expected an existing folder")
    if any(place.filesystem.exists(f"{place.folder}/{mark}") for mark in _SAVED_MARKS):
        return place
    named = [path for path in place.relative() if _kind_of(path)]
    inner = [path for path in named if subset and f"/{subset}/" in f"/{path}"]
    picked = pick_split(inner or named, split)
    # Where no name mentions a split, `pick_split` returns all files for "train"; such a folder has
    # no splits.
    if not picked or (len(picked) == len(named) and named and not list_splits(named)):
        known = sorted({name_split(path) for path in named})
        raise place.refuse(
            f"which has no file of split '{split}'"
            + (f"; it has {', '.join(known)}" if known else "")
        )
    return place.keep(picked)


def _keep_split(place: _Place, kind: str, split: str) -> _Place:
    """Return only the files of `split` if the files of a folder are named by several splits."""
    named = [path for path in place.relative() if _kind_of(path) == kind]
    splits = list_splits(named)
    if len(splits) < 2:
        return place
    picked = pick_split(named, split)
    if not picked:
        raise place.refuse(
            f"which has no file of split '{split}'; it has {', '.join(sorted(splits))}"
        )
    return place.keep(picked)


def _find_place(key: str, location: str) -> _Place:
    """Return the files at `location`, the value of `key`."""
    try:
        filesystem, path = fsspec.core.url_to_fs(locate(location, key))
        if filesystem.isfile(path):
            return _Place(key, location, filesystem, [path], None)
        if filesystem.isdir(path):
            place = _Place(
                key, location, filesystem, _list_folder(filesystem, path), path.rstrip("/")
            )
            check_inside(place, place.files, place.folder)
            return place
        globbed = (
            sorted(filter(filesystem.isfile, filesystem.glob(path))) if _MAGIC.search(path) else []
        )
        place = _Place(key, location, filesystem, globbed, None)
        check_inside(place, globbed, _MAGIC.split(path)[0].rpartition("/")[0])
        return place
    except (ImportError, ValueError, OSError) as error:
        # A driver is missing, the scheme is unknown, or access is denied.
        raise UserError(
            f"{key} is '{location}', which cannot be opened: {_first_line(error)}"
        ) from error


def check_inside(place: _Place, paths: list[str], folder: str | None) -> None:
    """Check that each of `paths` is below `folder`, with links followed.

    Raises:
        UserError: one of them is not.
    """
    if folder is None or not paths:
        return
    if not place.is_local:
        for path in paths:
            if not path.startswith(folder) or ".." in unquote(path[len(folder) :]).split("/"):
                raise place.refuse(f"which leads to {path[:200]!r}, outside it")
        return
    root = Path(os.path.realpath(folder))
    # In the hub's cache the files of a snapshot are links to blobs in the folder above.
    if root.parent.name == "snapshots":
        root = root.parent.parent
    for path in paths:
        target = os.path.realpath(path)
        if not Path(target).is_relative_to(root):
            raise place.refuse(
                f"which leads to {target[:200]!r}, outside it, by {PurePosixPath(path).name[:80]!r}"
            )


def _list_folder(filesystem: Any, folder: str) -> list[str]:
    """Return the files below `folder`, without hidden ones and the markers (_SUCCESS) of other
    tools.
    """
    found = sorted(filesystem.find(folder))
    inner = ((path, PurePosixPath(path[len(folder.rstrip("/")) :]).parts) for path in found)
    return [
        path
        for path, parts in inner
        if parts[-1] not in NO_DATA and not any(part.startswith((".", "_")) for part in parts)
    ]


def _kind_of(path: str) -> str | None:
    name = PurePosixPath(path.lower())
    return SUFFIXES.get(
        PurePosixPath(name.stem).suffix if name.suffix in COMPRESSIONS else name.suffix
    )


def _tell_format(place: _Place) -> str:
    kinds = {kind for kind in map(_kind_of, place.files) if kind}
    if place.folder and any(
        place.filesystem.exists(f"{place.folder}/{mark}") for mark in _SAVED_MARKS
    ):
        return "saved"
    if (
        not place.files
        and not place.folder
        and _HUB_ID.fullmatch(place.location)
        and not _kind_of(place.location)
    ):
        return "huggingface"
    if len(kinds) == 1:
        return kinds.pop()
    if not place.files:
        raise place.refuse(
            "expected an existing file, folder, glob or URL, or a Hugging Face dataset id"
        )
    found = "its name does not tell"
    if kinds:
        found = f"its files are of several kinds ({', '.join(sorted(kinds))})"
    raise place.refuse(f"and {found}: set data.format to jsonl, csv, parquet, saved or huggingface")


def _pick_kind(place: _Place, kind: str) -> list[str]:
    named = [path for path in place.files if _kind_of(path) == kind]
    return named or place.files


def _open_files(
    place: _Place, kind: str, paths: list[str], options: dict[str, Any] | None = None
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
        raise place.refuse(f"which cannot be read: {_first_line(error)}") from error


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
    place: _Place, kind: str, paths: list[str], options: dict[str, Any]
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


def _open_repository(place: _Place, data: DataConfig, split: str) -> Source:
    """Open a dataset with the layout of the hub: a folder here, or else a repository there."""
    if place.folder is not None:
        card = _read_beside(place, CARD)
        picked, options = _pick_files(place, place.relative(), data, split, card)
        chosen = place.keep(picked)
        return _open_files(chosen, *_most_common(chosen), options)
    try:
        dataset = HubDataset(place.location, data.revision)
        listed = dataset.list_files()
        card = dataset.card
        picked, options = _pick_files(place, listed, data, split, card)
        kind, files = _most_common(replace(place, files=picked))
        files = files[:1] if reads_head() else files
        copies = dataset.fetch(files)
    except (OSError, ValueError) as error:
        asked = f"(subset {data.subset}, split {split})"
        reason = (
            f"no file or folder here, and Hugging Face cannot load it {asked}: {_first_line(error)}"
        )
        raise place.refuse(reason) from error
    here = replace(
        place, filesystem=fsspec.filesystem("file"), files=copies, folder=str(dataset.folder)
    )
    check_inside(here, copies, here.folder)
    return _open_here(here, kind, copies, options)


def _pick_files(
    place: _Place, paths: list[str], data: DataConfig, split: str, card: str | None
) -> tuple[list[str], dict[str, Any]]:
    try:
        picked, options = pick_files(paths, split, data.subset, card)
        return picked, read_options(options)
    except UserError as error:
        asked = f"(subset {data.subset}, split {split})"
        raise place.refuse(f"and Hugging Face cannot load it {asked}: {error}") from error


def _most_common(place: _Place) -> tuple[str, list[str]]:
    """Return the kind of most files, and the files of that kind; a repository may hold the same
    rows in several kinds.
    """
    kinds = Counter(kind for kind in map(_kind_of, place.files) if kind)
    if not kinds:
        names = ", ".join(sorted({PurePosixPath(path).suffix or path for path in place.files})[:5])
        raise place.refuse(
            f"whose files ({names}) are no JSON, CSV, Parquet or Arrow; of a public dataset the "
            f"hub has a copy in "
            "Parquet: data.revision=refs/convert/parquet"
        )
    kind = max(sorted(kinds), key=kinds.__getitem__)
    return kind, [path for path in place.files if _kind_of(path) == kind]


def _read_beside(place: _Place, name: str) -> str | None:
    """Return the text of a file in the place's folder, or None."""
    path = f"{place.folder}/{name}"
    if place.folder is None or not place.filesystem.isfile(path):
        return None
    check_inside(place, [path], place.folder)
    return str(place.filesystem.cat_file(path).decode("utf-8", "replace"))


def _open_here(place: _Place, kind: str, paths: list[str], options: dict[str, Any]) -> Source:
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
        raise place.refuse(f"which cannot be read: {_first_line(error)}") from error
    return Source(ray.data.from_arrow_refs(blocks or [ray.put(pa.table({}))]), decode)


def _open_saved(place: _Place, split: str) -> Source:
    """Open a folder made by datasets.save_to_disk. Its descriptions name splits and files, of which
    only those inside it are read.
    """
    try:
        splits = json.loads(_read_beside(place, "dataset_dict.json") or "null")
        inner = ""
        if splits is not None:
            names = [str(name) for name in splits["splits"]]
            if split not in names:
                key = "a split" if place.key == "data.path" else f"{place.key}_split"
                raise UserError(
                    f"{key} is '{split}', no split of '{place.location}'{nearest(split, names)}"
                )
            inner = f"{split}/"
        state = json.loads(_read_beside(place, f"{inner}state.json") or "null")
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
            f"expected a folder made by datasets.save_to_disk: {_first_line(error)}"
        ) from error
    check_inside(place, paths, place.folder)
    return _open_files(place, "arrow", paths)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
