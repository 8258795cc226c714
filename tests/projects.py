"""A folder in which a test runs the command line."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet


@dataclass(frozen=True)
class Project:
    """A folder with a configuration and data, and the command line to use on them."""

    folder: Path

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The command line as a process of its own, its output in pipes."""
        command = [sys.executable, "-m", "atgen_ray.cli", *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The command line to its end."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

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


def read_until(process: subprocess.Popen[str], kind: str, round: int, step: str) -> bool:
    """Reads the lines of `atgen-ray run --json` until one of that kind, round and step; False when it ends before."""
    assert process.stdout is not None
    for line in process.stdout:
        value = json.loads(line)
        if (value["type"], value.get("round"), value.get("step")) == (kind, round, step):
            return True
    return False
