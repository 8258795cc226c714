"""A cluster whose GPUs are in Ray's books alone: the code paths of GPUs, while torch computes on
the CPU.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from helpers.forks import run_command
from helpers.logical_cluster import run_cluster
from helpers.projects import Project

TRAIN = """
import json, os, ray, torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from atgen_ray.training.backend import DeviceConfig

def look(folder):
    import torch.distributed as group
    rank = ray.train.get_context().get_world_rank()
    found = {"backend": group.get_backend(), "gpus": ray.get_gpu_ids(), "device": os.environ["ACCELERATE_TORCH_DEVICE"]}
    open(f"{folder}/{rank}.json", "w").write(json.dumps(found))

ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
scaling = ScalingConfig(num_workers=2, use_gpu=True, resources_per_worker={"CPU": 0.5, "GPU": 1})
TorchTrainer(look, train_loop_config=os.environ["FOLDER"], torch_config=DeviceConfig(), scaling_config=scaling,
             run_config=RunConfig(storage_path=os.environ["FOLDER"] + "/work")).fit()
"""


ROOM = """
import json, os, time, ray, ray.data, pyarrow
from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.core.records import GenerationRequest
from atgen_ray.engines.vllm_engine import VLLMEngine
from atgen_ray.ray_runtime.placement import fit_gpus

ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
model = ModelConfig(id=os.environ["MODEL"], dtype="float32", max_prompt_tokens=80, max_new_tokens=2)
engine = VLLMEngine(model, PromptConfig(), EngineConfig(), TrainingConfig(workers=1))
rows = ray.data.from_arrow(pyarrow.table({"id": ["a"], "text": ["count"], "sample": pyarrow.array([0], pyarrow.int32())}))
found = {"answers": engine.generate(rows, GenerationRequest(2), None).take_all()}
free = lambda: ray.available_resources().get("GPU", 0.0)
found["beside"] = free()
with engine.released("run"):
    found["one"] = free()
engine._training = TrainingConfig(workers=2)
with engine.released("run"):
    deadline = time.monotonic() + 30
    while free() < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    found["two"] = free()
found["again"] = len(engine.generate(rows, GenerationRequest(2), None).take_all())
found["holds"] = free()
# Any other step that asks for all GPUs, as one that loads a model for a metric.
found["wanted"] = fit_gpus("evaluation.metrics", 1, 2.0), free()
print(json.dumps(found, default=str))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """Two GPUs, four CPUs."""
    with run_cluster(cpus=4, gpus=2) as environment:
        yield environment


def test_every_step_of_a_run_and_training_by_two_workers(
    cluster: dict[str, str], make_project: Callable[[], Project]
) -> None:
    project = make_project()
    settings = [
        "selection.strategy=badge",
        "training.workers=2",
        "training.batch_size=4",
        "stopping.rounds=1",
    ]
    done = project.run(
        "run",
        "sort.yaml",
        *settings,
        "training.use_gpu=true",
        "evaluation.zero_shot=false",
        **cluster,
    )
    assert done.returncode == 0, done.stderr
    row = project.read("sort", "metrics.json")[-1]
    assert set(row["seconds"]) >= {"generation", "selection", "training", "evaluation"}
    assert row["metrics"]["rougeL"]["count"] == 6
    assert (
        project.folder / "atgen-runs/runs/sort/rounds/001/adapter/adapter_model.safetensors"
    ).is_file()


def test_runs_of_a_sweep_share_a_gpu(
    cluster: dict[str, str], make_project: Callable[[], Project]
) -> None:
    """Two at once, each on a half; training by one worker."""
    project = make_project()
    run = yaml.safe_load((project.folder / "sort.yaml").read_text())
    data, prompt, model = (run.pop(name) for name in ("data", "prompt", "model"))
    run |= {"selection": {"count": 5, "candidates": 20}, "stopping": {"rounds": 1}}
    suite = {
        "run": run | {"evaluation": {"metrics": ["token_f1"], "zero_shot": False}},
        "tasks": {"sort": {"metric": "token_f1", "run": {"data": data, "prompt": prompt}}},
        "models": {"tiny": {"model": model}},
        "strategies": {"random": {}, "facility_location": {}},
        "seeds": [1],
        "resources": {"cpus": 2, "gpus": 0.5},
    }
    (project.folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    done = project.run("bench", "suite.yaml", "--json", **cluster)
    assert done.returncode == 0, done.stderr
    ends = [
        json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"type": "run"')
    ]
    assert [end["status"] for end in ends] == ["finished", "finished"], ends


def test_a_vllm_engine_stays_where_training_has_room_beside_it_and_ends_otherwise(
    cluster: dict[str, str], tiny_model: str
) -> None:
    ended = run_command("-c", ROOM, env=cluster | {"MODEL": tiny_model}, timeout=300)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["answers"][0]["error"] is None
    assert found["beside"] == 1  # it reserves one of the two
    assert found["one"] == 1
    assert found["two"] == 2
    assert (found["again"], found["holds"]) == (1, 1)
    assert found["wanted"] == [2, 2]


def test_torch_distributed_takes_what_the_workers_really_have(
    cluster: dict[str, str], tmp_path: Any
) -> None:
    done = run_command("-c", TRAIN, env=cluster | {"FOLDER": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [(each["backend"], each["device"]) for each in found] == [("gloo", "cpu")] * 2
    assert {gpu for each in found for gpu in each["gpus"]} == {0, 1}


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        (["engine.gpus_per_worker=3"], "engine.gpus_per_worker"),
        (
            ["training.use_gpu=true", "training.workers=3", "training.batch_size=3"],
            "training.gpus_per_worker",
        ),
    ],
)
def test_what_the_cluster_never_has_is_told_in_one_line(
    cluster: dict[str, str], make_project: Callable[[], Project], setting: list[str], key: str
) -> None:
    project = make_project()
    quick = ["selection.strategy=random", "stopping.rounds=1"]
    quick += (
        [] if key.startswith("engine") else ["evaluation.zero_shot=false"]
    )  # whose step comes first
    done = project.run("run", "sort.yaml", *quick, *setting, **cluster)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert key in done.stderr
    assert "2 GPUs" in done.stderr
