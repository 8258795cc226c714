"""Which process drives a run, and whether it still lives."""

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from uuid import getnode

import psutil


def _machine() -> str:
    """Tells machines and containers of one host name apart, and a machine from itself before a
    reboot.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return f"{getnode():x}"


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that drives a run; by default this one. `id` is the controller's own name for
    itself.
    """

    id: str
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    started: float = field(default_factory=lambda: psutil.Process().create_time())
    machine: str = field(default_factory=_machine)

    def is_dead(self) -> bool:
        """Whether this process is certainly gone: it ran on this machine, and its pid is free or
        another's now.
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
