"""Fixtures of the training tests; tokenizers are those of the prompt tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "pool"))
