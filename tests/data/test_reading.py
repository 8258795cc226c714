"""Whole splits through Ray Data: ids, limits, references, dead rows, and mistakes in the
configuration.
"""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from atgen_ray.config import DataConfig, PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.records import GOLD_SCHEMA, POOL_SCHEMA
from atgen_ray.data import Split, build_split, overlap

pytestmark = pytest.mark.usefixtures("ray_session")
ROWS: list[dict[str, Any]] = [
    {"q": f"question {n}", "a": f"answer {n}", "title": f"T{n}"} for n in range(40)
]


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(
    pool: Path, template: str = "{{ input }}", split: Any = "pool", seed: int = 0, **keys: Any
) -> Split:
    keys = {"input": "q", "references": "a", "duplicates": {"action": "off"}, **keys}
    return build_split(
        DataConfig(pool=str(pool), test=str(pool), **keys),
        PromptConfig(template=template),
        split,
        seed,
    )


def test_a_split_has_the_tables_of_the_records_module(tmp_path: Path) -> None:
    split = read(write(tmp_path / "pool.jsonl", ROWS), "{{ title }}: {{ input }}")
    assert split.examples.schema == POOL_SCHEMA
    assert split.gold.schema == GOLD_SCHEMA
    assert split.examples["row"].to_pylist() == list(range(40))
    assert split.examples["text"].to_pylist() == [f"T{n}: question {n}" for n in range(40)]
    assert split.examples["duplicate_of"].null_count == 40
    assert split.gold["id"].to_pylist() == split.examples["id"].to_pylist()
    assert split.gold["references"].to_pylist() == [[f"answer {n}"] for n in range(40)]
    assert split.dead == []


def test_ids_are_stable_and_tell_split_row_and_text_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "pool.jsonl", [*ROWS, ROWS[0]])
    first, again, test = read(path), read(path, seed=5), read(path, split="test")
    ids = first.examples["id"].to_pylist()
    assert again.examples["id"].to_pylist() == ids
    assert len(set(ids)) == 41
    assert set(ids).isdisjoint(test.examples["id"].to_pylist())
    assert test.examples["content"].to_pylist() == first.examples["content"].to_pylist()
    assert all(id_.isalnum() and 16 <= len(id_) <= 63 for id_ in ids)


def test_shards_do_not_matter(tmp_path: Path) -> None:
    rows = [*ROWS[:13], {"q": None}, *ROWS[13:]]
    whole = read(write(tmp_path / "one" / "pool.jsonl", rows), limit=11)
    for at, start in enumerate(range(0, len(rows), 6)):
        write(tmp_path / "many" / f"part-{at:03}.jsonl", rows[start : start + 6])
    parts = read(tmp_path / "many", limit=11)
    assert parts.examples.equals(whole.examples)
    assert parts.gold.equals(whole.gold)
    assert (
        [letter.id for letter in parts.dead] == [letter.id for letter in whole.dead] == ["row-13"]
    )


def test_content_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    mixed = random.Random(3).sample(ROWS, len(ROWS))
    one, two = read(write(tmp_path / "1.jsonl", ROWS)), read(write(tmp_path / "2.jsonl", mixed))

    def contents(split: Split) -> dict[str, str]:
        return dict(
            zip(
                split.examples["text"].to_pylist(),
                split.examples["content"].to_pylist(),
                strict=True,
            )
        )

    assert contents(one) == contents(two)


def test_limits_draw_a_seeded_subset_in_the_order_of_the_source(tmp_path: Path) -> None:
    path = write(tmp_path / "pool.jsonl", ROWS)
    rows = [read(path, limit=10, seed=seed).examples["row"].to_pylist() for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]
    assert all(len(each) == 10 and each == sorted(each) for each in rows)
    assert rows[0] != list(range(10))
    kept = read(path, limit=10, seed=1)
    assert kept.gold["id"].to_pylist() == kept.examples["id"].to_pylist()
    assert set(rows[0]) <= set(read(path, limit=20, seed=1).examples["row"].to_pylist())
    assert read(path, limit=1000).examples.num_rows == 40
    assert read(path, limit=3, test_limit=7, split="test").examples.num_rows == 7


def test_a_pool_needs_no_answers(tmp_path: Path) -> None:
    path = write(tmp_path / "pool.jsonl", [{"q": "one"}, {"q": "two"}])
    split = read(path, references=None)
    assert split.examples.num_rows == 2
    assert split.gold.num_rows == 0
    assert split.gold.schema == GOLD_SCHEMA


