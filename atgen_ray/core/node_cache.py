"""Cache of a node: copies of stored files and folders in the user's cache, each made once a node.

A copy is named by its version, so it never changes. It stays while a process may use it: each
process holds a shared lock on the last `HELD` copies that it asked for, until it ends, however it
ends. Of the others those unused for longest are deleted once all copies together are larger than
`ATGEN_CACHE_GB` gigabytes.
"""

import fcntl
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from filelock import FileLock
from platformdirs import user_cache_path

from atgen_ray.core.errors import UserError

VARIABLE = "ATGEN_CACHE_GB"
DEFAULT_GIGABYTES = 20.0
USED = ".used"  # locked by every process that uses the copy beside it; its time is that of last use
STAGING = ".staging"

HELD = 64  # more than the adapters and checkpoints that one process has loaded at a time

# What this process holds, the longest unasked first, with the open files whose locks say so.
_held: OrderedDict[Path, IO[bytes]] = OrderedDict()


def fetch_once(version: str, name: str, fetch: Callable[[Path], None]) -> Path:
    """Return the copy `name` of `version`, which `fetch` makes at the path that it is given unless
    this node has one.

    Other processes of the node wait for the one that fetches. An error of `fetch` leaves no copy.

    Raises:
        UserError: ATGEN_CACHE_GB is no positive number.
    """
    limit = read_limit()
    root = user_cache_path("atgen-ray") / "storage"
    entry = root / version
    _hold(entry)
    copy = entry / name
    with FileLock(entry / ".lock"):
        if copy.exists():
            return copy
        staged = entry / STAGING
        _delete(staged)
        fetch(staged)
        staged.rename(copy)
    _evict(root, limit)
    return copy


def read_limit() -> int:
    """Return the bytes that the copies may have together.

    Raises:
        UserError: ATGEN_CACHE_GB is no positive number.
    """
    text = os.environ.get(VARIABLE, "") or str(DEFAULT_GIGABYTES)
    try:
        gigabytes = float(text)
        if not 0 < gigabytes < float("inf"):
            raise ValueError
    except ValueError:
        raise UserError(
            f"{VARIABLE} is {text[:40]!r}, expected gigabytes, as {DEFAULT_GIGABYTES:g}: the room "
            f"for copies of adapters and checkpoints on a node"
        ) from None
    return int(gigabytes * 1e9)


def _hold(entry: Path) -> None:
    """Lock `entry` against deletion until this process ends or has asked for `HELD` others."""
    now = time.time()
    while True:
        entry.mkdir(parents=True, exist_ok=True)
        try:
            file = (entry / USED).open("ab")
        except FileNotFoundError:  # deleted since the line above
            continue
        fcntl.flock(file, fcntl.LOCK_SH)
        # Another process may have deleted the entry while this one waited for the lock.
        with suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == (entry / USED).stat().st_ino:
                os.utime(entry / USED, (now, now))
                _held[entry] = file  # closes the file that was there
                _held.move_to_end(entry)
                while len(_held) > HELD:
                    _held.popitem(last=False)
                return
        file.close()


def _evict(root: Path, limit: int) -> None:
    """Delete copies that no process uses until all together have at most `limit` bytes."""
    entries = [entry for entry in root.iterdir() if entry.is_dir()]
    sizes = {entry: _measure(entry) for entry in entries}
    total = sum(sizes.values())
    for entry in sorted(entries, key=_last_use):
        if total <= limit:
            return
        with suppress(OSError), (entry / USED).open("ab") as file:
            # A process that uses the copy, this one too, makes the lock fail.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _delete(entry)
            total -= sizes[entry]


def _measure(entry: Path) -> int:
    """Return the bytes of all files of `entry`."""
    total = 0
    for path in entry.rglob("*"):
        with suppress(FileNotFoundError):  # another process deletes it
            total += path.stat().st_size if path.is_file() else 0
    return total


def _last_use(entry: Path) -> float:
    with suppress(FileNotFoundError):
        return (entry / USED).stat().st_mtime
    return 0.0


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def drop_copy(version: str, rehearse: bool = False) -> bool:
    """Delete this node's copy of `version`, whoever uses it: it must not be any more. Return
    whether there is one; with `rehearse` delete nothing.
    """
    entry = user_cache_path("atgen-ray") / "storage" / version
    if not version or not entry.is_dir():
        return False
    if not rehearse:
        if (held := _held.pop(entry, None)) is not None:
            held.close()
        _delete(entry)
    return True
