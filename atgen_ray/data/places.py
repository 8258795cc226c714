"""Places of data sets: which files a location of the configuration has, and of which kind.

Each file is checked before any is opened: with links followed, it must be inside the configured
location. A dataset's own description (a README, a state.json, a symbolic link) cannot lead
elsewhere.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import fsspec

from atgen_ray.core.errors import UserError
from atgen_ray.core.locations import locate
from atgen_ray.data.split_files import NO_DATA, list_splits, name_split, pick_split

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
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Place:
    """A resolved location of the configuration, and its files."""

    key: str  # data.pool, data.test or data.path
    location: str  # as given
    filesystem: Any  # fsspec
    files: list[str]  # in the order in which they are read
    folder: str | None

    @property
    def is_local(self) -> bool:
        """Return whether the files are on this machine, or mounted here."""
        return isinstance(self.filesystem, fsspec.get_filesystem_class("file"))

    def relative(self) -> list[str]:
        """Return the files relative to the folder."""
        return [path.removeprefix(f"{self.folder}/") for path in self.files]

    def keep(self, relative: list[str]) -> "Place":
        """Return the same place with some of its files."""
        files = [
            path for path in self.files if path.removeprefix(f"{self.folder}/") in set(relative)
        ]
        return replace(self, files=files)

    def refuse(self, reason: str) -> UserError:
        """Return an error about this location."""
        return UserError(f"{self.key} is '{self.location}', {reason}")


def find_place(key: str, location: str) -> Place:
    """Return the files at `location`, the value of `key`."""
    try:
        filesystem, path = fsspec.core.url_to_fs(locate(location, key))
        if filesystem.isfile(path):
            return Place(key, location, filesystem, [path], None)
        if filesystem.isdir(path):
            place = Place(
                key, location, filesystem, _list_folder(filesystem, path), path.rstrip("/")
            )
            check_inside(place, place.files, place.folder)
            return place
        globbed = (
            sorted(filter(filesystem.isfile, filesystem.glob(path))) if _MAGIC.search(path) else []
        )
        place = Place(key, location, filesystem, globbed, None)
        check_inside(place, globbed, _MAGIC.split(path)[0].rpartition("/")[0])
        return place
    except (ImportError, ValueError, OSError) as error:
        # A driver is missing, the scheme is unknown, or access is denied.
        raise UserError(
            f"{key} is '{location}', which cannot be opened: {first_line(error)}"
        ) from error


def find_split(folder: str, subset: str | None, split: str) -> Place:
    """Return the files of one split in a dataset's folder."""
    place = find_place("data.path", folder)
    if place.folder is None:
        raise place.refuse("expected an existing folder")
    if any(place.filesystem.exists(f"{place.folder}/{mark}") for mark in _SAVED_MARKS):
        return place
    named = [path for path in place.relative() if name_kind(path)]
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


def keep_split(place: Place, kind: str, split: str) -> Place:
    """Return only the files of `split` if the files of a folder are named by several splits."""
    named = [path for path in place.relative() if name_kind(path) == kind]
    splits = list_splits(named)
    if len(splits) < 2:
        return place
    picked = pick_split(named, split)
    if not picked:
        raise place.refuse(
            f"which has no file of split '{split}'; it has {', '.join(sorted(splits))}"
        )
    return place.keep(picked)


def check_inside(place: Place, paths: list[str], folder: str | None) -> None:
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


def read_beside(place: Place, name: str) -> str | None:
    """Return the text of a file in the place's folder, or None."""
    path = f"{place.folder}/{name}"
    if place.folder is None or not place.filesystem.isfile(path):
        return None
    check_inside(place, [path], place.folder)
    return str(place.filesystem.cat_file(path).decode("utf-8", "replace"))


def name_kind(path: str) -> str | None:
    """Return the format that the name of a file tells; None for another name."""
    name = PurePosixPath(path.lower())
    return SUFFIXES.get(
        PurePosixPath(name.stem).suffix if name.suffix in COMPRESSIONS else name.suffix
    )


def tell_format(place: Place) -> str:
    """Return the value of data.format that fits the files of a place.

    Raises:
        UserError: nothing is there, or the names do not tell.
    """
    kinds = {kind for kind in map(name_kind, place.files) if kind}
    if place.folder and any(
        place.filesystem.exists(f"{place.folder}/{mark}") for mark in _SAVED_MARKS
    ):
        return "saved"
    if (
        not place.files
        and not place.folder
        and _HUB_ID.fullmatch(place.location)
        and not name_kind(place.location)
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


def pick_kind(place: Place, kind: str) -> list[str]:
    """Return the files of a kind by their names; all files where no name tells it."""
    named = [path for path in place.files if name_kind(path) == kind]
    return named or place.files


def pick_most_common(place: Place) -> tuple[str, list[str]]:
    """Return the kind of most files, and the files of that kind; a repository may hold the same
    rows in several kinds.
    """
    kinds = Counter(kind for kind in map(name_kind, place.files) if kind)
    if not kinds:
        names = ", ".join(sorted({PurePosixPath(path).suffix or path for path in place.files})[:5])
        raise place.refuse(
            f"whose files ({names}) are no JSON, CSV, Parquet or Arrow; of a public dataset the "
            f"hub has a copy in "
            "Parquet: data.revision=refs/convert/parquet"
        )
    kind = max(sorted(kinds), key=kinds.__getitem__)
    return kind, [path for path in place.files if name_kind(path) == kind]


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
