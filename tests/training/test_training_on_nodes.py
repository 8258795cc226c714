"""Training by two workers on two nodes that share nothing but an object store: each node has its
own HOME, temporary and working folder.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from helpers.object_store import ObjectStore, run_object_store
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

# Trains by one worker without Ray, then by two on the cluster.
SCRIPT = """
import json, os, sys, tempfile
from dataclasses import asdict
from pathlib import Path

import ray
from atgen_ray.config import ModelConfig, PromptConfig, TrainingConfig
from atgen_ray.training import TrainingExample, train_adapter
from atgen_ray.training.fine_tune import fine_tune

model, out, storage = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
examples = [
    TrainingExample(f"e{index:02d}", "count " * (1 + index % 5), f"answer {index % 3}")
    for index in range(12)
]
base = ModelConfig(id=model, dtype="float32", max_prompt_tokens=80, max_new_tokens=10)
settings = {"epochs": 2, "batch_size": 4, "learning_rate": 5e-3, "threads_per_worker": 1}
one, two = out / "one", out / "two"
for folder in (one, two):
    folder.mkdir(parents=True)


def note(done, total):
    with (out / "steps").open("a") as file:
        print(done, os.environ["HOME"], tempfile.gettempdir(), file=file)


ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
rows = [asdict(example) for example in examples]
alone = TrainingConfig(**settings)
whole = fine_tune(rows, base, PromptConfig(), alone, 7, 1, lambda *_: None, None, 1, one)
both = TrainingConfig(**settings, workers=2, checkpoint_steps=2)
shared = train_adapter(examples, base, PromptConfig(), both, 7, two, storage, note)
losses = {"one": whole["losses"], "two": shared.losses}
print(json.dumps({name: [step["loss"] for step in each] for name, each in losses.items()}))
"""


def make_node(folder: Path, store: ObjectStore) -> dict[str, str]:
    """The environment of a node whose folders are below `folder`."""
    for name in ("home", "tmp"):
        (folder / name).mkdir(parents=True)
    return store.environment | {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}


def test_workers_of_two_nodes_learn_what_one_does(tiny_model: str, tmp_path: Path) -> None:
    with run_object_store() as store:
        nodes = [make_node(tmp_path / f"node-{number}", store) for number in (0, 1)]
        cluster = Cluster()
        try:
            # A worker reserves more than half a CPU, so that two have no room on one node.
            for node in nodes:
                cluster.add_node(num_cpus=1, include_dashboard=False, env_vars=node)
            arguments = [tiny_model, str(tmp_path / "out"), f"s3://{store.bucket}/work"]
            done = subprocess.run(
                [sys.executable, "-c", SCRIPT, *arguments],
                env=os.environ | nodes[0] | {"RAY_ADDRESS": cluster.address},
                capture_output=True,
                text=True,
                timeout=400,
            )
        finally:
            cluster.shutdown()
    assert done.returncode == 0, done.stderr[-3000:]
    losses = json.loads(done.stdout.splitlines()[-1])
    assert len(losses["one"]) == 6
    np.testing.assert_allclose(losses["two"], losses["one"], atol=1e-4)
    first, second = (
        load_file(tmp_path / "out" / name / "adapter_model.safetensors") for name in ("one", "two")
    )
    assert all(torch.allclose(first[key], second[key], atol=1e-4) for key in first)
    steps = [line.split() for line in (tmp_path / "out/steps").read_text().splitlines()]
    assert [int(step) for step, _, _ in steps] == [1, 2, 3, 4, 5, 6]
    for _, home, temporary in steps:
        assert temporary == home.replace("/home", "/tmp")
