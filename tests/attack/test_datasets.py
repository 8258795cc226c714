"""Hostile data: bombs, endless rows, rows that speak to a terminal, and any bytes at all in place
of a file.
"""

import bz2
import gzip
import io
import json
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from atgen_ray.config import DataConfig, PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.data import build_split
from atgen_ray.data import size_limits as bounds
from atgen_ray.data.file_formats import (
    CsvRecords,
    JsonRecords,
    ParquetRecords,
    decode_columns,
    decode_records,
)
from atgen_ray.data.rows import RowPlan, fill_rows

pytestmark = pytest.mark.usefixtures(
    "ray_session"
)  # Ray Data's readers start one where there is none

PLAN = RowPlan("input", ("answer",), "{{ input }}", needs_reference=False, signed=False)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[*HealthCheck])
READERS = {".jsonl": (JsonRecords, decode_records), ".csv": (CsvRecords, decode_records)}
READERS |= {".parquet": (ParquetRecords, decode_columns)}


@lru_cache(maxsize=4)
def open_reader(path: Path) -> tuple[Any, Any]:
    """The reader of a file, whose content may change, and its decoder."""
    if not path.exists():
        path.touch()
    reader, decode = READERS[path.suffixes[0]]
    return reader(str(path)), decode


def read(path: Path) -> list[dict[str, Any]]:
    """The rows that a file gives, read as a worker reads it, in this process."""
    source, decode = open_reader(path)
    with source._open_input_source(pa.fs.LocalFileSystem(), str(path)) as stream:
        blocks = [
            fill_rows(decode(block), PLAN) for block in source._read_stream(stream, str(path))
        ]
    return [row for block in blocks for row in block.to_pylist()]


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of this module at a scale that a test can reach."""
    monkeypatch.setattr(bounds, "FREE", 1 << 18)
    for module in ("size_limits", "file_formats", "rows"):
        monkeypatch.setattr(f"atgen_ray.data.{module}.LONGEST", 1 << 16)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("content", [b"\0", b'{"input": "x"}\n', b'"', b"a,", b"[" + b"1," * 7])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_decompression_bomb_is_refused(
    tmp_path: Path, small_bounds: None, pack: Any, content: bytes, suffix: str
) -> None:
    ending = ".gz" if pack is gzip.compress else ".bz2"
    bomb = tmp_path / f"pool{suffix}{ending}"
    bomb.write_bytes(pack(content * ((2 << 20) // len(content))))
    assert bomb.stat().st_size < 10_000
    with pytest.raises(OSError, match=r"unpacks to more than 300 times its size"):
        read(bomb)


def test_a_bomb_is_a_mistake_of_the_configuration(ray_session: None, tmp_path: Path) -> None:
    """Through Ray Data, at the true bounds: 300 MB out of 300 KB."""
    bomb = tmp_path / "pool.jsonl.gz"
    with gzip.open(bomb, "wb", compresslevel=9) as file:
        for _ in range(300):
            file.write(b" " * (1 << 20))
    with pytest.raises(
        UserError,
        match=r"data\.pool is '.*', which cannot be read: .*pool\.jsonl\.gz unpacks to more",
    ):
        build_split(DataConfig(pool=str(bomb)), PromptConfig(), "pool", 0)


def test_a_parquet_bomb_is_refused(tmp_path: Path, small_bounds: None) -> None:
    bomb = tmp_path / "pool.parquet"
    table = pa.table({"input": pa.array(["x" * 1000]).take(pa.array([0] * 50_000))})
    pq.write_table(table, bomb, compression="zstd", use_dictionary=False)
    with pytest.raises(OSError, match="unpacks to more than"):
        read(bomb)
    rows = tmp_path / "rows.parquet"
    pq.write_table(
        pa.table({"input": pa.DictionaryArray.from_arrays(pa.array([0] * 3_000_000), ["x"])}), rows
    )
    assert rows.stat().st_size < 10_000
    with pytest.raises(OSError, match="unpacks to more than"):
        read(rows)


def test_a_row_too_long_is_a_dead_row_among_living_ones(tmp_path: Path, small_bounds: None) -> None:
    endless = "x" * 300_000
    lines = [json.dumps({"input": text}) for text in ("one", endless, "two")]
    (tmp_path / "pool.jsonl").write_text("\n".join(lines))
    (tmp_path / "pool.csv").write_text(f"input,answer\none,1\n{endless},2\n{endless}\ntwo,3\n")
    (tmp_path / "quoted.csv").write_text(
        'input,answer\none,1\n"' + "x\n" * 100_000 + '",2\ntwo,3\n'
    )
    pq.write_table(pa.table({"input": ["one", endless, "two"]}), tmp_path / "pool.parquet")
    for name in ("pool.jsonl", "pool.csv", "pool.parquet"):
        rows = read(tmp_path / name)
        assert [row["text"] for row in rows if row["error"] is None] == ["one", "two"], name
        assert all("has more than" in row["error"] for row in rows if row["error"]), name
    rows = read(tmp_path / "quoted.csv")
    assert rows[0]["text"] == "one"
    assert any("field larger than field limit" in row["error"] for row in rows if row["error"])


@pytest.mark.parametrize(
    "template", ["{{ 'x' * 10 ** 9 }}", "{{ 10 ** 10 ** 10 }}", "{{ [1] * 10 }}"]
)
def test_a_template_makes_no_endless_text(template: str) -> None:
    plan = RowPlan("input", (), template, needs_reference=False, signed=False)
    (row,) = fill_rows([({"input": "x"}, None, "")], plan).to_pylist()
    assert "SecurityError" in row["error"]


def test_templates_still_count() -> None:
    plan = RowPlan(
        "input", (), "{{ input }} {{ 6 * 7 }} {{ '=' }}", needs_reference=False, signed=False
    )
    (row,) = fill_rows([({"input": "x"}, None, "")], plan).to_pylist()
    assert row["text"] == "x 42 ="


def make_saved(folder: Path, filename: str, splits: list[str] | None = None) -> Path:
    """A folder as datasets.save_to_disk leaves it, with one file of that name."""
    import datasets

    datasets.Dataset.from_dict({"input": ["mine"]}).save_to_disk(folder)
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": filename}]
    (folder / "state.json").write_text(json.dumps(state))
    if splits:
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    return folder


def refuse(pool: Path | str, **keys: Any) -> str:
    """The one line with which a pool is refused."""
    with pytest.raises(UserError) as caught:
        build_split(DataConfig(pool=str(pool), **keys), PromptConfig(), "pool", 0)
    assert "\n" not in str(caught.value)
    assert "secret text" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder with a file that nobody names, beside the attacker's own."""
    (tmp_path / "private").mkdir()
    make_saved(tmp_path / "private" / "saved", "data-00000-of-00001.arrow")
    (tmp_path / "private" / "secret.jsonl").write_text('{"input": "secret text"}\n')
    (tmp_path / "mine").mkdir()
    return tmp_path / "private" / "secret.jsonl"


