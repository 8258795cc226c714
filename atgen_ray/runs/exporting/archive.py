"""A folder as a zip archive that is sent while it is made: none of its files is held in memory."""

import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

PIECE = 1 << 20  # bytes that are read at once


class _Pipe:
    """What an archive is written to, and its bytes are taken from again."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def take(self) -> bytes:
        """Return what was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def stream_zip(folder: Path) -> Iterator[bytes]:
    """Yield a zip archive of the files in `folder`, which are not compressed: weights hardly are
    any smaller then.
    """
    pipe = _Pipe()
    now = time.localtime()[:6]
    # An object without `seek` lets zipfile write sizes and checksums after each file.
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), now)
            entry.external_attr = 0o600 << 16
            entry.file_size = path.stat().st_size  # says whether it needs zip64
            with archive.open(entry, "w") as packed, path.open("rb") as file:
                while piece := file.read(PIECE):
                    packed.write(piece)
                    yield pipe.take()
    yield pipe.take()
