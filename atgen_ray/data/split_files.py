"""Choice of the files of a dataset that hold a split: by its card, or else by the names of files
and folders.

A card is the YAML at the head of a README.md, as on the Hugging Face hub. Its author may be a
stranger, so its patterns match paths of the dataset itself and nothing else: a card cannot lead to
another folder or host.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from atgen_ray.core.errors import UserError, nearest
from atgen_ray.core.strict_yaml import parse_yaml

# Names that publishers give to one split.
ALIASES = {
    "train": ("training",),
    "validation": ("valid", "val", "dev"),
    "test": ("testset", "testing", "eval", "evaluation"),
}
# Files beside the data that hold no rows.
NO_DATA = {
    "README.md",
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
}
_SHARD = re.compile(r"[-_.]\d+(-of-\d+)?$")
_CARD = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
# Names of files in the hub's branch refs/convert/parquet.
_EXPORTED = re.compile(r"(?P<subset>[^/]+)/[^/]+/\d{4}\.parquet")
# Keys of a subset in a card that do not change how its files are read.
_HARMLESS = {
    "config_name",
    "data_files",
    "data_dir",
    "default",
    "description",
    "version",
    "features",
    "drop_labels",
}


def name_split(path: str) -> str:
    """Return the name of a file without its endings and the number of its shard: train for
    `data/train-00000-of-00002.csv`.
    """
    return _SHARD.sub("", PurePosixPath(path).name.partition(".")[0])


def list_splits(paths: Iterable[str]) -> set[str]:
    """Return the well-known splits (train, validation, test) that files or their folders are named
    by.
    """
    return {split for split in ALIASES if _named_after(list(paths), split)}


def pick_split(paths: list[str], split: str) -> list[str]:
    """Return the files of `split` by their names: preferably its own file or folder, else those
    with its name among other words.

    If no file is named by any split, all are of the split `train`, as on the hub.
    """
    found = _named_after(paths, split) or _mentioning(paths, split)
    if found or split not in ("train", *ALIASES["train"]):
        return found
    if any(_named_after(paths, other) or _mentioning(paths, other) for other in ALIASES):
        return []
    return paths


def pick_files(
    paths: list[str], split: str, subset: str | None, card: str | None
) -> tuple[list[str], dict[str, Any]]:
    """Return the files that hold `split` in a dataset of `paths`, and what its card says about
    reading them.

    Args:
        paths: every file of the dataset, relative to it.
        split: the name of a split.
        subset: a configuration that the card names, or a folder of the dataset; None for the only
            or default one.
        card: the text of its README.md.

    Raises:
        UserError: the subset or the split is not there, or the card names files outside the
            dataset. The line begins with what is wrong and does not name the dataset.
    """
    data = [
        path for path in paths if PurePosixPath(path).name not in NO_DATA and not _is_hidden(path)
    ]
    configs = _read_configs(card)
    config = _choose_config(configs, subset)
    if config is None:
        return _pick_by_name(_choose_folder(data, subset, sorted(configs)), split), {}
    # A card that names no files only narrows down the folder; names of files decide then.
    folder = _plain(config.get("data_dir") or "")
    inside = [path for path in data if not folder or path.startswith(f"{folder}/")]
    options = {key: value for key, value in config.items() if key not in _HARMLESS}
    if "data_files" not in config:
        return _pick_by_name(inside, split), options
    patterns = _list_patterns(config["data_files"])
    wanted = [name for name in (split, *ALIASES.get(split, ())) if name in patterns]
    if not wanted:
        raise UserError(
            f"split is '{split}', which its README does not name{nearest(split, patterns)}"
        )
    prefix = f"{folder}/" if folder else ""
    picked = [
        path
        for path in inside
        if any(_matches(path, prefix + each) for each in patterns[wanted[0]])
    ]
    if not picked:
        raise UserError(
            f"its README names {patterns[wanted[0]]} for split '{split}', and no such file is there"
        )
    return picked, options


def read_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a reader that a card gives: the delimiter of CSV files, and nothing
    else.

    Raises:
        UserError: the card wants its files read in a way that the readers here do not know.
    """
    delimiter = options.pop("sep", options.pop("delimiter", None))
    if options:
        raise UserError(
            f"its README gives '{next(iter(options))}' for its files, expected sep or nothing; of "
            f"a public dataset the "
            "hub has a copy in Parquet: data.revision=refs/convert/parquet"
        )
    return {"delimiter": _one_character(delimiter)} if delimiter is not None else {}


def _one_character(delimiter: Any) -> str:
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '\r\n"':
        raise UserError(f"its README gives sep {str(delimiter)[:20]!r}, expected one character")
    return delimiter


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "__")) for part in PurePosixPath(path).parts)


