"""Every kind of place a dataset may be in, and every format."""

import bz2
import functools
import gzip
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atgen_ray.config import DataConfig, PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.data import Split, build_split

pytestmark = pytest.mark.usefixtures("ray_session")
LINES = '{"q": "one", "a": "1"}\n{"q": "two", "a": "2"}\n'


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    datasets.disable_progress_bars()


def read(pool: Any, split: Any = "pool", template: str = "{{ input }}", **keys: Any) -> Split:
    keys = {"input": "q", "references": "a", "duplicates": {"action": "off"}, **keys}
    return build_split(
        DataConfig(pool=str(pool), test=str(pool), **keys),
        PromptConfig(template=template),
        split,
        0,
    )


def texts(split: Split) -> list[str]:
    return split.examples["text"].to_pylist()


def reasons(split: Split) -> list[str]:
    return [letter.reason for letter in split.dead]


@pytest.mark.parametrize(
    "name", ["p.jsonl", "p.ndjson", "P.JSON", "a #1 %20 [é] *.jsonl", "p.jsonl.gz", "p.json.bz2"]
)
def test_json_lines_by_any_name(tmp_path: Path, name: str) -> None:
    packers: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress}
    packed = packers.get(Path(name).suffix, bytes)(LINES.encode())
    (tmp_path / name).write_bytes(packed)
    assert texts(read(tmp_path / name)) == ["one", "two"]


def test_a_json_array(tmp_path: Path) -> None:
    rows = [{"q": "one", "a": 1}, 5, {"q": "two\nlines", "a": None}]
    (tmp_path / "p.json").write_text("\ufeff " + json.dumps(rows, indent=2))
    split = read(tmp_path / "p.json")
    assert texts(split) == ["one", "two\nlines"]
    assert reasons(split) == ["p.json item 2: is of type int, expected an object with columns"]


