"""A service and its runs on a cluster whose one GPU is in Ray's books alone."""

from collections.abc import Callable

import yaml
from logical_cluster import run_cluster
from projects import Project
from served import serve_project


def test_a_service_and_its_runs_on_one_gpu(
    make_project: Callable[[], Project], tiny_model: str
) -> None:
    """The replica holds half of it, and what a run reserves by default, a whole one, is cut to what
    is left.
    """
    project = make_project()
    engine = {
        "backend": "transformers",
        "threads_per_worker": 1,
        "cpus_per_worker": 0.3,
        "gpus_per_worker": 0.5,
    }
    with (
        run_cluster(cpus=2, gpus=1) as environment,
        serve_project(project, tiny_model, engine, environment) as service,
    ):
        tree = yaml.safe_load((project.folder / "sort.yaml").read_text())
        for split in ("pool", "test"):
            tree["data"][split] = str(project.folder / f"{split}.jsonl")
        tree["model"]["host"] = "serve"
        tree["stopping"] = {"rounds": 1}
        assert service.run_to_end(tree | {"name": "served"})["status"] == "finished"
