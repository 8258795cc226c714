"""Reports on runs that the journal knows."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from helpers.human_desk import HumanDesk
from helpers.report_page import Page
from helpers.report_runs import MadeUp, write_run

from atgen_ray.config import RunConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.records import DeadLetter
from atgen_ray.reporting.publish import compare_runs, publish_report
from atgen_ray.store.journal import open_journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder


def enter_run(storage: str, name: str, message: str | None, letters: list[DeadLetter]) -> RunFolder:
    """A run in journal and folder; `message` None leaves it running."""
    folder = write_run(storage, name, MadeUp(rounds=1))
    journal = open_journal(storage)
    journal.create_run(name, {}, "digest")
    lease = journal.acquire(name, ProcessIdentity(f"controller of {name}"), 60)
    journal.set_status(lease, "running")
    journal.record_dead_letters(lease, 1, letters)
    if message is not None:
        journal.append(lease, "finished", payload={"message": message})
        journal.set_status(lease, "finished")
        lease.release()
    journal.close()
    return folder


def make_run_config(storage: str, name: str) -> RunConfig:
    data = {"pool": "pool.jsonl", "references": "summary"}
    return RunConfig.model_validate(
        {"name": name, "storage": storage, "data": data, "model": {"id": "model"}}
    )


def test_a_run_publishes_its_report_in_its_own_folder(tmp_path: Path) -> None:
    storage = str(tmp_path)
    folder = enter_run(
        storage, "demo", None, [DeadLetter("pool-00003", "generation", "the prompt is too long")]
    )
    publish_report(
        make_run_config(storage, "demo"),
        open_journal(storage),
        folder,
        "stopping.rounds is reached",
    )
    page = Page(folder.read_text("report.html"))
    assert "stopping.rounds is reached" in page.text()
    assert "pool-00003 generation the prompt is too long" in page.text("A-letters")
    assert folder.exists("learning_curve.png")


def test_a_report_tells_what_drafts_do(tmp_path: Path) -> None:
    storage = str(tmp_path)
    with closing(open_journal(storage)) as journal:
        desk = HumanDesk(journal, 40, drafts="experiment", settle_seconds=600.0)
        desk.publish_tasks()
        queue = desk.queue("ann")
        for number in range(40):
            (task,) = queue.lease()
            text = task["suggestion"]["text"] if task["suggestion"] else "something else"
            queue.answer(f"key-{number:04d}", task["id"], "submitted", text, 4.0)
        folder = write_run(storage, desk.run, MadeUp(rounds=1))
        publish_report(make_run_config(storage, desk.run), journal, folder, "done")
    told = Page(folder.read_text("report.html")).text("A-drafts")
    assert "Answers that equal the draft 1.00 0.00 +1.00" in told
    assert "Whether drafts save time is not known yet." in told
    assert "Drafts pull answers towards themselves" in told


def test_runs_are_compared_as_the_journal_has_them(tmp_path: Path) -> None:
    storage = str(tmp_path)
    enter_run(
        storage, "one", "labels are used up", [DeadLetter("pool-00001", "pool", "text is empty")]
    )
    enter_run(storage, "two", None, [])
    page = Page(compare_runs(["one", "two"], storage, None, tmp_path / "report.html").read_text())
    assert "1 of 2 runs finished" in page.text()
    assert "labels are used up" in page.text("runs")
    assert "in progress" in page.text("runs")
    assert "text is empty" in page.text("A-letters")
    assert "None." in page.text("B-letters")


def test_an_object_store_holds_the_report_too(tmp_path: Path) -> None:
    local = enter_run(str(tmp_path), "demo", "done", [])
    remote = RunFolder("memory://published", "demo")
    for file in sorted(Path(local.root).rglob("*")):
        if file.is_file():
            remote.fs.pipe_file(f"{remote.root}/{file.relative_to(local.root)}", file.read_bytes())
    # What JSON may carry and UTF-8 may not.
    remote.write_text("versions.json", json.dumps({"odd": "\ud800"}))
    publish_report(
        make_run_config(str(tmp_path), "demo"), open_journal(str(tmp_path)), remote, "done"
    )
    assert "odd ?" in Page(remote.read_text("report.html")).text("A-versions")
    assert remote.fs.cat_file(f"{remote.root}/learning_curve.png").startswith(b"\x89PNG")


def test_mistakes_are_said_in_one_line(tmp_path: Path) -> None:
    enter_run(str(tmp_path), "demo", "done", [])
    with pytest.raises(UserError, match="demo"):
        compare_runs(["demmo"], str(tmp_path), None, tmp_path / "report.html")
    with pytest.raises(UserError, match=r"--output is '.*', a folder; expected a file"):
        compare_runs(["demo"], str(tmp_path), None, tmp_path)