def test_rows_without_answers_stay_in_the_pool_but_not_in_the_test_set(tmp_path: Path) -> None:
    path = write(
        tmp_path / "pool.jsonl", [{"q": "one", "a": "1"}, {"q": "two"}, {"q": "three", "a": None}]
    )
    pool, test = read(path), read(path, split="test")
    assert pool.examples.num_rows == 3
    assert pool.gold["id"].to_pylist() == pool.examples["id"].to_pylist()[:1]
    assert pool.dead == []
    assert test.examples["text"].to_pylist() == ["one"]
    assert [(letter.id, letter.step) for letter in test.dead] == [
        ("test-row-1", "pool"),
        ("test-row-2", "pool"),
    ]
    assert "has no reference" in test.dead[0].reason


def test_the_test_set_may_have_other_answer_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.jsonl", [{"q": "one", "answers": {"text": ["1", "uno"]}, "alias": "I"}]
    )
    split = read(path, split="test", references=None, test_references=["answers.text", "alias"])
    assert split.gold["references"].to_pylist() == [["1", "uno", "I"]]
    with pytest.raises(
        UserError, match=r"data\.test_references names 'answer\.text'.*did you mean 'answers\.text'"
    ):
        read(path, split="test", references=None, test_references="answer.text")
    with pytest.raises(UserError, match=r"without data\.test_references"):
        read(path, split="test", references=None)


def test_bad_rows_are_dead_letters_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"q": "first", "a": 1}\r\n'
        b"\r\n"
        b'{"q": "cut off\n'
        b'{"q": "bad \xff byte"}\n'
        b'{"q": "half \\ud83d"}\n'
        b'{"q": null}\n'
        b'["a", "list"]\n'
        b'{"other": 1}\n' + b"[" * 50_000 + b"\n"
        b'{"q": ' + b"9" * 5000 + b"}\n"
        b'{"q": NaN}\n'
        b'{"q": "line \xe2\x80\xa8 separator {{ title }}", "a": ["x", {"deep": 1}]}\n'
        b'{"q": "line \xe2\x80\xa8 separator {{ title }}", "title": {"a": [1]}}\n'
        b'{"q": ["to", "be"], "title": 7}'
    )
    split = read(path)
    assert split.examples["text"].to_pylist() == [
        "first",
        "line \u2028 separator {{ title }}",
        "to be",
    ]
    assert split.examples["row"].to_pylist() == [0, 11, 12]
    reasons = {letter.id: letter.reason for letter in split.dead}
    assert list(reasons) == [f"row-{row}" for row in range(1, 11)]
    expected = [
        "not valid JSON",
        "not valid UTF-8",
        "not valid Unicode",
        "is empty",
        "of type list",
        "has no 'q'",
    ]
    expected += ["not usable JSON", "not usable JSON", "is empty", "is an object"]
    for (row, reason), part in zip(reasons.items(), expected, strict=True):
        assert part in reason, row
    assert reasons["row-1"].startswith("pool.jsonl line 3: ")


