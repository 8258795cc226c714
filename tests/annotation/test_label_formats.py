"""Files of Argilla, Label Studio and Prodigy, written by hand from their formats: what is read, what
is passed over, and what becomes of it in a run.
"""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers.command_line import call
from helpers.human_desk import HumanDesk

from atgen_ray.annotation.human.exchange.imported_labels import ImportedLabel
from atgen_ray.annotation.human.exchange.label_export import read_tasks, write_answers
from atgen_ray.annotation.human.exchange.label_files import read_rows
from atgen_ray.annotation.human.exchange.label_formats import (
    FORMATS,
    LabelFile,
    parse_mapping,
    read_label_rows,
    tell_format,
)
from atgen_ray.annotation.human.exchange.label_import import import_file, import_labels
from atgen_ray.annotation.human.queue import Queue
from atgen_ray.core.errors import UserError
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_folder import RunFolder

USER = "7f0d0c1a-0b6e-4b52-9d55-0d8d6a3f6e11"
ARGILLA_2 = [
    {
        "id": "r1",
        "fields": {"text": "text 0"},
        "metadata": {},
        "suggestions": {"summary": {"value": "draft", "score": 0.4, "agent": "m"}},
        "responses": {
            "summary": [{"value": "one", "user_id": USER}, {"value": "two", "user_id": "u2"}],
            "rating": [{"value": 3, "user_id": USER}],
        },
        "vectors": {},
        "status": "completed",
        "_server_id": "s1",
    },
    {"id": "r2", "fields": {"text": "text 1"}, "responses": {}, "status": "pending"},
]
ARGILLA_2_FLAT = [
    {
        "id": "r1",
        "status": "completed",
        "_server_id": "s1",
        "text": "text 0",
        "summary.responses": ["one", "two", "no"],
        "summary.responses.users": [USER, "u2", "u3"],
        "summary.responses.status": ["submitted", "submitted", "draft"],
        "summary.suggestion": "draft",
        "summary.suggestion.agent": "m",
    }
]
ARGILLA_1 = [
    {
        "fields": {"text": "text 0"},
        "responses": [
            {"user_id": USER, "values": {"summary": {"value": "one"}}, "status": "submitted"},
            {"user_id": "u2", "values": {"summary": {"value": "two"}}, "status": "submitted"},
            {"user_id": "u3", "values": {}, "status": "discarded"},
        ],
        "suggestions": [{"question_name": "summary", "value": "draft"}],
        "external_id": "r1",
    }
]
ARGILLA_1_HUB = [
    {
        "text": "text 0",
        "summary": [
            {"user_id": USER, "value": "one", "status": "submitted"},
            {"user_id": "u2", "value": "two", "status": "submitted"},
            {"user_id": "u3", "value": "no", "status": "discarded"},
        ],
        "summary-suggestion": "draft",
        "external_id": "r1",
        "metadata": "{}",
    }
]
ARGILLA_TEXT2TEXT = [
    {
        "text": "text 0",
        "prediction": [{"text": "draft", "score": 0.5}],
        "annotation": "one",
        "annotation_agent": USER,
        "status": "Validated",
        "event_timestamp": None,
    },
    {
        "text": "text 1",
        "prediction": None,
        "annotation": "no",
        "annotation_agent": USER,
        "status": "Discarded",
    },
]


def annotate(text: str | None, by: Any, **more: Any) -> dict[str, Any]:
    """An annotation of Label Studio."""
    value = {"value": {"text": [text]}, "from_name": "summary", "to_name": "text"}
    result = [] if text is None else [value | {"type": "textarea", "id": "x"}]
    return {"result": result, "completed_by": by, "lead_time": 4.5, "was_cancelled": False} | more


STUDIO = [
    {
        "id": 7,
        "data": {"text": "text 0"},
        "annotations": [
            annotate("one", 1),
            annotate("two", {"id": 2, "email": "u2"}),
            annotate(None, 3, was_cancelled=True),
        ],
        "predictions": [{"result": [{"value": {"text": ["draft"]}}]}],
    },
    {"id": 8, "data": {"text": "text 1"}, "annotations": []},
]
STUDIO_MIN = [
    {
        "text": "text 0",
        "id": 7,
        "summary": "one",
        "annotator": 1,
        "annotation_id": 11,
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
        "lead_time": 4.5,
    }
]


