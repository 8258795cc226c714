"""The character between the fields of a CSV file, as spreadsheets and databases write them."""

from pathlib import Path

import pytest

from atgen_ray.config import DataConfig, PromptConfig
from atgen_ray.data import build_split
from atgen_ray.data.csv_layout import HEAD, tell_delimiter
from atgen_ray.data.in_process import reading_in_process


@pytest.mark.parametrize(
    ("head", "delimiter"),
    [
        ("text;answer\na, b;c\nd;e\n", ";"),
        ("text\tanswer\na, b; c\td\n", "\t"),
        ("text|answer\na|b\n", "|"),
        ("text,answer\na;b,c\n", ","),
        ("text,answer;note\na,b\nc,d\n", ","),
        ("text\nno delimiter; in the header, though in a row\n", ","),
        ("question; and more\none\ntwo\n", ","),
        ('text;answer\n"a;\nb";c\n', ";"),
        ("text;answer\n", ";"),
        ("a;b\n" + "x;y\n" * HEAD, ";"),
        ("", ","),
        ("\0", ","),
    ],
)
def test_the_delimiter_is_told_by_the_rows(head: str, delimiter: str) -> None:
    assert tell_delimiter(head[:HEAD]) == delimiter


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
def test_a_pool_is_read_by_its_own_delimiter(tmp_path: Path, delimiter: str, mark: bytes) -> None:
    rows = ["text|answer", '"one, two; three"|é', "four|five"]
    text = "\n".join(row.replace("|", delimiter) for row in rows)
    (tmp_path / "pool.csv").write_bytes(mark + text.encode())
    data = DataConfig(
        pool=str(tmp_path / "pool.csv"),
        input="text",
        references="answer",
        duplicates={"action": "off"},  # type: ignore[arg-type]
    )
    with reading_in_process():
        split = build_split(data, PromptConfig(), "pool", 0)
    assert split.examples["text"].to_pylist() == ["one, two; three", "four"]
    assert split.gold["references"].to_pylist() == [["é"], ["five"]]
    assert split.dead == []
