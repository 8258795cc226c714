"""Two controllers of one run: one that has lost its lease changes nothing, whenever it wakes up.

The first is a process of its own, which stops itself at a point of a step, or whose line to
PostgreSQL is cut. The second takes the run over with other settings and trains its own weights.
Then the first goes on.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import psutil
import pytest
from helpers.cut_line import Line, run_line
from helpers.object_store import ObjectStore, run_object_store
from helpers.postgres import PASSWORD
from helpers.processes import PROCESSES
from helpers.two_controllers import (
    ADAPTER,
    LATE,
    LOST,
    POINTS,
    SECONDS,
    VIEW,
    configure,
    drive,
    drive_first,
)

from atgen_ray.config.loading import dump_config
from atgen_ray.core.errors import LeaseLostError
from atgen_ray.runs.doctor import examine, repair
from atgen_ray.store.events import Event
from atgen_ray.store.journal import Journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import find_output


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with run_object_store() as store:
        yield store


@pytest.fixture(params=["local", "s3"])
def storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, dict[str, str]]:
    """Where the run lies, and what its controllers find it by."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "local":
        return str(tmp_path / "runs"), {}
    store: ObjectStore = request.getfixturevalue("store")
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{store.bucket}/{uuid4().hex}", store.environment


def enter(url: str, storage: str) -> Journal:
    """The journal, with the run of the first controller."""
    journal = Journal(url)
    journal.create_run("demo", dump_config(configure(storage, 1)), "first")
    return journal


def start_first(
    storage: str, url: str, point: str | None, environment: dict[str, str]
) -> BaseProcess:
    process = PROCESSES.Process(target=drive_first, args=(storage, url, point, environment))
    process.start()
    return process


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def change_settings(journal: Journal, storage: str) -> None:
    """As the owner of the run does, once nobody drives it any more."""
    wait_until(lambda: not journal.has_live_controller("demo"))
    journal.change_run("demo", dump_config(configure(storage, 2)), "second", {})


