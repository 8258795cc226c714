"""Where SGLang is installed.

SGLang pins other versions of torch and openai than this package is tested with, so it has an
environment of its own, whose Python runs its server.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from atgen_ray.core.errors import UserError

PYTHON_VARIABLE = "ATGEN_SGLANG_PYTHON"
BESIDE = ".sglang/bin/python"  # where `make install-sglang` puts it, beside .venv
HOW_TO_INSTALL = (
    "run `make install-sglang`, or pip install 'atgen-ray[sglang]' in an environment of its own "
    f"and set {PYTHON_VARIABLE} to its Python"
)


def find_python() -> Path | None:
    """Return the Python that has SGLang: the one that ATGEN_SGLANG_PYTHON names, this one where it
    can import sglang, or that of `.sglang` beside this environment; None where there is none.

    Raises:
        UserError: the variable names no file.
    """
    if named := os.environ.get(PYTHON_VARIABLE):
        python = Path(named).expanduser()
        if not python.is_file():
            raise UserError(
                f"{PYTHON_VARIABLE} is '{named}', expected the Python of an environment with "
                f"SGLang: {HOW_TO_INSTALL}"
            )
        return python
    if find_spec("sglang") is not None:
        return Path(sys.executable)
    beside = Path(sys.prefix).parent / BESIDE
    return beside if beside.is_file() else None


def find_version() -> str | None:
    """Return the version of SGLang in its environment; None where it is not found there."""
    python = find_python()
    if python is None:
        return None
    # Not resolved: the link leads to the Python that the environment was made of.
    site = python.parent.parent.glob("lib/python*/site-packages/sglang-*.dist-info")
    return next((folder.name.split("-")[1].removesuffix(".dist") for folder in site), None)