def test_lines_that_begin_with_a_bracket_are_lines(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("[1, 2]\n" + LINES)
    split = read(tmp_path / "p.jsonl")
    assert texts(split) == ["one", "two"]
    assert len(split.dead) == 1


def test_ragged_json(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"q": "s", "a": 1},
        {"a": ["x"], "q": 5, "z": {"k": []}},
        {"q": ["l", "m"], "a": None},
        {},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    split = read(tmp_path / "p.jsonl")
    assert texts(split) == ["s", "5", "l m"]
    assert split.gold["references"].to_pylist() == [["1"], ["x"]]
    assert reasons(split) == ["p.jsonl line 4: has no 'q'"]


def test_csv(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(
        b'\xef\xbb\xbfq,a,"paper.title",a\r\n'
        b'"two\r\nlines, and ""quotes""",1,T,uno\r\n'
        b"short,1\r\n"
        b"long,1,T,uno,more\r\n"
        b"\r\n"
        b"bad \xff byte,1,T,x\r\n"
        b'"quoted" badly,1,T,x\r\n'
        b"  spaces  ,,,\r\n"
        b",1,T,x\r\n"
        b'"never closed,1,T,x\r\n'
        b"kept,1,T,x\r\n"
    )
    split = read(tmp_path / "p.csv")
    assert texts(split) == ['two\r\nlines, and "quotes"', "  spaces  ", "kept"]
    assert split.examples["row"].to_pylist() == [0, 5, 8]
    assert split.gold["references"].to_pylist() == [["1", "uno"], ["1", "x"]]
    assert reasons(split) == [
        "p.csv line 4: has 2 fields, expected 4 as in the header",
        "p.csv line 5: has 5 fields, expected 4 as in the header",
        "p.csv line 7: is not valid UTF-8",
        "p.csv line 8: is not valid CSV: ',' expected after '\"'",
        "p.csv line 10: 'q' is empty",
        "p.csv line 11: is not valid CSV: a quote is never closed",
    ]


def test_tsv_and_very_long_fields(tmp_path: Path) -> None:
    long = "word " * 100_000
    (tmp_path / "p.tsv.gz").write_bytes(gzip.compress(f"q\ta\n{long}\t1, 2\n".encode()))
    split = read(tmp_path / "p.tsv.gz")
    assert texts(split) == [long]
    assert split.gold["references"].to_pylist() == [["1, 2"]]


def test_parquet_files_need_not_agree_on_their_columns(tmp_path: Path) -> None:
    (tmp_path / "lang=en").mkdir()
    pq.write_table(
        pa.table({"q": ["e", None, "f"], "a": [["1", "2"], [], None]}),
        tmp_path / "lang=en" / "0.parquet",
    )
    (tmp_path / "lang=de").mkdir()
    pq.write_table(
        pa.table({"q": [3], "a": [{"x": 1}], "more": [1]}), tmp_path / "lang=de" / "0.parquet"
    )
    pq.write_table(pa.table({"q": [3, 4], "a": ["x", "y"]}), tmp_path / "lang=de" / "1.pq")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".hidden.parquet").write_text("junk")
    split = read(tmp_path, template="{{ lang }} {{ q }}")
    assert texts(split) == ["de 3", "de 4", "en e", "en f"]
    assert split.examples["row"].to_pylist() == [1, 2, 3, 5]
    assert split.gold["references"].to_pylist() == [["x"], ["y"], ["1", "2"]]


def test_parquet_with_a_row_that_is_not_utf8(tmp_path: Path) -> None:
    broken = pa.StringArray.from_buffers(3, *pa.array([b"ok", b"\xff\xfe", b"fine"]).buffers()[1:])
    pq.write_table(pa.table({"q": broken, "a": ["1", "2", "3"]}), tmp_path / "p.parquet")
    split = read(tmp_path / "p.parquet")
    assert texts(split) == ["ok", "fine"]
    assert [(letter.id, letter.reason) for letter in split.dead] == [
        ("row-1", "is not valid UTF-8")
    ]


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_pickled_columns_are_not_opened(tmp_path: Path) -> None:
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

    pickled = ArrowPythonObjectArray.from_objects([_Trap(tmp_path / "sprung")])
    nested = pa.StructArray.from_arrays([pickled], names=["deep"])
    pq.write_table(
        pa.table({"q": ["x"], "a": ["1"], "o": pickled, "n": nested}), tmp_path / "p.parquet"
    )
    assert texts(read(tmp_path / "p.parquet")) == ["x"]
    for column in ("o", "n.deep"):
        with pytest.raises(UserError, match=r"data\.input names"):
            read(tmp_path / "p.parquet", input=column)
    assert not (tmp_path / "sprung").exists()


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "b/1.jsonl", "a.jsonl", "c.ndjson.gz"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        line = json.dumps({"q": name, "a": "x"}).encode()
        path.write_bytes(gzip.compress(line) if name.endswith("gz") else line)
    (tmp_path / "README.md").write_text("# words")
    assert texts(read(tmp_path)) == ["a.jsonl", "b/1.jsonl", "b/2.jsonl", "c.ndjson.gz"]
    assert texts(read(f"{tmp_path}/b/*.jsonl")) == ["b/1.jsonl", "b/2.jsonl"]
    assert texts(read(f"file://{tmp_path}/b")) == ["b/1.jsonl", "b/2.jsonl"]


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "p.jsonl").write_text(LINES)
    monkeypatch.chdir(tmp_path)
    assert texts(read("data/p.jsonl")) == texts(read("./data")) == ["one", "two"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_url(tmp_path: Path, site: str) -> None:
    (tmp_path / "p.jsonl").write_text(LINES)
    assert texts(read(f"{site}/p.jsonl")) == ["one", "two"]
    with pytest.raises(UserError, match=r"^data\.pool is 'http://"):
        read(f"{site}/nothing.jsonl")


def test_a_file_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "poolpack").mkdir()
    (tmp_path / "poolpack" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "poolpack" / "p.jsonl").write_text(LINES)
    (tmp_path / "poolpack-1.dist-info").mkdir()
    (tmp_path / "poolpack-1.dist-info" / "METADATA").write_text("Name: poolpack\nVersion: 1\n")
    (tmp_path / "poolpack-1.dist-info" / "top_level.txt").write_text("poolpack\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert texts(read("package://poolpack/p.jsonl")) == ["one", "two"]
    with pytest.raises(UserError, match=r"has no 'q\.jsonl'"):
        read("package://poolpack/q.jsonl")


def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    train = datasets.Dataset.from_dict(
        {"q": ["one", "two", "three"], "a": [["1"], ["2", "zwei"], []]}
    )
    turned = train.select([2, 0, 1])
    train.save_to_disk(tmp_path / "single")
    datasets.DatasetDict({"train": turned, "test": train.select([1])}).save_to_disk(
        tmp_path / "both"
    )
    assert texts(read(tmp_path / "single")) == ["one", "two", "three"]
    both = read(tmp_path / "both")
    assert texts(both) == ["three", "one", "two"]
    assert both.gold["references"].to_pylist() == [["1"], ["2", "zwei"]]
    assert texts(read(tmp_path / "both", "test")) == ["two"]
    with pytest.raises(UserError, match=r"data\.pool_split is 'trian', .*did you mean 'train'\?"):
        read(tmp_path / "both", pool_split="trian")
    (tmp_path / "p.jsonl").write_text(LINES)
    with pytest.raises(UserError, match=r"expected a folder made by datasets\.save_to_disk"):
        read(tmp_path / "p.jsonl", format="saved")


def test_datasets_that_hugging_face_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "train.jsonl").write_text(LINES)
    (repository / "test.jsonl").write_text('{"q": "three", "a": "3"}\n')
    assert texts(read(repository, format="huggingface")) == ["one", "two"]
    assert texts(read(repository, "test", format="huggingface")) == ["three"]
    with pytest.raises(UserError, match=r"Hugging Face cannot load it \(subset None, split dev\)"):
        read(repository, format="huggingface", pool_split="dev")