def prodigy(text: str, said: str | None, answer: str = "accept", by: str = "d-ann") -> Any:
    """A line of `prodigy db-out`."""
    marks = {"_input_hash": 1, "_task_hash": 2, "_timestamp": 1_700_000_000, "_view_id": "blocks"}
    typed = {} if said is None else {"user_input": said}
    who = {"_annotator_id": by, "_session_id": by}
    return {"text": text, "answer": answer} | typed | marks | who


PRODIGY = [
    prodigy("text 0", "one"),
    prodigy("text 0", "two", by="d-bob"),
    prodigy("text 1", "no", "reject"),
    prodigy("text 2", None, "ignore"),
]
CHOICE = {
    "text": "text 0",
    "options": [{"id": "A", "text": "one"}, {"id": "B", "text": "two"}],
    "accept": ["A"],
    "answer": "accept",
    "_task_hash": 3,
}


def said(found: LabelFile) -> list[tuple[str | None, str, str | None]]:
    """Input, text and annotator of each label."""
    return [
        (row.input, answer.text, answer.annotator) for row in found.rows for answer in row.answers
    ]


@pytest.mark.parametrize(
    ("rows", "format", "people", "passed"),
    [
        (ARGILLA_2, "argilla", [USER, "u2"], 0),
        (ARGILLA_2_FLAT, "argilla", [USER, "u2"], 1),
        (ARGILLA_1, "argilla", [USER, "u2"], 0),
        (ARGILLA_1_HUB, "argilla", [USER, "u2"], 1),
        (STUDIO, "label-studio", ["1", "u2"], 1),
        (PRODIGY, "prodigy", ["d-ann", "d-bob"], 2),
    ],
)
def test_answers_are_read_and_what_is_none_is_counted(
    rows: list[Any], format: str, people: list[str], passed: int
) -> None:
    assert tell_format(rows) == format
    mapping = {"text": "user_input" if format == "prodigy" else "summary"}
    found = read_label_rows(rows, "it", mapping=mapping)
    assert said(found) == [("text 0", "one", people[0]), ("text 0", "two", people[1])]
    assert sum(row.passed for row in found.rows) == passed


