"""Small files in the shapes that people bring: each is read as it is meant, or refused in one
line.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atgen_ray.config import DataConfig, PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.data import Split, build_split
from atgen_ray.text.conversation import show_example

pytestmark = pytest.mark.usefixtures("ray_session")
ROWS = [{"question": f"Q{at}?", "answer": f"A{at}"} for at in range(4)]
QUESTIONS = [row["question"] for row in ROWS]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
ALPACA = [
    {"instruction": "Translate", "input": "cat", "output": "Katze"},
    {"instruction": "Say hi", "input": "", "output": "hi"},
]
SYSTEM = {"role": "system", "content": "Be brief"}
CHATS: list[list[dict[str, Any]]] = [
    [
        SYSTEM,
        {"role": "user", "content": "Capital of France?"},
        {"role": "assistant", "content": "Paris"},
    ],
    [{"role": "user", "content": "Two plus two?"}, {"role": "assistant", "content": "4"}],
    [
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Yes?"},
        {"from": "human", "value": "Bye"},
    ],
]


def read(pool: Path, split: Any = "pool", template: str = "{{ input }}", **keys: Any) -> Split:
    keys = {"input": "question", "references": "answer", "duplicates": {"action": "off"}, **keys}
    return build_split(
        DataConfig(pool=str(pool), test=str(pool), **keys),
        PromptConfig(template=template),
        split,
        0,
    )


def texts(split: Split) -> list[str]:
    return split.examples["text"].to_pylist()


def refusal(pool: Path, **keys: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(pool, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("column", ["instruction", "input"])
def test_a_template_says_what_an_empty_input_becomes(tmp_path: Path, column: str) -> None:
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ALPACA))
    template = "{{ instruction }}{% if input %}\n{{ input }}{% endif %}"
    split = read(tmp_path / "p.jsonl", template=template, input=column, references="output")
    assert texts(split) == ["Translate\ncat", "Say hi"]
    assert split.gold["references"].to_pylist() == [["Katze"], ["hi"]]
    assert len(read(tmp_path / "p.jsonl", input="input", references="output").dead) == 1


@pytest.mark.parametrize(
    "content",
    [
        {"question": QUESTIONS, "answer": ["A"] * 4},
        {"question": dict(enumerate(QUESTIONS)), "answer": dict(enumerate("ABCD"))},
        {str(at): row for at, row in enumerate(ROWS)},
        {"version": "1.1", "data": ROWS},
        {"rows": ROWS},
        ROWS,
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_file_of_any_layout(tmp_path: Path, content: Any, indent: int | None) -> None:
    (tmp_path / "p.json").write_text(json.dumps(content, indent=indent))
    assert texts(read(tmp_path / "p.json")) == QUESTIONS


def test_pretty_objects_one_below_the_other_and_line_ends_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("\n".join(json.dumps(row, indent=2) for row in ROWS))
    assert texts(read(tmp_path / "p.json")) == QUESTIONS
    (tmp_path / "p.jsonl").write_bytes(b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode())
    assert texts(read(tmp_path / "p.jsonl")) == QUESTIONS
    (tmp_path / "q.jsonl").write_text('{"question": "cut", "answer"\n' + LINES)
    split = read(tmp_path / "q.jsonl")
    assert texts(split) == QUESTIONS
    assert split.dead[0].reason.startswith("q.jsonl line 1: is not valid JSON")


def test_a_tsv_has_no_quoting_and_a_quote_in_csv_swallows_no_rows(tmp_path: Path) -> None:
    rows = ['"Hello" said who?', 'Who said "x?', '"Unclosed start', "Next row?", "Last?"]
    (tmp_path / "p.tsv").write_text("question\tanswer\n" + "".join(f"{row}\tA\n" for row in rows))
    split = read(tmp_path / "p.tsv")
    assert texts(split) == rows
    assert not split.dead
    (tmp_path / "p.csv").write_text('question,answer\n"open,A\nNext?,B\n"closed",C\nLast?,D\n')
    split = read(tmp_path / "p.csv")
    assert texts(split) == ["Next?", "closed", "Last?"]
    assert len(split.dead) == 1


def test_a_folder_of_shards_gives_each_split_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "README.md").write_text("# card")
    for name, at in (
        ("test-00000-of-00001", 0),
        ("train-00000-of-00002", 1),
        ("train-00001-of-00002", 2),
    ):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(ROWS[at]) + "\n")
    assert texts(read(tmp_path)) == ["Q1?", "Q2?"]
    assert texts(read(tmp_path, "test")) == ["Q0?"]
    assert not read(tmp_path).dead
    assert "has no file of split 'dev'" in refusal(tmp_path, pool_split="dev")


@pytest.mark.parametrize("part", ["train[100:]", "train[3:1]", "train[:0]"])
def test_rows_that_are_not_there(tmp_path: Path, part: str) -> None:
    (tmp_path / "p.jsonl").write_text(LINES)
    line = refusal(tmp_path / "p.jsonl", pool_split=part)
    assert line.startswith(f"data.pool_split is '{part}', but ")
    assert "has 4 rows" in line


@pytest.mark.parametrize("name", ["p.jsonl.gz", "p.csv.gz", "p.parquet", "p.arrow", "p.tsv"])
def test_a_file_that_ends_too_soon_is_one_line(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(LINES.encode() * 99, mtime=0)[:-30])
    elif name.endswith(".tsv"):
        path.write_bytes("question\tanswer\nQ\tA\n".encode("utf-16"))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
        path.write_bytes(path.read_bytes()[:-30])
    capfd.readouterr()
    assert "which cannot be read: " in refusal(path)
    assert "Traceback" not in "".join(capfd.readouterr()) + caplog.text


def test_chats_with_and_without_a_system_turn(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps({"messages": chat}) + "\n" for chat in CHATS)
    )
    split = read(tmp_path / "p.jsonl", input="messages", references="messages")
    assert [show_example(text) for text in texts(split)] == [
        "system: Be brief\n\nuser: Capital of France?",
        "Two plus two?",
        "user: Hi\n\nassistant: Yes?\n\nuser: Bye",
    ]
    assert split.gold["references"].to_pylist() == [["Paris"], ["4"]]
    shown = read(
        tmp_path / "p.jsonl", template="{{ messages }}", input="messages", references="messages"
    )
    assert "Paris" not in texts(shown)[0]
    assert "France" in texts(shown)[0]


def test_an_object_of_answers_is_hinted_at(tmp_path: Path) -> None:
    row = {"question": "Capital?", "answers": {"text": ["Paris"], "answer_start": [0]}}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    assert "did you mean 'answers.text'?" in refusal(tmp_path / "p.jsonl", references="answers")
