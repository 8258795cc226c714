"""The mask against each family's chat template: what is learnt is the answer and its end, no more and no less."""

from collections.abc import Callable
from typing import Any

import pytest
from chat_templates import FAMILIES
from conftest import CORPUS  # noqa: F401  (the prompt tests' fixtures live beside it)

from atgen_ray.config import PromptConfig
from atgen_ray.pool.prompts import PromptBuilder
from atgen_ray.training.rows import IGNORED, build_row
