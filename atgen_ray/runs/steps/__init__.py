"""The steps of a round, by what they make: pool, picks, labels, adapters and scores.

Each step makes its outputs aside and commits them (`Committer.commit`); in which order they come is
the controller's business (`atgen_ray/runs/controller.py`).
"""

from atgen_ray.runs.steps.adapters import AdapterSteps
from atgen_ray.runs.steps.audit import AuditSteps
from atgen_ray.runs.steps.growth import GrowthSteps
from atgen_ray.runs.steps.labels import LabelSteps
from atgen_ray.runs.steps.picks import PickSteps
from atgen_ray.runs.steps.pool import PoolSteps
from atgen_ray.runs.steps.rivals import RivalSteps
from atgen_ray.runs.steps.scores import ScoreSteps

__all__ = [
    "AdapterSteps",
    "AuditSteps",
    "GrowthSteps",
    "LabelSteps",
    "PickSteps",
    "PoolSteps",
    "RivalSteps",
    "ScoreSteps",
]
