"""Identity of the process that drives a run, and whether that process still lives."""

import getpass
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from uuid import getnode

import psutil


def _machine() -> str:
    """Return an id of this machine since its last boot, and of this container.

    It differs between machines and containers of one host name, where a pid means something else.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return f"{getnode():x}"


def name_user() -> str:
    """Return who gives the command, as USER@HOST."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id that has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that drives a run; by default this one.

    `id` is the name that the controller gave itself. `started` is when the process started, in
    seconds since 1970: with it a pid that was given away again is recognised.
    """

    id: str
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    started: float = field(default_factory=lambda: psutil.Process().create_time())
    machine: str = field(default_factory=_machine)

    def is_dead(self) -> bool:
        """Return whether the process is certainly gone: it ran on this machine, and its pid is free
        or belongs to another process now.

        Of a process on another machine nothing is known, so the answer is False.
        """
        if (self.host, self.machine) != (socket.gethostname(), _machine()):
            return False
        try:
            process = psutil.Process(self.pid)
            return (
                process.status() == psutil.STATUS_ZOMBIE
                or abs(process.create_time() - self.started) > 1
            )
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False