def test_single_labels_of_older_and_smaller_formats() -> None:
    found = read_label_rows(ARGILLA_TEXT2TEXT, "it")
    assert said(found) == [("text 0", "one", USER)]
    assert sum(row.passed for row in found.rows) == 1
    found = read_label_rows(STUDIO_MIN, "it")
    assert [each[1:] for each in said(found)] == [("one", "1")]
    assert found.mapping == {"text": "summary"}
    assert said(read_label_rows([CHOICE], "it")) == [("text 0", "one", None)]
    assert [answer.seconds for row in read_label_rows(STUDIO, "it").rows for answer in row.answers] == [
        4.5,
        4.5,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "keys", "told"),
    [
        (STUDIO, {"format": "argilla"}, "no export of argilla: expected records with fields and"),
        (STUDIO, {"format": "argila"}, "format is 'argila', expected one of auto, argilla"),
        (STUDIO, {"mapping": {"text": "sumary"}}, "answers to 'sumary'; did you mean 'summary'?"),
        (STUDIO, {"mapping": {"input": "txt"}}, "has no field 'txt'; did you mean 'text'?"),
        (STUDIO, {"mapping": {"txt": "a"}}, "the mapping of 'txt' is unknown; did you mean 'text'"),
        (
            [
                ARGILLA_2[0]
                | {"responses": {"a": [{"value": "x"}], "b": [{"value": "y"}]}, "suggestions": {}}
            ],
            {},
            "has answers to a, b: expected text=QUESTION in the mapping",
        ),
        ([{"Frage": "q", "Antwort": "a"}], {}, "columns are Frage, Antwort: expected a mapping as"),
        (
            [{"article": "q", "summary": "a", "worker": "w"}],
            {},
            "expected a mapping as input=article,text=summary,annotator=worker",
        ),
        ([{"id": "e", "txt": "a"}], {}, "columns are id, txt: expected a mapping as text=txt"),
        ([{"id": "e", "text": "a"}], {"mapping": {"text": "txt"}}, "has no column 'txt'; did you"),
        ([[1]], {}, "row 1, expected texts under the names text"),
    ],
)
def test_what_cannot_be_read_is_one_line(rows: list[Any], keys: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as refusal:
        read_label_rows(rows, "FILE is 'x'", **keys)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_mapping_names_columns_also_with_commas() -> None:
    assert parse_mapping(["input=a, b,text=c.d", "annotator=e"]) == {
        "input": "a, b",
        "text": "c.d",
        "annotator": "e",
    }
    with pytest.raises(UserError, match=r"--map is 'a=b', expected some of input=COLUMN"):
        parse_mapping(["a=b"])


def make_desk(folder: Path, count: int = 3, **settings: Any) -> HumanDesk:
    """A run with a pool, in a storage of its own."""
    folder.mkdir(exist_ok=True)
    desk = HumanDesk(Journal(f"sqlite:///{folder}/atgen.db"), count, **settings)
    pool = [{"id": id_, "text": text} for id_, text in desk.texts.items()]
    RunFolder(str(folder), desk.run).write_table("pool.parquet", pa.Table.from_pylist(pool))
    return desk


def give(queue: Queue, id_: str, state: Any, text: str, seconds: float | None = None) -> None:
    """Lease tasks until the one with that id is among them, and answer it."""
    queue.lease(3)
    queue.answer(f"{id_}-{text}", id_, state, text, seconds)


def answers(desk: HumanDesk) -> set[tuple[Any, ...]]:
    """All that people answered, without times of day."""
    return {
        (task["id"], answer["annotator"], answer["text"], answer["seconds"])
        for task in read_tasks(desk.journal, desk.run)
        for answer in task["answers"]
        if answer["state"] == "submitted"
    }


@pytest.mark.parametrize(
    ("rows", "mapping"), [(ARGILLA_2, "text=summary"), (STUDIO, None), (PRODIGY, None)]
)
def test_the_command_rehearses_and_imports(
    tmp_path: Path, rows: list[Any], mapping: str | None
) -> None:
    desk = make_desk(tmp_path / "one", adjudicate_below=0.0)
    file = tmp_path / "labels.json"
    unknown = json.loads(json.dumps(rows[:1]).replace("text 0", "text of another pool"))
    file.write_text(json.dumps([*rows, *unknown]))
    options = ["--storage", str(tmp_path / "one"), *(["--map", mapping] if mapping else [])]
    lost = 1 if rows is PRODIGY else 2
    dry = call("runs", "import", desk.run, str(file), "--dry-run", *options)
    assert dry.out.startswith(f"2 labels would be imported, 0 known before, {lost} refused"), dry
    assert answers(desk) == set()
    done = call("runs", "import", desk.run, str(file), *options)
    assert done.out.startswith(f"2 labels imported, 0 known before, {lost} refused")
    assert done.out.splitlines()[-1] == f"row {len(rows) + 1}: the pool has no such example"
    assert {(id_, text) for id_, _, text, _ in answers(desk)} == {("e00", "one"), ("e00", "two")}
    again = call("runs", "import", desk.run, str(file), *options)
    assert again.out.startswith(f"0 labels imported, 2 known before, {lost} refused")


def test_answers_that_differ_go_to_dispute_and_other_labels_are_conflicts(tmp_path: Path) -> None:
    desk = make_desk(tmp_path / "one")
    file = tmp_path / "labels.jsonl"
    rows = [
        {"input": "text 0", "text": "one", "annotator": "ann"},
        {"input": "text 0", "text": "something else", "annotator": "bob"},
        {"input": "text 1", "text": "one", "annotator": "ann"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert import_file(desk.run, str(tmp_path / "one"), None, file)["imported"] == 3
    states = {task["id"]: task["task"] for task in read_tasks(desk.journal, desk.run)}
    assert states == {"e00": "disputed", "e01": "answered"}
    file.write_text(json.dumps(rows[2] | {"text": "two"}) + "\n" + json.dumps(rows[2]) + "\n")
    found = import_file(desk.run, str(tmp_path / "one"), None, file)
    assert (found["conflicting"], found["unknown"], found["known"]) == (1, 0, 1)


def test_more_answers_than_a_published_task_asks_for_all_count(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On both databases: tasks that people were asked, in more than one part."""
    monkeypatch.setattr("atgen_ray.annotation.human.exchange.label_import.PART", 20)
    desk = HumanDesk(journal, 25, adjudicate_below=0.0)
    desk.publish_tasks()
    labels = [
        ImportedLabel(f"label {at}", f"e{at:02d}", annotator=name, seconds=1.5)
        for at in range(25)
        for name in ("ann", "bob")
    ]
    other = [ImportedLabel("other", "e00", annotator="ann"), ImportedLabel("x", "e900")]
    expected = {"imported": 50, "known": 0, "unknown": 1, "conflicting": 1}
    for rehearse in (True, False):
        found = import_labels(journal, desk.run, desk.texts, labels + other, rehearse)
        assert found | expected == found
        assert [each["place"] for each in found["refused"]] == [50, 51]
    again = import_labels(journal, desk.run, desk.texts, labels)
    assert (again["imported"], again["known"]) == (0, 50)
    tasks = read_tasks(journal, desk.run)
    assert {task["task"] for task in tasks} == {"answered"}
    assert {len(task["answers"]) for task in tasks} == {2}


def test_examples_are_found_by_the_prompt_that_their_columns_make(tmp_path: Path) -> None:
    desk = make_desk(tmp_path / "one")
    pool = [{"id": "p", "text": "Title: A\n\nB"}, {"id": "q", "text": "white   space"}]
    RunFolder(str(tmp_path / "one"), desk.run).write_table(
        "pool.parquet", pa.Table.from_pylist(pool)
    )
    config = desk.journal.run(desk.run).config
    config["prompt"]["template"] = "Title: {{ title }}\n\n{{ input }}"
    config["data"]["input"] = "body"
    desk.journal.create_run("templated", config, "")
    RunFolder(str(tmp_path / "one"), "templated").write_table(
        "pool.parquet", pa.Table.from_pylist(pool)
    )
    file = tmp_path / "labels.csv"
    file.write_text("title;body;text\nA;B;label\nX;white space;other\nX;Y;lost\n")
    mapping = {"input": "body"}
    found = import_file("templated", str(tmp_path / "one"), None, file, mapping=mapping)
    assert (found["imported"], found["unknown"]) == (2, 1)


@pytest.mark.parametrize("format", ["jsonl", "csv", "argilla", "label-studio"])
def test_an_export_read_back_has_the_same_answers(tmp_path: Path, format: str) -> None:
    desk = make_desk(tmp_path / "one", 3, overlap=2, skips=5)
    desk.publish_tasks()
    ann, bob = desk.queue("ann"), desk.queue("bob@x.org")
    for queue, text in ((ann, 'one "é",\n🙂'), (bob, "quite another")):
        give(queue, "e00", "submitted", text, 2.5)
        give(queue, "e01", "submitted", "the same")
    give(ann, "e02", "skipped", "no sense")
    ending = "json" if format in ("argilla", "label-studio") else format
    path = tmp_path / f"out.{ending}"
    place = ("--storage", str(tmp_path / "one"))
    done = call(
        "runs", "export", desk.run, "--what", "answers", "--format", format, "--output", str(path),
        *place,
    )  # fmt: skip
    assert done.out == f"5 answers: {path}\n", done
    fresh = make_desk(tmp_path / "two", 3)
    found = import_file(fresh.run, str(tmp_path / "two"), None, path)
    assert (found["imported"], found["passed"], found["refused"]) == (4, 1, [])
    assert answers(fresh) == answers(desk)
    assert {task["task"] for task in read_tasks(fresh.journal, fresh.run)} == {
        "answered",
        "disputed",
    }


def test_an_exported_row_says_all_that_is_known_of_an_answer(tmp_path: Path) -> None:
    desk = make_desk(tmp_path / "one", 1, overlap=2, adjudicate_below=0.0)
    desk.publish_tasks()
    for name, text in (("ann", "one"), ("bob", "two")):
        give(desk.queue(name), "e00", "submitted", text, 3.0)
    assert write_answers(desk.journal, desk.run, "csv", tmp_path / "a.csv") == 2
    rows = list(csv.DictReader((tmp_path / "a.csv").open(encoding="utf-8")))
    assert [row["annotator"] for row in rows] == ["ann", "bob"]
    assert (rows[0]["suggestion"], rows[0]["guidelines"]) == ("draft of e00", "1")
    assert (rows[0]["task"], rows[0]["label"], rows[0]["seconds"]) == ("answered", "one", "3.0")
    assert float(rows[0]["agreement"]) < 1
    done = call(
        "runs", "export", desk.run, "--what", "people", "--storage", str(tmp_path / "one")
    )  # fmt: skip
    assert done.status == 2
    assert done.err.startswith("error: --what is 'people', expected a known kind; known: adapter, ")


def test_every_format_is_named(tmp_path: Path) -> None:
    assert FORMATS == ("argilla", "label-studio", "prodigy", "rows")
    (tmp_path / "x.json").write_text("nonsense")
    with pytest.raises(UserError, match="cannot be read: it is not JSON"):
        read_rows(tmp_path / "x.json", "it is")
