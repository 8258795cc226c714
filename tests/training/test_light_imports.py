"""What a run's controller imports: it starts with every run and every resumption."""

import subprocess
import sys

HEAVY = {"torch", "transformers", "peft", "sklearn", "sentence_transformers", "vllm"}
SCRIPT = """
import sys
import atgen_ray.runs.controller
import atgen_ray.runs.controller_actor
from atgen_ray.training import local_worker, methods, ray_train
print(*sys.modules)
"""


def test_a_controller_that_trains_imports_nothing_that_only_workers_need() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(done.stdout.split()) == set()
