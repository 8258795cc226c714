"""Files that only their owner may read: journals, runs, logs and tokens hold texts and secrets.

Our processes create folders as 0700 and files as 0600, whatever umask they were given. Where
several accounts share a storage, ATGEN_UMASK says what others may do, such as 007 for a group.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from atgen_ray.core.errors import UserError

VARIABLE = "ATGEN_UMASK"
PRIVATE = 0o077
MOST = 20_000  # paths that are looked at in one folder


def read_umask() -> int:
    """Return the umask of our processes: that of ATGEN_UMASK, or 077.

    Raises:
        UserError: ATGEN_UMASK is no umask, or would keep files from their owner.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return PRIVATE
    octal = text.isascii() and text.isdigit() and len(text) <= 4 and set(text) <= set("01234567")
    if not octal or int(text, 8) & ~PRIVATE:
        raise UserError(f"{VARIABLE} is {text[:40]!r}, expected three octal digits from 000 to 077")
    return int(text, 8)


def use_private_files() -> None:
    """Let this process, and those that it starts, create private files from now on."""
    os.umask(read_umask())


@contextmanager
def private_files() -> Iterator[None]:
    """Create private files within the block. The umask belongs to the whole process, so the block
    should be short.
    """
    before = os.umask(read_umask())
    try:
        yield
    finally:
        os.umask(before)


def make_own_folder(path: Path) -> bool:
    """Make a folder that only its owner may enter, or find it; return False where that name is
    somebody else's, or cannot be made.
    """
    with suppress(OSError):
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            path.chmod(0o700)
            return True
    return False


def tighten(path: str | Path) -> bool:
    """Take from a file or folder of ours what others may do with it; return whether that was
    anything.
    """
    with suppress(OSError):
        found = os.lstat(path)
        wanted = stat.S_IMODE(found.st_mode) & ~read_umask()
        ours = found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode)
        if ours and wanted != stat.S_IMODE(found.st_mode):
            Path(path).chmod(wanted)
            return True
    return False


def find_open(root: str | Path) -> list[Path]:
    """Return the files and folders at and below `root` that others may read or write, the root
    first. A folder that is closed to others closes all below it.
    """
    mask = read_umask()
    found: list[Path] = []
    waiting = [Path(root)]
    looked = 0
    while waiting and looked < MOST:
        path = waiting.pop()
        looked += 1
        try:
            mode = path.lstat().st_mode
        except OSError:
            continue
        if stat.S_ISLNK(mode):
            continue
        if mode & mask & 0o777:
            found.append(path)
        elif mask == PRIVATE and stat.S_ISDIR(mode):
            continue
        if stat.S_ISDIR(mode):
            with suppress(OSError):
                waiting += sorted(path.iterdir(), reverse=True)
    return found
