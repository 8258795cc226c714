"""A run's folder on local disk and in an object store: names, wholeness, kills."""

import json
import math
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path
from uuid import uuid4

import fsspec
import pyarrow as pa
import pytest
from helpers.processes import PROCESSES

from atgen_ray.core.errors import UserError
from atgen_ray.store.parquet_files import GROUP_ROWS
from atgen_ray.store.run_folder import RunFolder

BAD_PATHS = [
    "",
    "/etc/passwd",
    "../other/config.yaml",
    "rounds/../../other",
    "rounds/..",
    "./config.yaml",
    "rounds//x",
    "rounds/",
    "nul\0.json",
    "line\n.json",
    "back\\slash",
    "%2e%2e/x",
    "%2E%2E",
    "C:/x",
    "~/x",
    ".staging/x",
    ".published/x",
    "a" * 300,
    "/".join(["a"] * 300),
    "．．/x",
]


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return (
        str(tmp_path / "runs here")
        if request.param == "local"
        else f"memory://{uuid4().hex}/prefix"
    )


@pytest.fixture
def folder(storage: str) -> RunFolder:
    return RunFolder(storage, "demo")


def publish(folder: RunFolder, rel: str, **files: str) -> None:
    with folder.publish(rel) as local:
        for name, text in files.items():
            path = local / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


def test_tables_come_back(folder: RunFolder) -> None:
    table = pa.table({"id": ["a", "b"], "scores": pa.array([[1.5], []], pa.list_(pa.float32()))})
    folder.write_table("rounds/001/features.parquet", table)
    assert folder.read_table("rounds/001/features.parquet").equals(table)
    assert folder.read_table("rounds/001/features.parquet", columns=["id"]).column_names == ["id"]
    empty = table.slice(0, 0)
    folder.write_table("rounds/001/features.parquet", empty)
    assert folder.read_table("rounds/001/features.parquet").equals(empty)


def test_a_table_is_written_and_read_part_by_part(folder: RunFolder) -> None:
    schema = pa.schema([("id", pa.string()), ("n", pa.int64())])
    ids = [f"{row:06d}" for row in range(2 * GROUP_ROWS + 5)]
    whole = pa.table({"id": ids, "n": range(len(ids))}, schema=schema)
    with folder.table_writer("pool.parquet", schema) as add:
        for start in range(0, len(ids), 5_000):
            add(whole.slice(start, 5_000))
        assert not folder.exists("pool.parquet")
    assert folder.read_table("pool.parquet").equals(whole)
    assert folder.count_rows("pool.parquet") == len(ids)
    assert folder.list_columns("pool.parquet") == ["id", "n"]
    parts = list(folder.scan_table("pool.parquet", ["n"]))
    assert max(map(len, parts)) <= GROUP_ROWS
    assert pa.concat_tables(parts)["n"].to_pylist() == [*range(len(ids))]
    near = folder.read_range("pool.parquet", ids[7], ids[9])
    assert {7, 8, 9} <= set(near["n"].to_pylist())
    assert len(near) < len(ids)
    found = folder.read_rows("pool.parquet", [ids[-1], ids[3], "unknown"])
    assert found == [{"id": ids[3], "n": 3}, {"id": ids[-1], "n": len(ids) - 1}]


def test_a_table_whose_writer_fails_is_not_there(folder: RunFolder) -> None:
    table = pa.table({"id": ["a"]})
    folder.write_table("pool.parquet", table)

    def fail() -> None:
        with folder.table_writer("pool.parquet", table.schema) as add:
            add(pa.table({"id": ["b"]}))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert folder.read_table("pool.parquet").equals(table)


def test_json_and_text_come_back(folder: RunFolder) -> None:
    folder.write_json("metrics.json", {"b": 1, "a": math.nan})
    assert folder.read_text("metrics.json") == '{\n  "a": null,\n  "b": 1\n}\n'
    assert folder.read_json("metrics.json") == {"a": None, "b": 1}
    rows = [{"text": "one\u2028line\r\n\x85"}, {"text": "\ud800 é"}, {}]
    folder.write_jsonl("labeled.jsonl", rows)
    assert folder.read_jsonl("labeled.jsonl") == rows
    folder.write_jsonl("labeled.jsonl", [])
    assert folder.read_jsonl("labeled.jsonl") == []
    folder.write_text("config.yaml", "a: ü\r\n")
    assert folder.read_text("config.yaml") == "a: ü\r\n"