def test_a_bad_row_of_a_repository_is_one_bad_row(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('q,a\none,1\n"two,2,3,4\n')
    split = read(tmp_path, format="huggingface")
    assert texts(split) == ["one"]
    assert reasons(split) == ["train.csv line 3: is not valid CSV: a quote is never closed"]


def test_a_dataset_id_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"data\.pool is 'nobody/nothing', no file or folder here, and Hugging Face"
    ):
        read("nobody/nothing")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("pool.csv", "expected an existing file, folder, glob or URL"),
        ("./nothing", "expected an existing file, folder, glob or URL"),
        ("/nowhere/at/all", "expected an existing file, folder, glob or URL"),
        ("data/*.jsonl", "expected an existing file, folder, glob or URL"),
        ("nosuch://bucket/file.csv", "Protocol not known: nosuch"),
        ("package://nosuchpackage/x.csv", "no package 'nosuchpackage' is installed"),
    ],
)
def test_places_with_nothing_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^data\.pool is '") as caught:
        read(location)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_format_that_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(LINES)
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "p.jsonl").write_text(LINES)
    (tmp_path / "mixed" / "p.csv").write_text("q,a\nthree,3\n")
    with pytest.raises(
        UserError, match=r"its name does not tell: set data\.format to jsonl, csv, parquet"
    ):
        read(tmp_path / "p.txt")
    with pytest.raises(UserError, match=r"of several kinds \(csv, jsonl\): set data\.format to"):
        read(tmp_path / "mixed")
    assert texts(read(tmp_path / "p.txt", format="jsonl")) == ["one", "two"]
    assert texts(read(tmp_path / "mixed", format="csv")) == ["three"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected an existing file"):
        read(tmp_path / "empty", format="csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.parquet", b"no parquet at all"),
        ("p.jsonl.gz", gzip.compress(LINES.encode() * 99, mtime=0)[:-30]),
        ("q.gz", b"no"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"^data\.pool is '.*', which cannot be read: ") as caught:
        read(tmp_path / name, format="auto" if name.startswith("p") else "jsonl")
    assert "\n" not in str(caught.value)
