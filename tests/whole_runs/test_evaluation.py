"""Whole runs that are judged in other ways than by their test set, and tuned in other ways than by
LoRA.
"""

import json
from collections.abc import Callable
from typing import Any

from helpers.projects import Project

from atgen_ray.text.conversation import read_conversation

CLOSING: list[list[dict[str, Any]]] = [
    [{"role": "assistant", "content": "Sum"}],
    [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}],
        }
    ],
]
QUICK = ["selection.strategy=random", "--name"]


def test_few_shot_beside_zero_shot_and_a_dev_target_of_any_metric(
    ray_session: None, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    dev = ["evaluation.few_shot=2", "evaluation.dev_fraction=0.4", "stopping.dev_target={chrf: 0}"]
    done = project.call("run", "sort.yaml", *QUICK, "shots", *dev)
    assert done.returncode == 0, done.stderr
    assert "dev target reached" in done.stdout
    start, first = project.read("shots", "metrics.json")
    assert set(first["few_shot_metrics"]) == set(start["metrics"]) >= {"chrf", "rougeL"}
    assert (
        first["dev_metrics"]["chrf"]["count"]
        == first["labels"] - project.read("shots", "rounds/001/training.json")["examples"]
    )
    assert "\nshots" in done.stdout
    assert "few-shot" in (project.folder / "atgen-runs/runs/shots/report.html").read_text()
    zero, few = (
        project.read("shots", file)
        for file in ("rounds/000/predictions.jsonl", "rounds/001/few_shot.jsonl")
    )
    assert [row["id"] for row in zero] == [row["id"] for row in few]
    assert [row["prediction"] for row in zero] != [row["prediction"] for row in few]
    assert all(row["scores"].keys() == first["few_shot_metrics"].keys() for row in few)


def test_a_round_on_conversations_with_tools(
    ray_session: None, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    tool = {"name": "add", "parameters": {"type": "object", "properties": {"a": {}}}}
    for name, count in (("pool", 9), ("test", 3)):
        rows = [
            {
                "messages": [
                    {"role": "system", "content": f"Be brief in {name}."},
                    {"role": "user", "content": f"Hello {at}?"},
                    {"role": "assistant", "content": "Hi"},
                    {"role": "user", "content": f"Add {at} in words of the {name}"},
                    *CLOSING[at % 2],
                ],
                "tools": [tool],
            }
            for at in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (project.folder / f"{name}.jsonl").write_text(text)
    keys = [
        "data.input=messages", "data.references=messages",
        "model.max_prompt_tokens=400", "selection.strategy=te_delfy", "selection.count=4",
        "training.turns=all", "evaluation.metrics=[whole_calls,chrf]",
        "evaluation.zero_shot=false", "stopping.rounds=1",
    ]  # fmt: skip
    done = project.call("run", "sort.yaml", "--name", "talk", *keys)
    assert done.returncode == 0, done.stderr
    pool = {row["id"]: row["text"] for row in project.read("talk", "pool.parquet")}
    asked = read_conversation(next(iter(pool.values())))
    assert asked is not None
    assert [turn.role for turn in asked.turns] == ["system", "user", "assistant", "user"]
    labels = project.read("talk", "labeled.jsonl")
    call = '{"name": "add", "arguments": {"a": 1}}'
    assert {row["text"] for row in labels} <= {"Sum", call}
    assert all(pool[row["id"]] == row["input"] for row in labels)
    training = project.read("talk", "rounds/001/training.json")
    assert training["tokens"] > 2 * len(labels), "the first answers count too"
    metrics = project.read("talk", "metrics.json")[-1]["metrics"]
    assert metrics["whole_calls"]["count"] == 3
    report = (project.folder / "atgen-runs/runs/talk/report.html").read_text()
    assert "user: Hello" in report
    assert "atgen&#34;: &#34;conversation" not in report


def test_full_fine_tuning_goes_round_and_leaves_a_model(
    ray_session: None, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    full = [
        "training.method=full",
        "training.warm_start=true",
        "training.trackers=[tensorboard,mlflow]",
    ]
    # The machine of the controller, as that of another cluster, does not know the server.
    settings = {"MLFLOW_TRACKING_URI": "sqlite:///nowhere.db"}
    quick = [*QUICK, "full", "evaluation.zero_shot=false"]
    done = project.call("run", "sort.yaml", *quick, *full, **settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("warning: mlflow of training.trackers does not work") == 1
    root = project.folder / "atgen-runs/runs/full"
    for round in ("001", "002"):
        files = {path.name for path in (root / "rounds" / round / "adapter").iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
        assert list((root / "logs" / round).rglob("events*"))
    first, second = (
        project.read("full", f"rounds/{at}/predictions.jsonl") for at in ("001", "002")
    )
    assert [row["prediction"] for row in first] != [row["prediction"] for row in second]
