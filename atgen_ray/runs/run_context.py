"""What the steps of a run work with."""

from dataclasses import dataclass

from atgen_ray.config import RunConfig
from atgen_ray.core.progress import ProgressTracker
from atgen_ray.core.records import Progress
from atgen_ray.runs.committer import Committer
from atgen_ray.runs.round_model import RoundModel
from atgen_ray.runs.state import RunState
from atgen_ray.runs.workers import Workers
from atgen_ray.store.journal import Journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.run_folder import RunFolder


@dataclass(frozen=True)
class RunContext:
    """One run in the hands of one controller.

    Attributes:
        tracker: counts progress in this process.
        remote: receives progress from workers in others.
        state: what the journal and the folder say of the run.
        committer: how a step becomes part of the run.
        model: answers with the adapter of a round.
    """

    config: RunConfig
    journal: Journal
    lease: Lease
    folder: RunFolder
    tracker: ProgressTracker
    remote: Progress
    workers: Workers
    state: RunState
    committer: Committer
    model: RoundModel
