"""Edges of a disk: calls of the operating system that fail, are done and not answered, or find their
process dead. What they do is done for real, in a folder in memory.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .world import Killed, World

CALLS = ("rename", "unlink", "rmdir", "mkdir", "fsync")


@contextmanager
def simulated_disk(world: World, root: str, renamed: Callable[[str], None]) -> Iterator[None]:
    """Have the calls that change files below `root` be edges of the world; `renamed` is called with
    each new name, before anybody else comes.
    """
    real = {name: getattr(os, name) for name in CALLS}
    urandom = os.urandom

    def rename(source: Any, target: Any, **named: Any) -> None:
        here = os.fspath(source)
        if world.current is None or not here.startswith(root):
            real["rename"](source, target, **named)
            return
        detail = f"{_show(here, root)} -> {_show(os.fspath(target), root)}"
        fault = world.edge(
            "rename", "rename-fails", "rename-unanswered", "rename-lost", detail=detail
        )
        if fault == "rename-fails":
            raise OSError(errno.EIO, os.strerror(errno.EIO), here)
        real["rename"](source, target, **named)
        renamed(os.fspath(target))
        if fault == "rename-unanswered":  # NFS: the call was repeated, and the name is gone
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), here)
        if fault == "rename-lost":
            raise OSError(errno.EIO, os.strerror(errno.EIO), here)
        world.edge("renamed", detail=_show(os.fspath(target), root))

    def fsync(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        fault = world.edge("fsync", "disk-full", "write-half")
        if fault == "disk-full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if fault == "write-half":  # and the machine goes down
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if path.is_file():
                os.truncate(path, size // 2)
            assert world.current is not None
            world.kill(world.current.process)
            raise Killed

    def alive(name: str) -> Callable[..., None]:
        def call(*arguments: Any, **named: Any) -> None:
            world.check_alive()
            real[name](*arguments, **named)

        return call

    replaced = {name: alive(name) for name in ("unlink", "rmdir", "mkdir")}
    replaced |= {"rename": rename, "fsync": fsync}
    for name, call in replaced.items():
        setattr(os, name, call)
    os.urandom = lambda size: world.chance.randbytes(size)
    try:
        yield
    finally:
        os.urandom = urandom
        for name, call in real.items():
            setattr(os, name, call)


def _show(path: str, root: str) -> str:
    return path.removeprefix(root).lstrip("/")
