"""The process of an SGLang server, in SGLang's own Python.

`sglang_launcher.py` is what runs there; `sglang_python.py` finds that Python.
"""

import json
import os
import secrets
import signal
import socket
import subprocess  # nosec B404 - SGLang runs in an environment of its own
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from atgen_ray.core.errors import UserError
from atgen_ray.engines import sglang_launcher
from atgen_ray.engines.sglang_python import HOW_TO_INSTALL, find_python
from atgen_ray.engines.sglang_settings import ServerSettings
from atgen_ray.engines.sglang_weights import BASE

END_SECONDS = 10.0  # between the request to end and the signal that cannot be ignored
LOG_BYTES = 4096  # of the end of its log in an error


@dataclass(eq=False)
class ServerProcess:
    """A server process and what it holds."""

    process: "subprocess.Popen[bytes]"
    log: IO[bytes]
    url: str
    key: str
    ready: bool = False
    version: str = BASE.loaded
    adapters: set[str] = field(default_factory=set)

    def show_log(self) -> str:
        """Return the end of the log as part of a message."""
        # The process writes at the offset that both share, so this must not move it.
        size = os.fstat(self.log.fileno()).st_size
        read = os.pread(self.log.fileno(), LOG_BYTES, max(0, size - LOG_BYTES))
        return f"; its log ends:\n{read.decode(errors='replace').strip()}"

    def end(self) -> None:
        """End the process and all that it has started."""
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, kind)
                self.process.wait(END_SECONDS)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()
        self.log.close()


def launch(settings: ServerSettings, command: Sequence[str] | None) -> ServerProcess:
    """Start a server; `command` is started in the launcher's place.

    Raises:
        UserError: SGLang is not installed.
    """
    python = find_python()
    if python is None and command is None:
        raise UserError(f"engine.backend is 'sglang', which is not installed: {HOW_TO_INSTALL}")
    launcher = [str(python), "-P", str(Path(sglang_launcher.__file__))]
    own_python = command is None and python != Path(sys.executable)
    key = secrets.token_hex(
        24
    )  # not one that begins with a dash, which the server would take for a flag
    port = _find_port()
    arguments = json.dumps(settings.list_arguments(port, key))
    log = tempfile.TemporaryFile()  # noqa: SIM115 - without a name: nothing is left of it
    process = subprocess.Popen(  # noqa: S603 # nosec B603 - the launcher of this package
        command or launcher,
        stdin=subprocess.PIPE,  # the launcher ends when it closes
        stdout=log,
        stderr=subprocess.STDOUT,
        env=settings.build_environment(own_python),
        start_new_session=True,
    )
    if process.stdin is not None:
        process.stdin.write(arguments.encode() + b"\n")
        process.stdin.flush()
    return ServerProcess(process, log, f"http://127.0.0.1:{port}", key)


def _find_port() -> int:
    """Return a port that is free now. Where another process takes it first, the server ends."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
