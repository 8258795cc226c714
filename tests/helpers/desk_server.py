"""A process that serves the API and pages of a storage, without Ray, so that tests may kill it and
start it again.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx


@dataclass
class DeskServer:
    """The service of `storage` at `url`; as tests of browsers see it."""

    storage: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, __file__, str(self.storage), str(self.port)]
        self.process = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
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


if __name__ == "__main__":
    import uvicorn

    from atgen_ray.config import ServiceConfig
    from atgen_ray.serving.application import create_api

    app = create_api(ServiceConfig(storage=sys.argv[1]), None, None)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
