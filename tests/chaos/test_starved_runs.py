"""A whole run whose disk fills up and whose database goes away: it ends with one line, and the same
command resumes.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from helpers.kills import wait_for
from helpers.postgres import PASSWORD, run_postgres
from helpers.projects import Project
from helpers.small_disk import mount_disk
from helpers.verdict import Verdict, compare


def read_end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """The exit status, and the one line of ours that says why."""
    _, err = process.communicate(timeout=180)
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    return process.returncode, lines[0]


def test_a_run_without_disk_or_database_ends_and_goes_on(
    finished: Project, make_project: Callable[[], Project], tmp_path: Path
) -> None:
    project, begun, said = make_project(), time.time(), ""
    with (
        mount_disk(tmp_path / "disk", "64m") as disk,
        tempfile.TemporaryDirectory(prefix="atgen-pg-") as folder,
    ):
        (project.folder / "atgen-runs").symlink_to(disk.folder)
        with run_postgres(Path(folder)) as server:

            def start() -> "subprocess.Popen[str]":
                return project.start("run", "sort.yaml", "--json", ATGEN_DATABASE_URL=server.url)

            process = start()
            assert wait_for(process, "event", 0, "embedding")
            disk.fill()
            status, said = read_end(process)
            assert status == 2
            assert (
                f"storage {disk.folder}/runs/sort cannot be used: No space left on device" in said
            )
            disk.free()

            process = start()
            assert wait_for(process, "event", 1, "selection")
            server.stop()
            status, line = read_end(process)
            assert status == 2
            assert line.startswith("error: database postgresql+psycopg://atgen:***@")
            server.start()

            done = project.run("run", "sort.yaml", ATGEN_DATABASE_URL=server.url)
            assert done.returncode == 0, done.stderr
            url = server.url.replace("postgresql:", "postgresql+psycopg:")
            assert compare(project, finished, database=url) == Verdict()
        assert PASSWORD not in said + line + done.stdout + done.stderr
        sessions = [
            path
            for root in ("/tmp/ray", f"/tmp/atgen-{os.getuid()}/ray")
            for path in Path(root).glob("session_*")
            if path.stat().st_mtime > begun
        ]
        assert sessions
        for root in (disk.folder, project.folder, *sessions):
            assert_absent(PASSWORD.encode(), root)


def assert_absent(secret: bytes, root: Path) -> None:
    """No file below `root` holds the secret, logs of Ray's own processes included."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert secret not in path.read_bytes(), path
