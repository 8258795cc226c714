"""Fixtures for all tests."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from atgen_ray.journal import Journal


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL server of our own, behind a socket in a temporary folder. Its password is `pg-canary`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].is_file():
        pytest.fail("PostgreSQL's server programs are missing: apt-get install postgresql")
    programs = found[-1].resolve().parent
    user = "nobody" if os.getuid() == 0 else None  # the server refuses to run as root
    with tempfile.TemporaryDirectory(prefix="atgen-pg-") as name:
        folder = Path(name)
        (folder / "password").write_text("pg-canary")
        if user:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)

        def run(program: str, *arguments: str) -> None:
            command = [str(programs / program), "--pgdata", str(folder / "data"), *arguments]
            done = subprocess.run(command, user=user, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert done.returncode == 0, done.stdout.decode()

        run("initdb", "--username=atgen", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "start", "--wait", f"--log={folder / 'log'}", f"--options={options}")
        try:
            yield f"postgresql://atgen:pg-canary@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", "--wait", "--mode=immediate")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small Ray for all tests that need it."""
    os.environ.update(OMP_NUM_THREADS="1", RAY_AUTH_MODE="disabled")
    import ray

    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def journal_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a journal, once on each database."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path_factory.mktemp('journal') / 'atgen.db'}"


@pytest.fixture(scope="module")
def journal(journal_url: str) -> Iterator[Journal]:
    """An open journal, once on each database."""
    journal = Journal(journal_url)
    yield journal
    journal.close()


@pytest.fixture
def run(journal: Journal) -> str:
    """The name of a new run in `journal`."""
    return journal.create_run(f"run-{uuid4().hex}", {}, "").name
