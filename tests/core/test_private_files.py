"""Files are their owner's alone, whatever umask a process was given."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command_line import call

from atgen_ray.core.errors import UserError
from atgen_ray.core.private_files import (
    find_open,
    make_own_folder,
    private_files,
    read_umask,
    tighten,
)
from atgen_ray.store.journal import Journal


@pytest.fixture(autouse=True)
def loose(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The umask 000."""
    monkeypatch.delenv("ATGEN_UMASK", raising=False)
    before = os.umask(0)
    yield
    os.umask(before)


def modes(root: Path) -> dict[str, str]:
    return {path.name: oct(path.stat().st_mode & 0o777)[2:] for path in [root, *root.rglob("*")]}


def test_a_journal_is_private_under_any_umask(tmp_path: Path) -> None:
    root = tmp_path / "new" / "storage"
    journal = Journal(f"sqlite:///{root}/atgen.db")
    journal.create_run("r", {}, "")
    found = modes(root)
    journal.close()
    assert found.pop("storage") == "700"
    assert {"atgen.db", "atgen.db-wal", "atgen.db-shm", "atgen.db.lock"} <= set(found)
    assert set(found.values()) == {"600"}
    assert os.umask(0) == 0  # a program that imports us keeps its own umask


def test_the_command_line_s_files_are_private(tmp_path: Path) -> None:
    storage = tmp_path / "s"
    assert call("token", "create", "--role", "admin", "--storage", str(storage)).status == 0
    output = tmp_path / "audit.jsonl"
    call("audit", "--format", "jsonl", "--output", str(output), "--storage", str(storage))
    assert modes(tmp_path)["audit.jsonl"] == "600"
    assert set(modes(storage).values()) == {"600", "700"}


def test_a_group_may_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATGEN_UMASK", "007")
    with private_files():
        (tmp_path / "x").touch()
    assert modes(tmp_path)["x"] == "660"
    assert find_open(tmp_path / "x") == []


@pytest.mark.parametrize("value", ["077x", "rwx", "700", "8", "00077", "-1"])
def test_a_wrong_umask_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ATGEN_UMASK", value)
    with pytest.raises(UserError, match="ATGEN_UMASK is"):
        read_umask()


def test_the_doctor_finds_and_closes_what_others_may_read(tmp_path: Path) -> None:
    root = tmp_path / "s"
    Journal(f"sqlite:///{root}/atgen.db").close()
    (root / "runs" / "r").mkdir(parents=True)
    (root / "runs" / "r" / "labeled.jsonl").touch()
    root.chmod(0o755)
    at = ("--storage", str(root))
    found = call("doctor", *at)
    assert found.status == 1
    assert "open-files" in found.out
    assert "other accounts" in found.out
    mended = call("doctor", "--repair", *at)
    assert "closed to other accounts" in mended.out
    assert find_open(root) == []
    assert set(modes(root).values()) == {"600", "700"}


def test_a_closed_folder_closes_what_is_below(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "x").touch()
    assert find_open(tmp_path) == []
    (tmp_path / "link").symlink_to("/etc")
    tmp_path.chmod(0o711)
    assert {path.name for path in find_open(tmp_path)} == {tmp_path.name, "x"}
    assert tighten(tmp_path)
    assert not tighten(tmp_path / "link")


def test_a_folder_that_somebody_else_made_is_not_used(tmp_path: Path) -> None:
    assert make_own_folder(tmp_path / "mine")
    (tmp_path / "mine").chmod(0o777)
    assert make_own_folder(tmp_path / "mine")
    assert modes(tmp_path)["mine"] == "700"
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "file").touch()
    assert not make_own_folder(tmp_path / "link")
    assert not make_own_folder(tmp_path / "file")