def test_the_path_is_one_that_others_open(folder: RunFolder, storage: str) -> None:
    folder.write_text("config.yaml", "x")
    assert folder.path("config.yaml") == f"{storage}/runs/demo/config.yaml".replace(
        "memory://", "memory:///"
    )
    with fsspec.open(folder.path("config.yaml"), "rt") as file:
        assert file.read() == "x"


def test_what_is_not_there(folder: RunFolder) -> None:
    assert not folder.exists("metrics.json")
    assert folder.list() == folder.list("rounds") == []
    folder.remove("metrics.json")
    folder.sweep()
    for read in (folder.read_json, folder.read_table, folder.read_text, folder.local):
        with pytest.raises(FileNotFoundError):
            read("metrics.json")


@pytest.mark.parametrize("rel", BAD_PATHS)
def test_a_path_out_of_bounds_is_refused(folder: RunFolder, rel: str) -> None:
    for use in (folder.path, folder.exists, folder.read_text, folder.remove, folder.local):
        with pytest.raises(UserError, match="of run 'demo' is not plain names"):
            use(rel)
    with pytest.raises(UserError):
        folder.write_text(rel, "x")
    with pytest.raises(UserError), folder.publish(rel):
        pass
    assert folder.list() == []


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "/a", "a\0", "%2e", "a\\b", "a" * 300, "A", "a\n", "-a"]
)
def test_a_bad_run_name_is_refused(storage: str, name: str) -> None:
    with pytest.raises(UserError, match="run name is"):
        RunFolder(storage, name)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (tmp_path / "linked").symlink_to(tmp_path)
    folder = RunFolder(str(tmp_path / "linked"), "demo")  # the storage itself may be a link
    folder.write_text("rounds/x", "x")
    for rel, target in (("away", outside), ("file", outside / "secret"), ("up", tmp_path / "runs")):
        (tmp_path / "runs/demo" / rel).symlink_to(target)
    (tmp_path / "runs/demo/inside").symlink_to("rounds")
    for rel in ("away", "away/secret", "file", "up"):
        for use in (
            folder.read_text,
            folder.exists,
            folder.local,
            folder.remove,
            lambda rel: folder.write_text(rel, ""),
        ):
            with pytest.raises(UserError, match="link that leaves"):
                use(rel)
    assert folder.read_text("inside/x") == "x"
    (tmp_path / "runs/evil").symlink_to(outside)
    with pytest.raises(UserError, match="link that leaves"):
        RunFolder(str(tmp_path), "evil").read_text("secret")
    assert (outside / "secret").read_text() == "secret"


def test_a_published_folder_appears_whole(folder: RunFolder) -> None:
    with folder.publish("rounds/001/adapter") as local:
        (local / "a.json").write_text("{}")
        assert not folder.exists("rounds/001/adapter")
    assert folder.exists("rounds/001/adapter")
    assert folder.read_json("rounds/001/adapter/a.json") == {}
    publish(folder, "rounds/001/adapter", b="new", deep__c="deep")
    assert folder.list("rounds/001/adapter") == ["rounds/001/adapter/b", "rounds/001/adapter/deep"]
    assert folder.list() == ["rounds"]
    folder.remove("rounds/001")
    assert not folder.exists("rounds/001/adapter")
    assert folder.list("rounds") == []


def test_a_failed_publication_changes_nothing(folder: RunFolder) -> None:
    publish(folder, "adapter", a="old")

    def interrupt(rel: str) -> None:
        with folder.publish(rel) as local:
            (local / "a").write_text("new")
            raise KeyboardInterrupt

    for rel in ("adapter", "fresh"):
        with pytest.raises(KeyboardInterrupt):
            interrupt(rel)
    assert folder.read_text("adapter/a") == "old"
    assert not folder.exists("fresh")


def test_files_and_folders_replace_each_other(folder: RunFolder) -> None:
    folder.write_text("thing", "file")
    publish(folder, "thing", a="folder")
    assert folder.read_text("thing/a") == "folder"
    folder.remove("thing")
    folder.write_text("thing", "file")
    assert folder.read_text("thing") == "file"


