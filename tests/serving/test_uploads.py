"""Files that callers give: kept whole below the storage, under names of ours, or refused with a
reason.
"""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atgen_ray.config import LimitsConfig
from atgen_ray.core.errors import UserError
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.uploads import UploadQuota, receive_upload
from atgen_ray.store.journal import Journal


def receive(
    name: str, content: bytes, storage: str, limit: int = 10_000, by: str = "ann", **limits: int
) -> tuple[str, list[str]]:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 7):
            yield content[start : start + 7]

    with TemporaryDirectory() as folder:
        where = folder if "://" in storage else f"{storage}-journal"
        with closing(Journal(f"sqlite:///{where}/atgen.db")) as journal:
            quota = UploadQuota(journal, storage, LimitsConfig(**limits))
            return asyncio.run(receive_upload(chunks(), name, storage, limit, quota, by))


def parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"], "answer": ["b"]}), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        (
            "pool.jsonl",
            b'\n{"task": {"words": "x"}, "answers": ["y"]}\n',
            ["task", "task.words", "answers"],
        ),
        ("pool.CSV", b"\xef\xbb\xbftext,answer\na,b\n", ["text", "answer"]),
        ("pool.csv", b"text;answer\na, b;c\n", ["text", "answer"]),
        ("pool.tsv", b"text\tanswer\n", ["text", "answer"]),
        (
            "export.json",
            b'[{"fields": {"text": "a"}, "responses": {"label": [{"value": "b"}]}}]',
            ["fields", "fields.text", "responses", "responses.label", "responses.label.value"],
        ),
        ("pool.parquet", parquet(), ["text", "answer"]),
    ],
)
def test_a_file_is_kept_whole_and_its_columns_told(
    tmp_path: Path, name: str, content: bytes, columns: list[str]
) -> None:
    location, found = receive(name, content, str(tmp_path))
    assert found == columns
    assert Path(location).parent == tmp_path / "uploads"
    assert Path(location).read_bytes() == content
    assert receive(name, content, str(tmp_path))[0] == location
    assert (
        receive(name, content + b"\n", str(tmp_path))[0] != location
        if name != "pool.parquet"
        else True
    )


def test_an_object_store_keeps_it_too() -> None:
    location, _ = receive("p.csv", b"a,b\n1,2\n", "memory://uploaded")
    assert location.startswith("memory://uploaded/uploads/p-")
    with fsspec.open(location) as file:
        assert file.read() == b"a,b\n1,2\n"


@pytest.mark.parametrize(
    "name", ["../../etc/x.csv", "/etc/x.csv", "a\0b.csv", "..csv", "x" * 300 + ".csv", "é ü.csv"]
)
def test_names_never_leave_the_folder(tmp_path: Path, name: str) -> None:
    location, _ = receive(name, b"a,b\n", str(tmp_path))
    assert Path(location).parent == tmp_path / "uploads"
    assert len(Path(location).name) < 80
    assert [path.name for path in tmp_path.iterdir()] == ["uploads"]


def test_what_is_too_large_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ApiError) as refusal:
        receive("pool.csv", b"a,b\n" * 3000, str(tmp_path))
    assert refusal.value.status == 413
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "pool.xlsx",
            b"",
            "'pool.xlsx', expected one that ends in .csv, .tsv, .json, .jsonl or .parquet",
        ),
        ("pool.jsn", b"", "did you mean 'json'?"),
        ("pool.parquet", b"PAR1", "'pool.parquet' is not parquet"),
        ("pool.jsonl", b"nonsense", "'pool.jsonl' is not jsonl"),
        (
            "pool.jsonl",
            b"[" * 5000,
            "'pool.jsonl' is not jsonl: its first row is nested too deeply",
        ),
        ("pool.jsonl", b"", "'pool.jsonl' has no columns"),
        ("pool.csv", b'"never closed', "'pool.csv' is not csv"),
        ("pool.csv", "text\n".encode("utf-16"), "it is UTF-16 or UTF-32, expected UTF-8"),
        ("pool.json", b"{", "'pool.json' is not json: expected an array of objects"),
    ],
)
def test_what_is_no_data_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    with pytest.raises(UserError) as refusal:
        receive(name, content, str(tmp_path))
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_uploads_have_room_in_all_and_for_each_person(tmp_path: Path) -> None:
    def give(by: str, letter: bytes) -> None:
        content = b'{"a": "' + letter * 100 + b'"}\n'
        receive("x.jsonl", content, str(tmp_path), by=by, stored_bytes=300, person_stored_bytes=150)

    give("ann", b"a")
    give("ann", b"a")  # the same file again takes no room, and is not counted twice
    with pytest.raises(ApiError, match="the uploads of one person have 110 of 150 bytes") as fault:
        give("ann", b"b")
    assert fault.value.status == 507
    give("bob", b"c")
    with pytest.raises(ApiError, match="the uploads of this service have 220 of 300 bytes"):
        give("eve", b"d")
    assert len(list((tmp_path / "uploads").iterdir())) == 2
