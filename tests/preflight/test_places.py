"""Folders that cannot be written are told before a run begins."""

import os
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import SMALLEST

from atgen_ray.config.loading import parse_config
from atgen_ray.core.errors import UserError
from atgen_ray.preflight import Setting, run_checks
from atgen_ray.preflight.folders import check_storage, check_user_folders
from atgen_ray.ray_runtime.session import RAY_PATH, SOCKET_PATH, check_temporary_folder, ray_session


def look(check: Any, **keys: Any) -> list[str]:
    """The lines of one check of the smallest configuration with some keys of its own."""
    return run_checks([check], Setting(parse_config(SMALLEST | keys)))


def test_a_storage_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    assert look(check_storage, storage=str(tmp_path / "new" / "storage"), cache=str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    assert look(check_storage, storage=str(tmp_path)) == []
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


def test_one_that_cannot_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lines = look(check_storage, storage=str(tmp_path / "file"), cache="/proc/cache")
    assert lines[0].startswith(f"storage {tmp_path}/file cannot be used: ")
    assert lines[1].startswith("cache /proc/cache cannot be used: ")
    (line,) = look(check_storage, storage="nowhere://bucket")
    assert line.startswith("storage is nowhere://..., which cannot be opened")


def test_a_home_that_cannot_hold_a_cache_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/dev/null/home")
    (line,) = look(check_user_folders)
    assert line.startswith(
        "HOME is '/dev/null/home', but /dev/null/home/.cache/atgen-ray cannot be made"
    )


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_ray_is_not_started_where_it_has_no_folder(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "missing"))
    refused = pytest.raises(
        UserError, match=f"{variable} is '.*missing', expected a folder that can be written"
    )
    with refused, ray_session("test"):
        raise AssertionError("Ray was started")
    assert look(check_user_folders)[0].startswith(f"{variable} is ")


def test_a_folder_whose_sockets_would_have_too_long_a_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    longest = SOCKET_PATH - len(RAY_PATH.format(pid=os.getpid()))
    fits = tmp_path / "a"
    link = Path("/tmp") / ("x" * (longest - len("/tmp/")))
    fits.mkdir()
    link.symlink_to(fits)
    try:
        monkeypatch.setenv("RAY_TMPDIR", str(link))
        check_temporary_folder()
    finally:
        link.unlink()
    deep = tmp_path / ("y" * 100)
    deep.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(deep))
    with pytest.raises(UserError, match="which is too long for the sockets of Ray"):
        check_temporary_folder()
