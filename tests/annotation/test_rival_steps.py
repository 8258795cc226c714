"""A whole run with every rival, without Ray: workers are functions in this process, the larger
model is a stand-in provider.
"""

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers.annotation_desk import PRICE, quiet
from helpers.fakes.provider import FakeProvider

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.errors import RunPaused
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.data.in_process import reading_in_process
from atgen_ray.engines.base import OUTPUT_SCHEMA
from atgen_ray.engines.generation import gather_features
from atgen_ray.evaluation.aggregation import score_cases
from atgen_ray.reporting import collect_run
from atgen_ray.runs.controller import Controller
from atgen_ray.runs.queries import describe_run
from atgen_ray.runs.workers import RAY_WORKERS, Workers
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.text.conversation import read_conversation
from atgen_ray.training import TrainingResult

TEST = 12
GOOD = "Answer with the colour."


class StillEngine:
    """An engine that holds nothing; `answer` does its work."""

    name = "transformers"
    scores_answers = True

    def released(self, run: str) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None: ...


def say(text: str, tuned: bool) -> str:
    """What the model says: tuned, the colour of the group of a question; untuned, the last answer
    that it was shown, or nothing of use; with the good instruction, the colour.
    """
    conversation = read_conversation(text)
    turns = conversation.turns if conversation else ()
    question = conversation.last_question if conversation else text
    colour = f"colour {question.split()[-1]}"
    shown = [turn.content for turn in turns if turn.role == "assistant"]
    if tuned or any(turn.content == GOOD for turn in turns):
        return colour
    return shown[-1] if shown else "I cannot say"


def point(text: str) -> list[float]:
    """The vector of a text: its group."""
    return [float(text.split()[-1] == str(at)) + 0.01 for at in range(3)]


def make_workers(seen: list[str], embedded: list[int]) -> Workers:
    """Workers in this process; `seen` receives what the untuned model is asked, and `embedded` how
    many texts each call for vectors has.
    """

    def embed(texts: pa.Table, space: Any) -> pa.Table:
        embedded.append(len(texts))
        vectors = [*map(point, texts["text"].to_pylist())]
        return pa.table({"content": texts["content"], "embedding": vectors})

    def generate(
        engine: Any, rows: pa.Table, request: Any, adapter: Any, *rest: Any, **more: Any
    ) -> pa.Table:
        made = []
        for row in rows.to_pylist():
            seen.extend([] if adapter else [row["text"]])
            text = say(row["text"], adapter is not None)
            fixed = {"sample": 0, "prompt_tokens": 3, "finish_reason": "stop", "error": None}
            numbers = {"token_ids": [1], "logprobs": [-0.5], "entropies": [0.5]}
            made.append({"id": row["id"], "text": text, "top_logprobs": [[-0.5]]} | fixed | numbers)
        return gather_features(rows["id"], pa.Table.from_pylist(made, OUTPUT_SCHEMA))

    def train(examples: Any, *rest: Any, **more: Any) -> TrainingResult:
        Path(more["output"], "adapter_config.json").write_text("{}")
        Path(more["output"], "adapter_model.safetensors").write_text("weights")
        return TrainingResult([{"step": 1, "loss": 0.5}], len(examples), 10, 2)

    return replace(
        RAY_WORKERS,
        survey=lambda *rest: {"node": {"engine": "transformers"}},
        count_gpus_of=lambda engine: 0.0,
        estimate_run=lambda *rest: {},
        embed_apart=embed,
        explain_choice=lambda *rest: {"engine": "transformers"},
        build_engine=lambda *rest: StillEngine(),  # type: ignore[arg-type]
        generate_features=generate,
        check_adapter=lambda *rest: None,
        train_adapter=train,
        score=score_cases,
    )


