"""Engines generate: greedy text with token log-probabilities and entropies, and samples, for base
model or adapter.
"""

from atgen_ray.engines.base import Engine
from atgen_ray.engines.registry import build_engine, choose_backend

__all__ = ["Engine", "build_engine", "choose_backend"]