def read(folder: RunFolder) -> dict[str, str]:
    """By whom each output is."""
    weights = (folder.local(ADAPTER) / "adapter_model.safetensors").read_bytes()
    return {
        "config": folder.read_json(f"{ADAPTER}/adapter_config.json")["by"],
        "weights": weights[: len(weights) // 50_000].decode(),
        "summary": folder.read_json("rounds/001/training.json")["by"],
        "view": folder.read_json(VIEW)["by"],
    }


def trained(journal: Journal) -> Event:
    return journal.committed_steps("demo")[1, "training"]


def check(journal: Journal, storage: str, winner: str) -> None:
    """The adapter is that of the journal, whole, and the views are of the second."""
    folder = RunFolder(storage, "demo")
    by = dict.fromkeys(("config", "weights", "summary"), winner)
    assert read(folder) == by | {"view": "second"}
    named = trained(journal).payload["files"]
    assert {rel: folder.digest(rel) for rel in named} == {
        rel: file["digest"] for rel, file in named.items()
    }


@pytest.mark.parametrize(
    ("storage", "point"),
    [("local", point) for point in POINTS]
    + [("s3", point) for point in POINTS if point in ("sealed, not recorded", "named in part")],
    indirect=["storage"],
)
def test_a_controller_that_slept_changes_nothing(
    point: str, storage: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    place, environment = storage
    url = f"sqlite:///{tmp_path / 'atgen.db'}"
    with closing(enter(url, place)) as journal:
        first = start_first(place, url, point, environment)
        stopped = psutil.Process(first.pid)
        wait_until(lambda: stopped.status() == psutil.STATUS_STOPPED)
        change_settings(journal, place)
        if POINTS[point][3] == "first":  # readers find what the journal names before it is moved
            found = find_output(RunFolder(place, "demo"), trained(journal), ADAPTER)
            assert found is not None
            assert (found.refer(ADAPTER).local() / "adapter_config.json").is_file()
        drive(place, url, "second")
        check(journal, place, POINTS[point][3])
        stopped.resume()
        first.join(60)
        assert first.exitcode == LOST
        check(journal, place, POINTS[point][3])
        # What it has left is of no use to anybody, and the doctor puts it away.
        left = examine(journal, place, "demo", deep=True).findings
        assert {finding.kind for finding in left} <= {"leftover"}
        repair(journal, place, left)
        assert examine(journal, place, "demo", deep=True).findings == []
        check(journal, place, POINTS[point][3])


def test_a_controller_cut_from_the_database_changes_nothing(
    postgres_url: str, storage: tuple[str, dict[str, str]]
) -> None:
    place, environment = storage
    schema = f"two_{uuid4().hex[:8]}"
    folder = postgres_url.rpartition("host=")[2]
    with run_line(f"{folder}/.s.PGSQL.5432") as line:
        here, there = (
            f"postgresql://atgen:{quote(PASSWORD)}@{host}"
            for host in (f"/{schema}?host={folder}", f"127.0.0.1:{line.port}/{schema}")
        )
        make_database(postgres_url, schema)
        with closing(enter(here, place)) as journal:
            first = start_first(place, there, "sealed, not recorded", environment)
            stopped = psutil.Process(first.pid)
            wait_until(lambda: stopped.status() == psutil.STATUS_STOPPED)
            cut_off(line, stopped)
            change_settings(journal, place)
            drive(place, here, "second")
            line.mend()
            first.join(60)
            assert first.exitcode == LOST
            check(journal, place, "second")


def cut_off(line: Line, process: psutil.Process) -> None:
    """The process goes on, and hangs on what it asks of the database."""
    line.cut()
    process.resume()
    time.sleep(SECONDS)
    assert process.is_running()


def make_database(url: str, name: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")


def test_a_request_that_is_late_replaces_nothing(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store takes its time for the last request of a controller, which has checked its lease
    before.
    """
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    place = f"s3://{store.bucket}/{uuid4().hex}"
    url = f"sqlite:///{tmp_path / 'atgen.db'}"
    RunFolder(place, "demo").write_json(VIEW, {"by": "nobody"})
    with closing(enter(url, place)) as journal:
        first = start_first(place, url, LATE, store.environment)
        stopped = psutil.Process(first.pid)
        wait_until(lambda: stopped.status() == psutil.STATUS_STOPPED)
        store.delay = 3.0
        stopped.resume()
        wait_until(lambda: store.delayed > 0)  # its request waits at the door of the store
        store.delay = 0.0
        change_settings(journal, place)
        drive(place, url, "second")
        first.join(60)
        assert first.exitcode == LOST
        check(journal, place, "first")


def test_a_late_rename_finds_nothing(tmp_path: Path) -> None:
    """The file is written, the lease is checked, and only the rename is left."""
    with closing(enter(f"sqlite:///{tmp_path / 'atgen.db'}", str(tmp_path))) as journal:
        leases = [
            journal.acquire("demo", ProcessIdentity(f"{at}"), 60, takeover=True) for at in (1, 2)
        ]
        folder = RunFolder(str(tmp_path), "demo")
        first = folder.fenced("1-a", lambda: None)
        seconds = list[RunFolder]()

        def publish_late() -> None:
            with first.publish(ADAPTER) as output:
                (output / "weights").write_text("first")
                seconds.append(folder.fenced("2-b", leases[1].renew))
                with seconds[0].publish(ADAPTER) as mine:
                    (mine / "weights").write_text("second")

        for change in (
            publish_late,
            lambda: first.write_json(VIEW, {}),
            lambda: first.remove(ADAPTER),
            lambda: folder.fenced("1-c", leases[0].renew),
        ):
            with pytest.raises(LeaseLostError):
                change()
        assert folder.read_text(f"{ADAPTER}/weights") == "second"
        seconds[0].write_json(VIEW, {})


def test_a_rename_that_nfs_denies_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server did it, its answer was lost, and the client asked again."""
    folder = RunFolder(str(tmp_path), "demo")
    real = Path.rename

    def twice(path: Path, target: Path) -> Path:
        real(path, target)
        return real(path, target)

    monkeypatch.setattr(Path, "rename", twice)
    folder.write_json(VIEW, {"by": "us"})
    folder.write_json(VIEW, {"by": "us again"})
    with folder.publish(ADAPTER) as output:
        (output / "weights").touch()
    assert folder.read_json(VIEW) == {"by": "us again"}
    assert folder.exists(f"{ADAPTER}/weights")
