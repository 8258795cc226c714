"""`atgen-ray runs`: what journals and run folders hold, on screen, as JSON and as files to take
away.
"""

import csv
import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet
import pytest
import sqlalchemy as sa
from datasets import load_from_disk
from helpers.command_line import Ended, call

from atgen_ray.core.records import POOL_SCHEMA, Annotation, DeadLetter
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.tables import runs

TEXTS = {
    "e1": "plain text",
    "e2": 'commas, "quotes" and\nline\r\nends',
    "e3": "   spaces, tabs\tand ünïcödé   🙂",
    "e4": "",
}
COLUMNS = ["id", "input", "text", "annotator", "dollars", "round", "run"]


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A storage at its default place, in which no run is yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATGEN_DATABASE_URL", raising=False)
    return "./atgen-runs"


def begin(storage: str, name: str) -> tuple[Journal, Lease, RunFolder]:
    """A run that has just been entered."""
    journal = open_journal(storage)
    journal.create_run(name, {"name": name}, "")
    return (
        journal,
        journal.acquire(name, ProcessIdentity("controller", pid=os.getpid()), 60),
        RunFolder(storage, name),
    )


def finish(storage: str, name: str = "sonnets") -> None:
    """A finished run of two rounds with four labels, a learning curve and a dead letter."""
    journal, lease, folder = begin(storage, name)
    rows = [
        {"id": id_, "row": at, "text": text, "content": id_}
        for at, (id_, text) in enumerate(TEXTS.items())
    ]
    folder.write_table("pool.parquet", pa.Table.from_pylist(rows, POOL_SCHEMA))
    journal.append(lease, "step", 0, "pool", {"rows": 4}, 1.5)
    journal.append(lease, "stopped", payload={"message": "stopped on request"})
    journal.record_annotations(
        lease, 1, [Annotation("e2", 'two, "2"\n', "dataset", 0.25, {"model": "m"})]
    )
    journal.record_annotations(lease, 1, [Annotation("e1", "one", "dataset", 0.25)])
    journal.append(lease, "step", 1, "annotation", {"rows": 2}, 0.1)
    journal.record_annotations(
        lease, 2, [Annotation("e3", "", "dataset", 0.0), Annotation("e4", "vier 4️⃣", "anna", 1e-3)]
    )
    journal.append(lease, "step", 2, "annotation", {"rows": 2}, 0.1)
    journal.record_dead_letters(
        lease, 1, [DeadLetter("e9", "annotation", "no [/answer] [bold]here[/bold]")]
    )
    estimate = {"mean": 0.5, "low": 0.25, "high": 0.75, "count": 3}
    curve: list[dict[str, Any]] = [
        {
            "round": 0,
            "labels": 0,
            "dollars": 0.0,
            "seconds": {"pool": 1.5},
            "metrics": {"rougeL": estimate},
        },
        {
            "round": 2,
            "labels": 4,
            "dollars": 0.5,
            "seconds": {"training": 8.2},
            "metrics": {"rougeL": estimate},
        },
    ]
    folder.write_json("metrics.json", [row | {"dev_metrics": None} for row in curve])
    journal.append(lease, "finished", payload={"message": "all rounds done [/INST]"})
    journal.set_status(lease, "finished")
    lease.release()
    journal.close()


def run_in_json(*arguments: str) -> Any:
    """What a command prints for programs."""
    ended = call(*arguments, "--json")
    assert (ended.status, ended.err) == (0, "")
    return json.loads(ended.out)


def assert_mistake(ended: Ended, line: str) -> None:
    """The command ended with one line on a mistake."""
    assert (ended.status, ended.out, ended.err) == (2, "", f"error: {line}\n")


# ---- list


def test_no_runs_yet(storage: str) -> None:
    assert call("runs", "list").out == "no runs yet\n"
    assert run_in_json("runs", "list") == []


def test_all_runs_are_listed_the_oldest_first(storage: str) -> None:
    finish(storage)
    journal, lease, _ = begin(storage, "haiku")
    journal.set_status(lease, "running")
    rows = run_in_json("runs", "list")
    assert [row["name"] for row in rows] == ["sonnets", "haiku"]
    updated = [datetime.fromisoformat(row.pop("updated")) for row in rows]
    assert all(abs((datetime.now(UTC) - at).total_seconds()) < 60 for at in updated)
    plain = {"title": None, "archived": False}
    assert rows == [
        {"name": "sonnets", "status": "finished", "round": 2, "labels": 4, "dollars": 0.501}
        | plain,
        {"name": "haiku", "status": "running", "round": 0, "labels": 0, "dollars": 0} | plain,
    ]
    lines = call("runs", "list").out.splitlines()
    assert lines[0].split() == ["name", "status", "round", "labels", "dollars", "updated"]
    assert lines[1].split()[:5] == ["sonnets", "finished", "2", "4", "0.501"]
    assert lines[2].split()[:5] == ["haiku", "running", "0", "0", "0"]