def test_local_copies_follow_the_content(folder: RunFolder) -> None:
    publish(folder, "rounds/001/adapter", a="1", deep__b="2")
    copy = folder.local("rounds/001/adapter")
    assert copy.name == "adapter"
    assert {path.relative_to(copy).as_posix() for path in copy.rglob("*")} == {
        "a",
        "deep",
        "deep/b",
    }
    assert folder.local("rounds/001/adapter") == copy
    publish(folder, "rounds/001/adapter", a="3")
    assert (folder.local("rounds/001/adapter") / "a").read_text() == "3"
    assert folder.local("rounds/001/adapter/a").read_text() == "3"
    folder.write_text("report.html", "old")
    assert folder.local("report.html").read_text() == "old"
    folder.write_text("report.html", "new")
    assert folder.local("report.html").read_text() == "new"


def test_an_upload_cut_short_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(f"memory://{uuid4().hex}", "demo")
    publish(folder, "kept", a="whole")
    publish(folder, "adapter", a="old", b="old")
    put = folder.fs.put

    def put_one(sources: list[str], targets: list[str]) -> None:
        put(sources[:1], targets[:1])
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(folder.fs, "put", put_one)
        with pytest.raises(ConnectionError):
            publish(folder, "adapter", a="new", b="new")
    assert not folder.exists("adapter")
    with pytest.raises(FileNotFoundError):
        folder.local("adapter")
    folder.sweep()
    assert folder.list() == ["kept"]
    assert folder.exists("kept")
    publish(folder, "adapter", a="new", b="new")
    assert folder.exists("adapter")


def test_a_forged_record_reaches_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = RunFolder(f"memory://{uuid4().hex}", "demo")
    publish(folder, "adapter", a="x")
    record = f"{folder.root}/.published/adapter.json"
    for file in ("../../../../stolen", str(tmp_path / "stolen")):
        forged = json.loads(folder.fs.cat_file(record)) | {"files": ["a", file]}
        folder.fs.pipe_file(record, json.dumps(forged).encode())
        with pytest.raises(UserError, match="outside it"):
            folder.local("adapter")
    assert not list(tmp_path.rglob("stolen"))


@pytest.mark.parametrize("storage", ["nope://x/key-canary", "gs://bucket/key-canary"])
def test_an_unknown_storage_is_named_by_its_protocol(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=storage.partition(":")[0]) as caught:
        RunFolder(storage, "demo")
    assert "canary" not in str(caught.value)


def write_forever(storage: str, started: "multiprocessing.Queue[bool]") -> None:
    folder = RunFolder(storage, "demo")
    folder.sweep()
    chance = random.Random(os.getpid())
    while True:
        n = chance.randrange(100_000)
        folder.write_text("numbers.txt", f"{n} " * 50_000)
        folder.write_table("features.parquet", pa.table({"n": [n] * 5_000}))
        with folder.publish("adapter") as local:
            for part in range(5):
                (local / f"{part}").write_text(f"{n}" * 5_000)
        started.put(True)


def test_a_killed_writer_leaves_no_half_files(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path), "demo")
    chance, seen, leftovers = random.Random(0), set(), 0
    for _ in range(12):
        started = PROCESSES.Queue()
        writer = PROCESSES.Process(target=write_forever, args=(str(tmp_path), started))
        writer.start()
        assert started.get(timeout=30)
        time.sleep(chance.uniform(0, 0.1))
        writer.kill()
        writer.join()
        leftovers += len([*(tmp_path / "runs/demo/.staging").glob("*")])
        present = set(folder.list())
        assert (
            {"features.parquet", "numbers.txt"}
            <= present
            <= {"features.parquet", "numbers.txt", "adapter"}
        )
        numbers = folder.read_text("numbers.txt").split(" ")
        assert (len(numbers), len(set(numbers))) == (50_001, 2)
        column = folder.read_table("features.parquet")["n"].to_pylist()
        assert (len(column), len(set(column))) == (5_000, 1)
        if "adapter" in present:  # away for the moment between the old one and the new
            assert folder.list("adapter") == [f"adapter/{part}" for part in range(5)]
            assert len({folder.read_text(f"adapter/{part}") for part in range(5)}) == 1
        seen |= present
    assert "adapter" in seen
    assert leftovers  # some kills did hit a write
    folder.sweep()
    assert not list((tmp_path / "runs/demo").glob(".*"))