def test_reasons_never_quote_the_row(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text(
        '{"q": "x", "a": "SECRET}\n{"q": "fine", "a": "SECRET"}\n{"a": "SECRET", "q": {}}\n'
    )
    split = read(path)
    assert len(split.dead) == 2
    assert "SECRET" not in str(split.dead)


def test_near_duplicates_are_marked_in_the_pool_only(tmp_path: Path) -> None:
    long = (
        "the cat sat on the mat and looked at the dog for a very long time before it went "
        "away again to sleep"
    )
    texts = [long, "something else", f"{long}!", "something else", long.upper()]
    path = write(tmp_path / "pool.jsonl", [{"q": text, "a": "x"} for text in texts])
    marked = read(path, duplicates={"action": "mark"})
    ids = marked.examples["id"].to_pylist()
    assert marked.examples["duplicate_of"].to_pylist() == [None, None, ids[0], ids[1], ids[0]]
    assert read(path, duplicates={"action": "exclude"}).examples.equals(marked.examples)
    assert read(path, duplicates={"action": "off"}).examples["duplicate_of"].null_count == 5
    test = read(path, split="test", duplicates={"action": "mark"})
    assert test.examples["duplicate_of"].null_count == 5


def test_duplicates_point_at_rows_that_were_kept(tmp_path: Path) -> None:
    path = write(
        tmp_path / "pool.jsonl", [{"q": f"kind {n % 3} of question", "a": "x"} for n in range(30)]
    )
    examples = read(path, limit=12, duplicates={"action": "mark"}).examples.to_pylist()
    by_id = {example["id"]: example for example in examples}
    assert sum(example["duplicate_of"] is None for example in examples) == 3
    for example in examples:
        if example["duplicate_of"] is not None:
            original = by_id[example["duplicate_of"]]
            assert original["text"] == example["text"]
            assert original["row"] < example["row"]
            assert original["duplicate_of"] is None


def test_overlap_names_pool_rows_that_the_test_set_has_too(tmp_path: Path) -> None:
    pool = read(write(tmp_path / "pool.jsonl", [*ROWS[:5], {"q": "question 7", "a": "other"}]))
    test = read(write(tmp_path / "test.jsonl", [*ROWS[3:12]]), split="test")
    assert overlap(pool.examples, test.examples) == [
        pool.examples["id"][row].as_py() for row in (3, 4, 5)
    ]
    assert overlap(pool.examples, test.examples.slice(0, 0)) == []


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"input": "quest"},
            r"^data\.input names 'quest', a column that no row of '.*' has; known: a, n, n\.deep, "
            r"q, title$",
        ),
        ({"input": "titel"}, r"^data\.input names 'titel', .*; did you mean 'title'\?$"),
        (
            {"references": ["a", "n.deap"]},
            r"^data\.references names 'n\.deap', .*; did you mean 'n\.deep'\?$",
        ),
        (
            {"template": "{{ titel }}"},
            r"^prompt\.template names 'titel', which is no column; did you mean 'title'\?$",
        ),
        (
            {"template": "{{ input }} {{ a }}"},
            r"^prompt\.template names 'a', which holds answers; known: input, n, q",
        ),
        ({"template": "{{ input "}, r"^prompt\.template is not a valid Jinja2 template"),
        (
            {"template": "{{ title.author }}"},
            r"^data\.pool is '.*', of which no row is usable; the first: .*'author'",
        ),
    ],
)
def test_a_mistake_that_meets_every_row_is_the_users(
    tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    path = write(
        tmp_path / "pool.jsonl", [{"q": "x", "a": "1", "title": "T", "n": {"deep": 1}}] * 3 + [[]]
    )
    with pytest.raises(UserError, match=message):
        read(path, **keys)


def test_a_variable_that_some_rows_have_is_no_mistake(tmp_path: Path) -> None:
    path = write(tmp_path / "pool.jsonl", [{"q": "one", "hint": "h"}, {"q": "two"}])
    strict = read(path, "{{ input }} {{ hint }}", references=None)
    assert strict.examples["text"].to_pylist() == ["one h"]
    assert [letter.reason for letter in strict.dead] == [
        "pool.jsonl line 2: prompt.template: 'hint' is undefined"
    ]
    asked = read(path, "{{ input }}{% if hint is defined %} {{ hint }}{% endif %}", references=None)
    assert asked.examples["text"].to_pylist() == ["one h", "two"]


def test_no_usable_row_at_all(tmp_path: Path) -> None:
    path = write(tmp_path / "pool.jsonl", [{"q": ""}, {"q": None}])
    with pytest.raises(
        UserError, match=r"data\.pool is '.*', of which no row is usable; the first: .*'q' is empty"
    ):
        read(path, references=None)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match=r"data\.pool is '.*empty\.jsonl', which has no rows"):
        read(tmp_path / "empty.jsonl")


def test_answers_stand_in_the_gold_table_only(tmp_path: Path) -> None:
    rows = [
        {
            "q": f"row {n}",
            "a": {"text": [f"GOLD{n}", f"ALSO{n}"]},
            "b": f"MORE{n}",
            "bad": n % 4 or None,
        }
        for n in range(20)
    ]
    template = (
        "{{ input }}{% if a is defined %}{{ a }}{% endif %}{% if b is defined %}{{ b }}{% "
        "endif %} {{ 1 / bad }}"
    )
    split = read(write(tmp_path / "pool.jsonl", rows), template, references=["a.text", "b"])
    assert len(split.dead) == 5
    visible = str(split.examples.to_pylist()) + str(split.dead)
    assert not any(secret in visible for secret in ("GOLD", "ALSO", "MORE"))
    assert split.gold.num_rows == 15