def test_a_run_was_updated_when_its_last_event_came(storage: str) -> None:
    journal, lease, _ = begin(storage, "haiku")
    record = journal.run("haiku")
    with journal.database.writing() as connection:  # as if the run had started in 1970
        connection.exec_driver_sql("UPDATE runs SET created = 0, updated = 0")
    assert run_in_json("runs", "list")[0]["updated"] == "1970-01-01T00:00:00+00:00"
    event = journal.append(lease, "step", 0, "pool")
    assert event.time >= record.updated
    updated = datetime.fromisoformat(run_in_json("runs", "list")[0]["updated"])
    assert 0 <= event.time - updated.timestamp() < 1


# ---- show


def test_a_finished_run_is_shown(storage: str) -> None:
    finish(storage)
    view = run_in_json("runs", "show", "sonnets")
    assert (view["status"], view["message"], view["labels"]) == (
        "finished",
        "all rounds done [/INST]",
        4,
    )
    assert [row["round"] for row in view["metrics"]] == [0, 2]
    assert view["events"][0] == {"kind": "step", "round": 0, "step": "pool", "seconds": 1.5}
    assert [event["kind"] for event in view["events"]] == [
        "step",
        "stopped",
        "step",
        "step",
        "finished",
    ]
    reason = "no [/answer] [bold]here[/bold]"
    assert view["dead_letters"] == [
        {"round": 1, "id": "e9", "step": "annotation", "reason": reason}
    ]
    lines = call("runs", "show", "sonnets").out.splitlines()
    assert lines[0] == "run sonnets: finished: all rounds done [/INST]"  # no markup of rich
    assert lines[1].split() == ["round", "labels", "dollars", "seconds", "rougeL"]
    assert lines[3].split() == ["2", "4", "0.50", "10", "0.500", "[0.250,", "0.750]"]
    assert lines[4:] == [f"dead letter e9 (annotation): {reason}"]


def test_a_run_under_way_has_no_message_of_an_earlier_end(storage: str) -> None:
    journal, lease, _ = begin(storage, "haiku")
    journal.append(lease, "stopped", payload={"message": "stopped on request"})
    journal.set_status(lease, "stopped")
    assert call("runs", "show", "haiku").out == "run haiku: stopped: stopped on request\n"
    journal.set_status(lease, "running")
    assert call("runs", "show", "haiku").out == "run haiku: running\n"
    assert run_in_json("runs", "show", "haiku")["message"] == ""


# ---- stop


def test_stopping_asks_the_controller_there_is(storage: str) -> None:
    journal, lease, _ = begin(storage, "haiku")
    ended = call("runs", "stop", "haiku")
    assert (
        ended.out
        == "run 'haiku' was asked to stop; it ends at its next chance with everything saved\n"
    )
    assert lease.renew()
    lease.release()
    assert (
        call("runs", "stop", "haiku").out
        == "run 'haiku' had no controller and is stopped now; everything committed is saved\n"
    )
    journal.close()


def test_a_run_whose_controller_was_killed_is_interrupted(storage: str) -> None:
    with subprocess.Popen(["true"]) as gone:
        owner = ProcessIdentity(
            "controller", pid=gone.pid, started=psutil.Process(gone.pid).create_time()
        )
    journal = open_journal(storage)
    journal.create_run("haiku", {"name": "haiku"}, "")
    lease = journal.acquire(
        "haiku", owner, 3600
    )  # which nobody renews, and which is far from its end
    journal.append(lease, "stopped", payload={"message": "stopped on request"})
    journal.set_status(lease, "running")
    assert run_in_json("runs", "list")[0]["status"] == "interrupted"
    assert run_in_json("runs", "show", "haiku")["message"].startswith("its controller died")
    assert "the same command goes on from there" in call("runs", "list").out
    lease = journal.acquire("haiku", ProcessIdentity("controller-2", pid=os.getpid()), 60)
    assert run_in_json("runs", "list")[0]["status"] == "running"
    lease.release()
    journal.close()


def test_a_run_without_a_controller_is_stopped_at_once(storage: str) -> None:
    journal = open_journal(storage)
    journal.create_run("haiku", {"name": "haiku"}, "")
    lease = journal.acquire("haiku", ProcessIdentity("controller", host="elsewhere"), 0)
    journal.set_status(lease, "running")
    assert (
        call("runs", "stop", "haiku").out
        == "run 'haiku' had no controller and is stopped now; everything committed is saved\n"
    )
    view = run_in_json("runs", "show", "haiku")
    assert view["status"] == "stopped"
    assert view["message"] == "stopped on request while it had no controller"
    again = call("runs", "stop", "haiku")
    assert again.out == "run 'haiku' has no controller; its status is stopped\n"
    journal.close()