def _named_after(paths: list[str], split: str) -> list[str]:
    names = (split, *ALIASES.get(split, ()))
    by_file = ([path for path in paths if name_split(path) == name] for name in names)
    by_folder = (
        [path for path in paths if name in PurePosixPath(path).parts[:-1]] for name in names
    )
    return next(filter(None, chain(by_file, by_folder)), [])


def _mentioning(paths: list[str], split: str) -> list[str]:
    names = {split, *ALIASES.get(split, ())}

    def mentions(part: str) -> bool:
        return bool(names & set(re.split(r"[-._ 0-9]+", part)))

    folders = [path for path in paths if any(map(mentions, PurePosixPath(path).parts[:-1]))]
    return folders or [path for path in paths if mentions(PurePosixPath(path).name)]


def _pick_by_name(paths: list[str], split: str) -> list[str]:
    picked = pick_split(paths, split)
    if not picked:
        known = sorted({name_split(path) for path in paths})[:20]
        raise UserError(
            f"no file of split '{split}' is there"
            + (f"; its files: {', '.join(known)}" if known else "")
        )
    return picked


def _choose_folder(paths: list[str], subset: str | None, configs: list[str]) -> list[str]:
    """Return the files of a subset that no card describes: those below the folder of its name."""
    exported = {found["subset"] for found in map(_EXPORTED.fullmatch, paths) if found}
    if subset is None:
        if len(exported) > 1 and "default" not in exported:
            raise UserError(f"data.subset is null, expected one of {', '.join(sorted(exported))}")
        subset = "default" if len(exported) > 1 else None
    if subset is None:
        return paths
    inside = [path for path in paths if f"/{subset}/" in f"/{path}"]
    if not inside:
        folders = {path.partition("/")[0] for path in paths if "/" in path}
        raise UserError(
            f"data.subset is '{subset}', no subset of it{nearest(subset, {*configs, *folders})}"
        )
    return inside


def _read_configs(card: str | None) -> dict[str, dict[str, Any]]:
    """Return the configurations that a card lists, by name."""
    found = _CARD.search(card.removeprefix("\ufeff")) if card else None
    tree = parse_yaml(found[1], "its README's head") if found else None
    configs = tree.get("configs") if isinstance(tree, dict) else None
    listed = (
        [each for each in configs if isinstance(each, dict)] if isinstance(configs, list) else []
    )
    return {str(each.get("config_name", "default")): each for each in listed}


def _choose_config(configs: dict[str, dict[str, Any]], subset: str | None) -> dict[str, Any] | None:
    if subset is not None or not configs:
        return configs.get(subset or "")
    chosen = [name for name, each in configs.items() if each.get("default") is True]
    if chosen or "default" in configs:
        return configs[chosen[0] if chosen else "default"]
    if len(configs) > 1:
        raise UserError(f"data.subset is null, expected one of {', '.join(sorted(configs))}")
    return next(iter(configs.values()))


def _list_patterns(data_files: Any) -> dict[str, list[str]]:
    """Return patterns by split, out of a string, a list of strings, or a list of {split, path}."""
    listed = data_files if isinstance(data_files, list) else [data_files]
    if isinstance(data_files, dict):
        listed = [{"split": split, "path": path} for split, path in data_files.items()]
    patterns: dict[str, list[str]] = {}
    for each in listed:
        split = each.get("split") if isinstance(each, dict) else "train"
        path = each.get("path") if isinstance(each, dict) else each
        given = path if isinstance(path, list) else [path]
        patterns.setdefault(str(split), []).extend(map(_plain, given))
    return patterns


def _plain(path: Any) -> str:
    """Return a path of a card that stays within the dataset. Raise UserError for any other."""
    text = path if isinstance(path, str) else repr(path)
    parts = text.split("/")
    if not isinstance(path, str) or ".." in parts or re.search(r"^[/~]|::|:/|\\|[\x00-\x1f]", text):
        raise UserError(f"its README names {text[:200]!r}, a file outside it")
    return "/".join(part for part in parts if part not in ("", "."))


def _matches(path: str, pattern: str) -> bool:
    """Return whether `pattern` names `path`: * stays within a folder, ** matches any number of
    folders.
    """
    names = path.split("/")
    globs = pattern.split("/")

    # Cached, so that a hostile pattern costs at most its length times the path's.
    @cache
    def match(at: int, part: int) -> bool:
        if part == len(globs):
            return at == len(names)
        if globs[part] == "**":
            return match(at, part + 1) or (at < len(names) and match(at + 1, part))
        return at < len(names) and fnmatchcase(names[at], globs[part]) and match(at + 1, part + 1)

    return match(0, 0)