def configure(
    folder: Path, model: str, provider: FakeProvider, rivals: list[Any], **more: Any
) -> RunConfig:
    for name, count in (("pool", 24), ("test", TEST)):
        rows = [
            {"q": f"{name} {at} group {at % 3}", "a": f"colour {at % 3}"} for at in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data: dict[str, Any] = {"duplicates": {"action": "off"}, "input": "q", "references": "a"}
    data |= {"pool": f"{folder}/pool.jsonl", "test": f"{folder}/test.jsonl"}
    tree = {
        "name": "rivals",
        "storage": f"{folder}/storage",
        "data": data,
        "model": {"id": model, "max_prompt_tokens": 120},
        "annotator": {"price_per_label": 0.5},
        "selection": {"strategy": "random", "count": 9},
        "stopping": {"rounds": 1},
        "evaluation": {"metrics": ["exact_match", "nll"], "rivals": rivals},
    }
    return parse_config(tree | more)


def make_larger(provider: FakeProvider) -> dict[str, Any]:
    larger = {"type": "openai", "model": "fake", "base_url": provider.openai, "price": PRICE}
    return {"type": "larger", "model": larger | {"guidelines": "Name it.", "max_output_tokens": 20}}


def drive(
    config: RunConfig, seen: list[str], embedded: list[int] | None = None
) -> tuple[Journal, RunFolder]:
    """The run as the same command does it, to its end."""
    journal = open_journal(config.storage)
    journal.create_run(config.name, dump_config(config), "")
    lease = journal.acquire(config.name, ProcessIdentity("us"), 600, takeover=True)
    folder = RunFolder(config.storage, config.name)
    workers = make_workers(seen, [] if embedded is None else embedded)
    try:
        with reading_in_process():
            Controller(config, journal, lease, folder, ProgressTracker(), quiet, workers).run()
    finally:
        lease.release()
    return journal, folder


def test_rivals_answer_the_same_examples_and_are_asked_once(
    tiny_model: str, provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-rivals")
    tried = {"type": "prompt", "instructions": [GOOD, "Be quick"], "proposals": 2, "held_out": 3}
    rivals = ["zero_shot", "knn", {"type": "few_shot", "k": 2}, tried, make_larger(provider)]
    config = configure(tmp_path, tiny_model, provider, rivals)
    seen = list[str]()
    embedded = list[int]()
    journal, folder = drive(config, seen, embedded)
    assert embedded == [TEST + 9]  # for both rivals that look for the nearest labels
    found = folder.read_json("rivals.json")
    named = {each["name"]: each for each in found["rivals"]}
    assert {*named} == {
        "zero-shot",
        "nearest label",
        "few-shot (2)",
        "searched prompt",
        "fake, zero-shot",
    }
    # The nearest label is of the same group; the untuned model repeats it; the search finds the
    # instruction that helps; the stand-in answers something else.
    scores = {name: each["metrics"]["exact_match"]["mean"] for name, each in named.items()}
    assert scores == {
        "zero-shot": 0,
        "nearest label": 1,
        "few-shot (2)": 1,
        "searched prompt": 1,
        "fake, zero-shot": 0,
    }
    assert all(each["metrics"]["exact_match"]["count"] == TEST for each in named.values())
    assert f"instruction: {GOOD}" in named["searched prompt"]["notes"]
    assert "2 labels shown on average" in named["few-shot (2)"]["notes"]
    likelihood = {name for name, each in named.items() if "nll" in each["metrics"]}
    assert likelihood == {"zero-shot", "few-shot (2)", "searched prompt"}
    assert any("no nll" in note for note in named["nearest label"]["notes"])
    assert found["finding"] == "not shown"
    assert "scores 1.00 (1.00 to 1.00) by Exact match; the best rival" in found["said"]
    # No question of the test set is in a request for an instruction, or was tried on one.
    searched = folder.read_json(
        next(f"{path}/rival.json" for path in folder.list("rounds/001/rivals") if "prompt-" in path)
    )
    assert (searched["held_out"], searched["chosen_by"]) == (3, "exact_match")
    assert [each["score"] for each in searched["tried"]][:2] == [1.0, 0.0]
    written = [text for text in seen if "Write the instruction" in text]
    assert len(written) == 2
    assert not any("test " in text for text in written)
    # What the larger model costs is paid, and is in no point of the curve.
    bills = provider.bills()
    assert len(bills) == TEST
    dollars = sum(bill.prompt + bill.output for bill in bills) / 1000
    larger = named["fake, zero-shot"]
    assert larger["dollars_per_thousand"] == pytest.approx(1000 * dollars / TEST)
    assert [row["dollars"] for row in folder.read_json("metrics.json")] == [0.0, 4.5]
    shown = describe_run(journal, config.storage, config.name)
    assert shown["dollars"] == pytest.approx(4.5 + dollars)
    assert shown["rivalry"] == found
    view = collect_run(folder)
    assert view.rivalry is not None
    assert view.rivalry.said == found["said"]
    # The same again does nothing; a further rival is scored alone.
    asked = len(seen)
    drive(config, seen)
    more = {"type": "few_shot", "k": 1}
    drive(configure(tmp_path, tiny_model, provider, [*rivals, more]), seen)
    assert len(seen) == asked + 2 * TEST  # answers, and the likelihood of references
    assert len(provider.bills()) == TEST
    names = [each["name"] for each in folder.read_json("rivals.json")["rivals"]]
    assert sorted(names) == sorted([*named, "few-shot (1)"])


def test_a_rival_without_money_pauses_the_run_and_pays_nothing_twice(
    tiny_model: str, provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-rivals")
    rivals = ["knn", make_larger(provider)]
    poor = configure(tmp_path, tiny_model, provider, rivals, stopping={"rounds": 1, "dollars": 5.5})
    with pytest.raises(RunPaused, match=r"evaluation\.rivals\.1\.model from answering \d+ of 12"):
        drive(poor, [])
    before = len(provider.bills())
    assert 0 < before < TEST
    journal, folder = drive(configure(tmp_path, tiny_model, provider, rivals), [])
    assert len(provider.bills()) == TEST
    steps = [event.step for event in journal.steps("rivals")]
    assert steps.count("rival-knn") == 1
    assert len(folder.read_json("rivals.json")["rivals"]) == 3