def test_a_run_whose_controller_never_came_is_interrupted(storage: str) -> None:
    journal = open_journal(storage)
    journal.create_run("haiku", {"name": "haiku"}, "")
    assert run_in_json("runs", "list")[0]["status"] == "created"
    with journal.database.writing() as connection:
        connection.execute(sa.update(runs).values(updated=1.0))
    assert run_in_json("runs", "list")[0]["status"] == "interrupted"
    journal.close()


def test_a_run_whose_lease_has_expired_is_interrupted(storage: str) -> None:
    journal = open_journal(storage)
    journal.create_run("haiku", {"name": "haiku"}, "")
    lease = journal.acquire("haiku", ProcessIdentity("controller", host="elsewhere"), 0)
    journal.set_status(lease, "running")
    assert run_in_json("runs", "list")[0]["status"] == "interrupted"
    journal.close()


# ---- export


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of an exported file."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    if path.is_dir():
        return [dict(row) for row in load_from_disk(str(path))]
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        return rows
    with path.open(encoding="utf-8", newline="") as file:
        kinds = {"dollars": float, "round": int}
        return [
            {key: kinds.get(key, str)(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("format", ["jsonl", "parquet", "csv", "huggingface"])
def test_labels_read_back_equal_from_every_format(storage: str, format: str) -> None:
    finish(storage)
    ended = call("runs", "export", "sonnets", "--format", format)
    assert (ended.status, ended.out) == (0, f"4 labels: sonnets.{format}\n")
    rows = read(Path(f"sonnets.{format}"))
    expected = [
        {
            "id": "e2",
            "input": TEXTS["e2"],
            "text": 'two, "2"\n',
            "annotator": "dataset",
            "dollars": 0.25,
            "round": 1,
        },
        {
            "id": "e1",
            "input": TEXTS["e1"],
            "text": "one",
            "annotator": "dataset",
            "dollars": 0.25,
            "round": 1,
        },
        {
            "id": "e3",
            "input": TEXTS["e3"],
            "text": "",
            "annotator": "dataset",
            "dollars": 0.0,
            "round": 2,
        },
        {
            "id": "e4",
            "input": TEXTS["e4"],
            "text": "vier 4️⃣",
            "annotator": "anna",
            "dollars": 0.001,
            "round": 2,
        },
    ]
    assert rows == [row | {"run": "sonnets"} for row in expected]
    assert format == "jsonl" or list(rows[0]) == COLUMNS


@pytest.mark.parametrize("format", ["jsonl", "parquet", "csv", "huggingface"])
def test_a_run_without_labels_exports_an_empty_table(
    storage: str, format: str, tmp_path: Path
) -> None:
    begin(storage, "haiku")
    path = tmp_path / "labels.txt"
    ended = call("runs", "export", "haiku", "--format", format, "--output", str(path))
    assert (ended.status, ended.out) == (0, f"0 labels: {path}\n")
    assert read(path.rename(path.with_suffix(f".{format}"))) == []
    if format == "parquet":
        assert pyarrow.parquet.read_schema(path.with_suffix(".parquet")).names == COLUMNS


def test_what_the_journal_has_is_exported_though_the_run_died_before_it_wrote_its_list(
    storage: str,
) -> None:
    finish(storage)
    RunFolder(storage, "sonnets").write_jsonl("labeled.jsonl", [])
    assert call("runs", "export", "sonnets").out == "4 labels: sonnets.jsonl\n"


@pytest.mark.parametrize("format", ["jsonl", "parquet", "csv"])
def test_a_lone_surrogate_in_a_label_is_escaped(storage: str, format: str) -> None:
    journal, lease, folder = begin(storage, "haiku")
    row = {"id": "e1", "row": 0, "text": "x", "content": "x"}
    folder.write_table("pool.parquet", pa.Table.from_pylist([row], POOL_SCHEMA))
    journal.record_annotations(lease, 1, [Annotation("e1", "a\ud800b", "anna")])
    assert call("runs", "export", "haiku", "--format", format).status == 0
    assert read(Path(f"haiku.{format}"))[0]["text"] in ("a\ud800b", "a\\ud800b")


# ---- mistakes


@pytest.mark.parametrize(
    "command",
    [
        ["runs", "list"],
        ["runs", "show", "sonnets"],
        ["runs", "stop", "sonnets"],
        ["runs", "export", "sonnets"],
        ["runs", "import", "sonnets", "labels.jsonl"],
        ["report", "sonnets"],
    ],
    ids=" ".join,
)
def test_a_storage_that_is_not_there_is_told_and_not_made(storage: str, command: list[str]) -> None:
    finish(storage)
    Path("labels.jsonl").write_text('{"id": "e1", "text": "one"}\n')
    ended = call(*command, "--storage", "atgen-rums")
    line = (
        "--storage is 'atgen-rums', where no runs are, expected the one that runs were given; "
        "did you mean '"
    )
    assert_mistake(ended, f"{line}{Path('atgen-runs').absolute()}'?")
    assert not Path("atgen-rums").exists()


def test_looking_into_the_default_storage_makes_none(storage: str) -> None:
    assert call("runs", "list").out == "no runs yet\n"
    assert not Path("atgen-runs").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["runs", "export", "sonnets"],
        ["runs", "export", "sonnets", "--format", "huggingface"],
        ["report", "sonnets"],
        ["select", "demo", "--count", "2"],
    ],
    ids=" ".join,
)
def test_no_folder_is_made_for_an_output(storage: str, command: list[str], tmp_path: Path) -> None:
    finish(storage)
    ended = call(*command, "--output", "no/such/dir/x")
    folder = tmp_path / "no/such/dir"
    line = (
        f"--output is 'no/such/dir/x', but there is no folder '{folder}': make it, or choose "
        f"another"
    )
    assert_mistake(ended, line)
    assert not Path("no").exists()


@pytest.mark.parametrize("command", ["show", "stop", "export"])
def test_an_unknown_run_is_named_with_the_nearest(storage: str, command: str) -> None:
    assert_mistake(
        call("runs", command, "demo"),
        f"--storage is '{storage}', where no runs are, expected the one that runs were given",
    )
    finish(storage)
    assert_mistake(
        call("runs", command, "sonets"), "run 'sonets' is unknown; did you mean 'sonnets'?"
    )
    assert_mistake(call("runs", command, "../x"), "run '../x' is unknown; known: sonnets")
    assert call("runs", command, "a" * 300).status == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--format", "json"],
            "--format is 'json', expected jsonl, parquet, csv, huggingface, openai, argilla or "
            "label-studio; did you mean 'jsonl'?",
        ),
        (
            ["--format", "xlsx"],
            "--format is 'xlsx', expected jsonl, parquet, csv, huggingface, openai, argilla or "
            "label-studio; known: argilla, csv, hugg",
        ),
        (["--output", "."], "--output is '.', which cannot be written: Is a directory"),
        (["--output", "file/x"], "--output is 'file/x', which cannot be written: "),
        (
            ["--output", "a" * 300],
            f"--output is '{'a' * 300}', which cannot be written: File name too long",
        ),
        (["--storage", "file"], "database sqlite:///"),
        (
            ["--storage", "foo://x"],
            "storage is foo://..., which cannot be opened: Protocol not known: foo",
        ),
        (
            ["--storage", "memory://x"],
            "database_url is null but storage is memory://..., expected a postgresql:// URL ",
        ),
    ],
)
@pytest.mark.parametrize("format", ["jsonl", "parquet", "csv"])
def test_a_wrong_option_is_one_line(
    storage: str, arguments: list[str], line: str, format: str
) -> None:
    finish(storage)
    Path("file").touch()
    ended = call("runs", "export", "sonnets", "--format", format, *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {line}")
    assert ended.err.count("\n") == 1


def test_a_journal_without_the_runs_folder_asks_for_its_storage(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(storage)
    monkeypatch.setenv("ATGEN_DATABASE_URL", f"sqlite:///{Path.cwd()}/atgen-runs/atgen.db")
    shutil.move("atgen-runs/runs", "moved/runs")
    ended = call("runs", "export", "sonnets")
    assert_mistake(
        ended,
        "--storage is './atgen-runs', expected the one that holds the folder of run 'sonnets'",
    )
    assert (
        call("runs", "export", "sonnets", "--storage", "moved").out == "4 labels: sonnets.jsonl\n"
    )


@pytest.mark.parametrize(
    "url",
    [
        "mysql://atgen:pw-canary@db/atgen",
        "postgresql://atgen:pw@canary@db/atgen",
        "://pw-canary",
        "sqlite://",
        "sqlite:////proc/pw/atgen.db",
    ],
)
def test_a_wrong_database_url_is_one_line_without_it(
    storage: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATGEN_DATABASE_URL", url)
    ended = call("runs", "list")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert "canary" not in ended.err
    assert "expected sqlite:///FILE or postgresql://" in ended.err or "database" in ended.err
