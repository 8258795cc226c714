"""The command line, called in this process."""

import contextlib
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from atgen_ray.cli import app as cli

# The smallest configuration that is right.
SMALLEST: dict[str, Any] = {
    "data": {"pool": "pool.jsonl", "references": "answer"},
    "model": {"id": "some/model"},
}


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


def call(*arguments: str) -> Ended:
    """`atgen-ray ARGUMENTS...` through the entry point of the console script."""
    out, err = io.StringIO(), io.StringIO()
    before = os.umask(0o022)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["atgen-ray", *arguments])
        try:
            with pytest.raises(SystemExit) as end:
                cli.main()
        finally:
            os.umask(before)  # the command keeps its files private, this process does not
    return Ended(int(end.value.code or 0), out.getvalue(), err.getvalue())


def write_config(folder: Path, tree: Any, name: str = "task.yaml") -> Path:
    """A configuration file; text and bytes are written as they are."""
    path = folder / name
    if isinstance(tree, bytes):
        path.write_bytes(tree)
    else:
        path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    return path
