"""What was deleted is nowhere in the storage, the journal and the caches, and the runs still work."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from helpers.command_line import call
from helpers.deletion_world import (
    CANARY,
    ID,
    MODEL_RUN,
    NAME,
    PEOPLE_RUN,
    TEST_ID,
    World,
    build_world,
    find_bytes,
    read_money,
)
from helpers.fakes.provider import FakeProvider, run_provider

from atgen_ray.config.service import RetentionConfig
from atgen_ray.core.errors import RunBusyError, UserError
from atgen_ray.runs.deletion import Certificate, Target, delete
from atgen_ray.runs.retention import apply_retention
from atgen_ray.store import local_files
from atgen_ray.store.audit import AuditLog
from atgen_ray.store.database import Database
from atgen_ray.store.journal import Journal
from atgen_ray.store.local_files import LocalFiles
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import TABLES

EXAMPLE = Target("example", (ID, TEST_ID, "e006"))


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeProvider]:
    with run_provider(tmp_path_factory.mktemp("provider")) as provider:
        yield provider


@pytest.fixture(scope="module")
def built(provider: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-test")
        return build_world(tmp_path_factory.mktemp("world") / "w", provider)


@pytest.fixture
def world(built: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    shutil.copytree(built.root, tmp_path / "w")
    return World(tmp_path / "w", built.provider)


@pytest.fixture
def journal(world: World) -> Iterator[Journal]:
    journal = world.journal()
    yield journal
    journal.close()


def erase(world: World, journal: Journal, target: Target, rehearse: bool = False) -> Certificate:
    return delete(journal, world.storage, target, "root@test", rehearse)


def test_the_world_has_the_example_and_the_person_everywhere(world: World) -> None:
    everywhere = find_bytes(world.root / "storage", CANARY)
    for place in (
        "atgen.db", "pool.parquet", "test.parquet", "gold.parquet", "context.parquet",
        "features.parquet", "annotations.jsonl", "labeled.jsonl", "predictions.jsonl",
        "provider.json", ".steps/", ".staging/", ".trash/", "features.parts/", "training-1-x/",
        "outputs-",
    ):  # fmt: skip
        assert any(place in path for path in everywhere), place
    assert any(
        "report.html" in path for path in find_bytes(world.root / "storage", "Kanarienvogel")
    )
    assert find_bytes(world.root / "storage", NAME)


def test_an_example_is_nowhere_afterwards(world: World, journal: Journal) -> None:
    money = read_money(journal)
    certificate = erase(world, journal, EXAMPLE)
    assert find_bytes(world.root / "storage", "Kanarienvogel") == []
    assert world.findings(journal) == []
    assert read_money(journal) == money
    assert certificate.finished is not None
    assert certificate.runs == [MODEL_RUN, PEOPLE_RUN]
    assert "Kanarienvogel" not in str(certificate.as_json())
    places = " ".join(line.place for line in certificate.removed)
    for place in ("pool.parquet", "journal: requests", "cache outputs-", "provider openai"):
        assert place in places, place
    left = " ".join(f"{line.place} {line.what}" for line in certificate.remains)
    for what in ("adapter", "paid.jsonl", "backups", "source", "provider openai"):
        assert what in left, what


def test_a_rehearsal_tells_all_and_changes_nothing(world: World, journal: Journal) -> None:
    before = sorted(
        (str(path), path.read_bytes())
        for path in (world.root / "storage/runs").rglob("*")
        if path.is_file()
    )
    told = erase(world, journal, EXAMPLE, rehearse=True)
    after = sorted(
        (str(path), path.read_bytes())
        for path in (world.root / "storage/runs").rglob("*")
        if path.is_file()
    )
    assert before == after
    done = erase(world, journal, EXAMPLE)
    named = {line.place for line in told.removed if "rounds" not in line.place}
    assert {line.place for line in done.removed} - {f"runs/{run}/.steps and rounds/*" for run in
                                                    (MODEL_RUN, PEOPLE_RUN)} >= named - {
        place for place in named if "/.steps/" in place or "/.staging/" in place
    }  # fmt: skip


def test_a_tombstone_keeps_its_place_and_is_never_used(world: World, journal: Journal) -> None:
    from atgen_ray.runs.deletion.examples import read_config
    from atgen_ray.runs.queries import read_labels, read_picks
    from atgen_ray.runs.state import RunState

    rows = world.folder(MODEL_RUN).count_rows("pool.parquet")
    erase(world, journal, EXAMPLE)
    folder = world.folder(MODEL_RUN)
    assert folder.count_rows("pool.parquet") == rows
    config = read_config(journal, MODEL_RUN, world.storage)
    assert config is not None
    state = RunState(config, journal, folder)
    assert ID not in state.candidates(2).to_pylist()
    assert ID in state.deleted
    assert ID not in [label.id for label in state.labels(1)]
    assert ID not in [pick["id"] for pick in read_picks(folder, 1)]
    assert TEST_ID not in state.test_references
    assert len(state.labels(1)) == len(read_labels(journal, world.storage, MODEL_RUN)) == 5


def test_a_label_goes_and_its_example_stays(world: World, journal: Journal) -> None:
    target = Target("label", (ID,), run=MODEL_RUN, annotator="openai/fake")
    money = read_money(journal)
    erase(world, journal, target)
    assert ID not in [label.id for _, label in journal.annotations(MODEL_RUN)]
    texts = world.folder(MODEL_RUN).read_rows("pool.parquet", [ID], ["id", "text"])
    assert texts == [{"id": ID, "text": CANARY}]
    assert read_money(journal) == money
    assert [each for each in world.findings(journal) if each[0] != "leftover"] == []


def test_a_person_has_a_pseudonym_everywhere(world: World, journal: Journal) -> None:
    labels = len(journal.annotations(PEOPLE_RUN))
    certificate = erase(world, journal, Target("person", (NAME,)))
    assert find_bytes(world.root / "storage", NAME) == []
    assert {kind for kind, _ in world.findings(journal)} <= {"leftover"}
    assert len(journal.annotations(PEOPLE_RUN)) == labels
    who = {label.annotator for _, label in journal.annotations(PEOPLE_RUN)}
    assert f"human/{certificate.target['pseudonym']}" in who
    assert NAME not in str(certificate.as_json())
    checked = AuditLog(journal.database).verify()
    assert (checked.redacted, checked.faults) == (1, ())
    with pytest.raises(UserError, match="is unknown"):
        erase(world, journal, Target("person", (NAME,)))


def test_a_run_is_gone_with_its_caches_and_files_at_the_provider(
    world: World, journal: Journal
) -> None:
    certificate = erase(world, journal, Target("run", (PEOPLE_RUN,)))
    assert find_bytes(world.root / "storage", "my better label") == []
    assert not journal.has_run(PEOPLE_RUN)
    erase(world, journal, Target("run", (MODEL_RUN,)))
    assert find_bytes(world.root / "storage", "Kanarienvogel") == []
    assert any("people.jsonl" in line.place for line in certificate.remains)


def test_an_upload_is_gone_and_its_readers_are_named(world: World, journal: Journal) -> None:
    uploads = world.root / "storage/uploads"
    uploads.mkdir()
    (uploads / "rows-0a.jsonl").write_text(CANARY)
    with pytest.raises(UserError, match=r"rows-0a\.jsonl"):
        erase(world, journal, Target("upload", ("rows-0b.jsonl",)))
    erase(world, journal, Target("upload", ("rows-0a.jsonl",)))
    assert not list(uploads.iterdir())


def test_a_run_that_is_driven_keeps_everything(world: World, journal: Journal) -> None:
    journal.acquire(MODEL_RUN, ProcessIdentity("alive"), 600)
    for target in (EXAMPLE, Target("run", (MODEL_RUN,))):
        with pytest.raises(RunBusyError, match="stop it first"):
            erase(world, journal, target)
    assert find_bytes(world.root / "storage/runs/paid", "Kanarienvogel")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Target("example", ("e999",)), "is in no run"),
        (Target("label", (ID,)), "annotator is needed"),
        (Target("run", ("pald",)), "did you mean 'paid'"),
        (Target("person", ("Zaphod-Canari",)), "did you mean"),
        (Target("person", ("a", "b")), "expected one person"),
    ],
)
def test_a_mistake_is_one_line(world: World, journal: Journal, target: Target, said: str) -> None:
    with pytest.raises(UserError, match=said):
        erase(world, journal, target)


def test_on_postgresql_no_row_has_it_and_the_certificate_says_what_its_files_keep(
    provider: FakeProvider, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    server = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(sa.text("CREATE DATABASE deletion"))
    url = sa.make_url(postgres_url).set(database="deletion")
    world = build_world(tmp_path / "w", provider, url.render_as_string(hide_password=False))
    journal = world.journal()
    assert {CANARY, NAME} == find_rows(journal, CANARY, NAME)
    for target in (EXAMPLE, Target("person", (NAME,))):
        certificate = erase(world, journal, target)
        assert any("VACUUM FULL" in line.why for line in certificate.remains)
    assert find_rows(journal, "Kanarienvogel", NAME) == set()
    assert find_bytes(world.root / "storage", "Kanarienvogel") == []
    assert {kind for kind, _ in world.findings(journal)} <= {"leftover"}
    erase(world, journal, Target("run", (MODEL_RUN,)))
    assert not journal.has_run(MODEL_RUN)
    journal.close()


def find_rows(journal: Journal, *needles: str) -> set[str]:
    """Which of the texts stand in a row of the database."""
    with journal.database.reading() as connection:
        rows = [
            str(value)
            for table in TABLES.sorted_tables
            for row in connection.execute(sa.select(table))
            for value in row
        ]
    return {needle for needle in needles if any(needle in value for value in rows)}


@pytest.mark.parametrize("target", [EXAMPLE, Target("person", (NAME,)), Target("run", ("paid",))])
def test_a_kill_anywhere_is_finished_by_the_same_command(
    built: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Target
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    needle = NAME if target.kind == "person" else "Kanarienvogel"
    killed = 0
    for point in (1, 2, 4, 8, 14, 22, 35, 55, 80):
        root = tmp_path / str(point)
        shutil.copytree(built.root, root)
        world = World(root, built.provider)
        if not _die(world, target, point):
            shutil.rmtree(root)
            break
        killed += 1
        journal = world.journal()
        # Where all was done but for the last mark, there is nothing to find any more.
        with suppress(UserError):
            assert erase(world, journal, target).finished is not None
        if target.kind == "run":
            assert not (root / "storage/runs/paid").exists()
        else:
            assert find_bytes(root / "storage", needle) == [], point
        kinds = {kind for kind, _ in world.findings(journal)}
        assert kinds <= {"leftover"}, point  # of a run that was not touched
        journal.close()
        shutil.rmtree(root)
    assert killed >= 3


def _die(world: World, target: Target, point: int) -> bool:
    """Delete in a process of its own that is killed at the `point`th write; return whether it was."""
    pid = os.fork()
    if pid == 0:
        try:
            _count_down(point)
            journal = world.journal()
            delete(journal, world.storage, target, "root@test")
            os._exit(0)
        except BaseException:
            os._exit(7)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _count_down(point: int) -> None:
    """Kill this process at the `point`th transaction, rename or removal."""
    left = [point]

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    Database.writing = dying(Database.writing)  # type: ignore[method-assign]
    for place, names in (
        (local_files, ("_rename",)),
        (LocalFiles, ("take_in", "erase", "remove")),
        (RunFolder, ("remove_all",)),
    ):
        for name in names:
            setattr(place, name, dying(getattr(place, name)))


def test_what_is_too_old_goes_and_money_and_labels_stay(world: World, journal: Journal) -> None:
    uploads = world.root / "storage/uploads"
    uploads.mkdir()
    (uploads / "rows-0a.jsonl").write_text(CANARY)
    money, labels = read_money(journal), len(journal.annotations(MODEL_RUN))
    old = RetentionConfig.model_construct(
        raw_answers_days=0.0, receipts_days=0.0, uploads_days=0.0, runs_days=None
    )
    young = RetentionConfig(raw_answers_days=1, receipts_days=1, uploads_days=1, runs_days=1)
    assert apply_retention(journal, world.storage, young) == [
        "0 raw answers of models", "0 receipts"]  # fmt: skip
    told = apply_retention(journal, world.storage, old, rehearse=True)
    assert told == ["6 raw answers of models", "12 receipts", "upload rows-0a.jsonl"]
    assert apply_retention(journal, world.storage, old) == told
    assert (read_money(journal), len(journal.annotations(MODEL_RUN))) == (money, labels)
    whole = RetentionConfig.model_construct(
        raw_answers_days=None, receipts_days=None, uploads_days=None, runs_days=0.0
    )
    assert apply_retention(journal, world.storage, whole) == ["run paid", "run people"]
    assert journal.runs() == []


def test_the_command_line_tells_and_keeps_certificates(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call_delete(*arguments: str) -> Any:
        return call("delete", *arguments, "--storage", world.storage)

    told = call_delete("example", ID, "--dry-run")
    assert told.status == 0, told.err
    assert "a rehearsal: nothing was changed" in told.out
    done = call_delete("example", ID, "--json")
    certificate = json.loads(done.out)
    assert certificate["finished"]
    assert f"{certificate['id']} example" in call_delete("list").out
    shown = call_delete("show", certificate["id"]).out
    assert "pool.parquet: 1 rows (sha256 " in shown
    assert call_delete("example", "nobody").status == 2
    assert call_delete("older").status == 2
    assert "deleted 5 raw answers" in call_delete("older", "--raw-answers-days", "0").out
