"""A process that serves the API and pages of a storage, without Ray, so that tests may kill it and
start it again.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from atgen_ray.store.journal import Journal
from helpers.forks import Command
from helpers.ports import free_port


@dataclass
class DeskServer:
    """The service of `storage` at `url`; as tests of browsers see it."""

    storage: Path
    port: int
    process: subprocess.Popen[str] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = Command(
            "-m",
            "helpers.desk_server",
            str(self.storage),
            str(self.port),
            cwd=Path(__file__).parents[1],
            env=os.environ,
        )
        deadline = time.monotonic() + 180  # other tests share its cores
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/healthz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        self.kill()
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        """SIGKILL: it has no time to save anything."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    @contextmanager
    def open_journal(self) -> Iterator[Journal]:
        """The journal of the storage."""
        journal = Journal(f"sqlite:///{self.storage}/atgen.db")
        try:
            yield journal
        finally:
            journal.close()


@contextmanager
def run_desk_server(storage: Path) -> Iterator[DeskServer]:
    """A server that ends with the block."""
    server = DeskServer(storage, free_port())
    server.start()
    try:
        yield server
    finally:
        server.kill()


if __name__ == "__main__":
    import uvicorn

    from atgen_ray.config import ServiceConfig
    from atgen_ray.serving.application import create_api

    app = create_api(ServiceConfig(storage=sys.argv[1]), None, None)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
