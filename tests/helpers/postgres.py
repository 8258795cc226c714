"""A PostgreSQL server of our own, behind a socket in a folder."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "pg-canary"


@dataclass(frozen=True)
class PostgresServer:
    """A running server; its data lie below `folder`."""

    folder: Path
    programs: Path
    user: str | None  # the server refuses to run as root

    @property
    def url(self) -> str:
        return f"postgresql://atgen:{PASSWORD}@/postgres?host={self.folder}"

    def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off"
        self.call(
            "pg_ctl", "start", "--wait", f"--log={self.folder / 'log'}", f"--options={options}"
        )

    def stop(self) -> None:
        """As a power cut would: no transaction is finished, no client told."""
        self.call("pg_ctl", "stop", "--wait", "--mode=immediate")

    def call(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "--pgdata", str(self.folder / "data"), *arguments]
        done = subprocess.run(
            command,
            user=self.user,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout.decode()


def find_programs() -> Path:
    """The folder of PostgreSQL's server programs, of the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [
        Path(shutil.which("initdb") or "")
    ]
    if not found[-1].is_file():
        raise FileNotFoundError(
            "PostgreSQL's server programs are missing: apt-get install postgresql"
        )
    return found[-1].resolve().parent


@contextmanager
def run_postgres(folder: Path) -> Iterator[PostgresServer]:
    """Makes a server in `folder`, whose name must be short, as names of sockets are, and ends
    it.
    """
    server = PostgresServer(folder, find_programs(), "nobody" if os.getuid() == 0 else None)
    (folder / "password").write_text(PASSWORD)
    if server.user:
        for path in (folder, folder / "password"):
            shutil.chown(path, server.user)
    password = f"--pwfile={folder / 'password'}"
    server.call("initdb", "--username=atgen", password, "--auth=scram-sha-256", "--no-sync")
    server.start()
    try:
        yield server
    finally:
        server.stop()
