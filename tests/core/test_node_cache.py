"""The cache of a node: one download for all its processes, room for what is in use, no more than is
allowed."""

import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from atgen_ray.core import node_cache
from atgen_ray.core.checkpoints import resolve_checkpoint
from atgen_ray.core.errors import UserError
from atgen_ray.core.node_cache import HELD, VARIABLE, fetch_once
from atgen_ray.core.stored import Stored, at_path, find_stored

# Fetches a copy slowly, says so, and keeps it until its input ends.
PROCESS = """
import sys, time
from atgen_ray.core.node_cache import fetch_once

def fetch(target):
    time.sleep(0.3)
    target.write_text(f"{target.parent.name} fetched")
    print("fetched", flush=True)

path = fetch_once(sys.argv[1], "copy", fetch)
print(path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(node_cache, "_held", type(node_cache._held)())
    return tmp_path / "cache/atgen-ray/storage"


def start(version: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, version],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def fill(size: int, version: str | None = None) -> Path:
    def write(target: Path) -> None:
        target.write_bytes(b"x" * size)

    return fetch_once(version or uuid4().hex, "copy", write)


def forget() -> None:
    """As if the process that has asked for copies so far had ended."""
    while node_cache._held:
        node_cache._held.popitem()[1].close()


def test_the_processes_of_a_node_fetch_once(cache: Path) -> None:
    outputs = [
        process.communicate("")[0].split() for process in [start("a"), start("a"), start("a")]
    ]
    assert [output[-1] for output in outputs] == [str(cache / "a/copy")] * 3
    assert sum("fetched" in output for output in outputs) == 1
    assert (cache / "a/copy").read_text() == "a fetched"


def test_a_download_that_fails_leaves_nothing_and_is_tried_again(cache: Path) -> None:
    def fail(target: Path) -> None:
        target.write_text("half")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        fetch_once("a", "copy", fail)
    assert not (cache / "a/copy").exists()
    assert fill(3, "a").read_bytes() == b"xxx"


def test_the_longest_unused_goes_first_and_what_is_used_stays(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "0.000001")  # a thousand bytes
    with start("used") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "fetched\n"
        process.stdout.readline()
        for version in ("old", "older"):
            fill(300, version)
        forget()
        past = time.time() - 1000
        for version, age in (("used", 3), ("older", 2), ("old", 1)):
            os.utime(cache / version / ".used", (past - age, past - age))
        fill(500, "new")
        assert {path.name for path in cache.iterdir()} == {"used", "old", "new"}
        fill(900, "large")  # `new` is used by this process
        assert {path.name for path in cache.iterdir()} == {"used", "new", "large"}
        process.kill()
    forget()
    fill(10, "small")
    assert {path.name for path in cache.iterdir()} == {"large", "small"}


def test_a_process_holds_no_more_than_the_last_copies(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "0.000001")
    for number in range(HELD + 3):
        fill(100, f"{number:03}")
        os.utime(cache / f"{number:03}/.used", (number, number))
    assert len(list(cache.iterdir())) == HELD


@pytest.mark.parametrize("value", ["0", "-1", "much", "inf", "nan"])
def test_a_size_that_is_none(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(
        UserError, match=rf"^ATGEN_CACHE_GB is '{value}', expected gigabytes, as 20"
    ):
        fill(1)


def store_checkpoint() -> str:
    """A checkpoint in an object store; returns its URL."""
    url = f"memory://{uuid4().hex}/model"
    filesystem, path = fsspec.url_to_fs(url)
    for name in ("config.json", "model.safetensors", "inner/vocab.txt"):
        filesystem.pipe_file(f"{path}/{name}", name.encode())
    return url


def test_a_checkpoint_behind_a_url_is_fetched(cache: Path) -> None:
    url = store_checkpoint()
    folder = Path(resolve_checkpoint(url))
    assert folder.is_relative_to(cache)
    assert (folder / "inner/vocab.txt").read_text() == "inner/vocab.txt"
    assert resolve_checkpoint(url) == str(folder)
    without = Path(resolve_checkpoint(url, weights=False))
    assert sorted(path.name for path in without.iterdir()) == ["config.json", "inner"]
    filesystem, path = fsspec.url_to_fs(url)
    filesystem.pipe_file(f"{path}/model.safetensors", b"other weights")
    assert (Path(resolve_checkpoint(url)) / "model.safetensors").read_text() == "other weights"


def test_a_url_where_no_checkpoint_is() -> None:
    for url in ("memory://nowhere", "nope://bucket/model"):
        with pytest.raises(UserError, match=rf"^model\.id is '{url}', "):
            resolve_checkpoint(url)


def test_a_reference_is_of_one_version() -> None:
    filesystem, path = fsspec.url_to_fs(store_checkpoint())
    stored = find_stored(filesystem, path)
    assert stored.holds("config.json")
    assert not stored.holds("adapter_config.json")
    filesystem.pipe_file(f"{path}/config.json", b"other")
    with pytest.raises(FileNotFoundError):
        stored.local()


def test_a_reference_to_a_disk_is_read_in_place(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    stored = at_path(tmp_path / "adapter")
    assert stored.local() == tmp_path / "adapter"
    assert isinstance(stored, Stored)
    assert not stored.holds("adapter_config.json")
    (tmp_path / "adapter/adapter_config.json").touch()
    assert stored.holds("adapter_config.json")
