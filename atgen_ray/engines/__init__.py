"""Engines generate text from prompts: greedy outputs with log-probabilities and entropies of their
tokens, and samples, from the base model or with an adapter.
"""

from atgen_ray.engines.base import Engine
from atgen_ray.engines.choice import choose_backend
from atgen_ray.engines.registry import build_engine

__all__ = ["Engine", "build_engine", "choose_backend"]