def test_a_saved_dataset_opens_no_files_outside_its_folder(secret: Path) -> None:
    mine = secret.parent.parent / "mine"
    other = secret.parent / "saved" / "data-00000-of-00001.arrow"
    for at, name in enumerate(
        [str(other), "../../private/saved/data-00000-of-00001.arrow", f"x/../../../{other}"]
    ):
        assert "outside it" in refuse(make_saved(mine / str(at), name))
    linked = make_saved(mine / "linked", "link.arrow")
    (linked / "link.arrow").symlink_to(other)
    assert "outside it" in refuse(linked)
    up = make_saved(mine / "up", "x", splits=["../../private/saved"])
    assert "outside it" in refuse(up, pool_split="../../private/saved")


@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_link_in_a_folder_or_glob_does_not_lead_out_of_it(secret: Path, how: str) -> None:
    mine = secret.parent.parent / "mine"
    if how == "file":
        (mine / "train.jsonl").symlink_to(secret)
    else:
        (mine / "deep").symlink_to(secret.parent)
    assert "outside it" in refuse(mine)
    if how == "file":
        assert "outside it" in refuse(f"{mine}/*.jsonl")
    refuse(f"{mine}/d*/*.jsonl")
    (mine / "plain").mkdir()
    refuse(f"{mine}/*/../../private/*.jsonl")
    assert "outside it" in refuse("x", path=str(mine))
    assert "outside it" in refuse(mine, format="huggingface")


def test_a_folder_s_readme_names_no_files_elsewhere(secret: Path) -> None:
    mine = secret.parent.parent / "mine"
    (mine / "ok.jsonl").write_text('{"input": "x"}\n')
    for pattern in (
        str(secret),
        "../private/secret.jsonl",
        "http://127.0.0.1:9/x.jsonl",
        f"file://{secret}",
    ):
        (mine / "README.md").write_text(
            f"---\nconfigs:\n- config_name: a\n  data_files: {pattern}\n---\n"
        )
        assert "a file outside it" in refuse(mine, format="huggingface")
    (mine / "README.md").unlink()
    (mine / "README.md").symlink_to(secret)
    assert "outside it" in refuse(mine, format="huggingface")


def test_no_name_of_a_packaged_loader_reads_the_working_folder(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    monkeypatch.chdir(secret.parent)
    for suffix in ("txt", "csv", "json", "xml", "parquet", "arrow"):
        (secret.parent / f"train.{suffix}").write_text("secret text\n")
    for name in _PACKAGED_DATASETS_MODULES:
        assert "no file or folder here, and Hugging Face cannot load it" in refuse(name)
        assert "Hugging Face cannot load it" in refuse(name, format="huggingface")


def assert_only_rows(path: Path) -> None:
    try:
        rows = read(path)
    except (OSError, pa.ArrowException):  # what becomes one line for the user
        return
    assert all((row["text"] is None) != (row["error"] is None) for row in rows)


@QUICK
@given(st.binary(max_size=400))
@example(b"[" * 400)
@example(b'{"input": ' + b"9" * 390 + b"}")
@example(b'{"input": "\\ud800"}')
@example(b'\xef\xbb\xbf[{"input": NaN}, {"input": 1e999}]')
def test_any_bytes_are_rows_or_one_error_as_json(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    assert_only_rows(path)


@QUICK
@given(st.binary(max_size=400))
@example(b'input,input\n"a')
@example(b"input\n\x00\n")
def test_any_bytes_are_rows_or_one_error_as_csv(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    assert_only_rows(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@QUICK
@given(st.lists(st.dictionaries(st.sampled_from(["input", "answer", "x"]), VALUES), max_size=5))
def test_any_values_are_rows(records: list[dict[str, Any]]) -> None:
    for row in fill_rows([(record, None, "") for record in records], PLAN).to_pylist():
        assert (row["text"] is None) != (row["error"] is None)


def test_a_broken_parquet_file_is_rows_or_one_error(tmp_path: Path) -> None:
    whole = io.BytesIO()
    pq.write_table(
        pa.table({"input": [f"text {at}" for at in range(50)], "answer": ["é"] * 50}), whole
    )
    chance, path = random.Random(0), tmp_path / "broken.parquet"
    for _ in range(150):
        content = bytearray(whole.getvalue())
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(
            bytes(content[: chance.choice([len(content), chance.randrange(len(content))])])
        )
        assert_only_rows(path)
