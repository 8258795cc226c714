"""Labels from files of every kind, brought into a run that people label."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command_line import call
from helpers.human_desk import HumanDesk

from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder

ROWS = [
    {"id": "e00", "text": "known"},
    {"input": "text 1", "text": "also", "annotator": "old team"},
]


@pytest.fixture
def desk(tmp_path: Path) -> HumanDesk:
    desk = HumanDesk(Journal(f"sqlite:///{tmp_path}/atgen.db"), 3)
    pool = [{"id": id_, "text": text} for id_, text in desk.texts.items()]
    RunFolder(str(tmp_path), desk.run).write_table("pool.parquet", pa.Table.from_pylist(pool))
    return desk


def write(path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(
            pa.Table.from_pylist(
                ROWS, pa.schema(dict.fromkeys(("id", "input", "text"), pa.string()))
            ),
            path,
        )
    elif path.suffix == ".csv":
        path.write_text("id,input,text\ne00,,known\n,text 1,also\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_labels_come_from_files(desk: HumanDesk, tmp_path: Path, ending: str) -> None:
    file = write(tmp_path / f"labels.{ending}")
    done = call("runs", "import", desk.run, str(file), "--storage", str(tmp_path))
    assert (done.status, done.out) == (0, "2 labels imported, 0 known before, 0 refused\n")
    again = call("runs", "import", desk.run, str(file), "--storage", str(tmp_path))
    assert again.out == "0 labels imported, 2 known before, 0 refused\n"
    labels, _ = desk.round().collect_labels()
    assert {label.id: label.text for label in labels} == {"e00": "known", "e01": "also"}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.xlsx", "", "expected one that ends in .jsonl, .json, .csv, .tsv or"),
        ("x.jsonl", "[1]\n", "row 1, expected texts under the names text, and id or input"),
        ("x.jsonl", '{"id": "e00", "text": 3}\n', "row 1, expected texts under the names"),
        ("x.jsonl", "{", "which cannot be read"),
        ("x.parquet", "no parquet", "which cannot be read"),
    ],
)
def test_a_file_that_holds_no_labels_is_one_line(
    desk: HumanDesk, tmp_path: Path, name: str, content: str, reason: str
) -> None:
    (tmp_path / name).write_text(content)
    done = call("runs", "import", desk.run, str(tmp_path / name), "--storage", str(tmp_path))
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert reason in done.err