def test_progress_ends_at_the_number_of_rows(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    path = write(tmp_path / "pool.jsonl", ROWS)
    data = DataConfig(pool=str(path), input="q", references="a")
    build_split(data, PromptConfig(), "pool", 0, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (40, 40)
    assert calls == sorted(calls)


def test_ray_datas_own_settings_stay_as_they_were(tmp_path: Path) -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    before = (context.execution_options.preserve_order, context.enable_progress_bars)
    read(write(tmp_path / "pool.jsonl", ROWS))
    assert DataContext.get_current() is context
    assert (context.execution_options.preserve_order, context.enable_progress_bars) == before


def test_texts_of_several_blocks_keep_their_order(tmp_path: Path) -> None:
    rows = [{"q": f"{n} " + "x" * 1500, "a": str(n)} for n in range(6000)]
    split = read(write(tmp_path / "pool.jsonl", rows))
    assert isinstance(split.examples["text"], pa.ChunkedArray)
    assert [int(text.split()[0]) for text in split.examples["text"].to_pylist()] == list(
        range(6000)
    )
    assert split.gold["references"].to_pylist() == [[str(n)] for n in range(6000)]


def test_a_folder_holds_a_split_a_file_however_it_is_named(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train-00000-of-00002.jsonl", ROWS[:3])
    write(tmp_path / "set" / "train-00001-of-00002.jsonl", ROWS[3:5])
    write(tmp_path / "set" / "dev.jsonl", ROWS[5:7])
    folder: dict[str, Any] = {"path": str(tmp_path / "set"), "test_split": "validation"}
    assert read(Path("some/hub-id"), **folder).examples.num_rows == 5
    assert read(Path("some/hub-id"), split="test", **folder).examples["text"].to_pylist() == [
        "question 5",
        "question 6",
    ]
    with pytest.raises(
        UserError, match=r"data.path is .*, which has no file of split 'test'; it has dev, train"
    ):
        read(Path("some/hub-id"), split="test", path=str(tmp_path / "set"))


def test_a_split_may_be_a_part_of_the_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "pool.jsonl", [*ROWS[:10], {"q": None}])
    part = read(path, pool_split="train[2:5]")
    assert part.examples["row"].to_pylist() == [2, 3, 4]
    assert part.dead == []
    assert read(path, pool_split="train[8:]").examples["row"].to_pylist() == [8, 9]
    with pytest.raises(UserError, match=r"data.pool_split is 'train\[x\]', expected a name"):
        read(path, pool_split="train[x]")


def test_rows_of_one_text_are_merged_with_all_their_references(tmp_path: Path) -> None:
    rows = [{"q": "a", "a": "1"}, {"q": "b", "a": "2"}, {"q": "a", "a": ["3", "1"]}]
    merged = read(write(tmp_path / "pool.jsonl", rows), merge_repeats=True)
    assert merged.examples["row"].to_pylist() == [0, 1]
    assert merged.gold["references"].to_pylist() == [["1", "3"], ["2"]]


def test_answers_that_are_whole_numbers_are_written_as_such(tmp_path: Path) -> None:
    lines = tmp_path / "pool.jsonl"
    lines.write_text('{"q": "x", "a": 51.0}\n{"q": "y", "a": 7}\n{"q": "z", "a": 2.5}\n')
    parquet = tmp_path / "pool.parquet"  # as pandas writes a column of integers that has nulls
    column = pa.array([51.0, 7.0, None], pa.float64())
    pyarrow.parquet.write_table(pa.table({"q": ["x", "y", "z"], "a": column}), parquet)
    assert read(lines).gold["references"].to_pylist() == [["51"], ["7"], ["2.5"]]
    assert read(parquet).gold["references"].to_pylist() == [["51"], ["7"]]
    made = read(parquet, reference_template="so #### {{ a }}")
    assert made.gold["references"].to_pylist() == [["so #### 51"], ["so #### 7"]]


def test_a_template_makes_the_reference(tmp_path: Path) -> None:
    path = write(tmp_path / "pool.jsonl", [{"q": "x", "a": 1}, {"q": "y", "a": "no number"}])
    made = read(path, reference_template="{{ 'ABCD'[a] }}")
    assert made.gold["references"].to_pylist() == [["B"]]
    assert next(letter.reason for letter in made.dead).startswith(
        "pool.jsonl line 2: data.reference_template: "
    )
    with pytest.raises(UserError, match=r"data\.reference_template is not a valid Jinja2 template"):
        read(path, reference_template="{{ x")
