"""A run of ours as one run of Weights & Biases."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import dump_config
from atgen_ray.runs.tracking.tracker import Ending, RoundRecord, set_defaults
from atgen_ray.store.run_folder import RunFolder

# Unless the environment says otherwise: the client would tell its makers how it is used.
DEFAULTS = {"WANDB_ERROR_REPORTING": "false"}
SECONDS = 30.0  # that it may take to begin, and to send what is left at the end
LONGEST_TAG = 64


class WandbTracker:
    """A run in the W&B project `training.tracking.project`; with WANDB_MODE=offline its files are
    in the run's folder, or in the user's cache where that is in an object store.
    """

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        self._config = config
        self._folder = folder

    def open(self, id: str) -> None:
        set_defaults(DEFAULTS)
        import wandb

        tracking = self._config.training.tracking
        place = user_cache_path("atgen-ray") / "wandb"
        if self._folder.is_local:
            place = Path(self._folder.path("logs"))
        place.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            id=id,
            resume="allow",
            reinit="create_new",
            project=tracking.project,
            name=self._config.name,
            tags=[f"{key}: {value}"[:LONGEST_TAG] for key, value in tracking.tags.items()],
            config=dump_config(self._config),
            dir=os.environ.get("WANDB_DIR", str(place)),
            settings=wandb.Settings(
                init_timeout=SECONDS,
                finish_timeout=SECONDS,
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
            ),
        )
        for name in ("test/*", "dev/*", "audit/*", "few_shot/*", "seconds/*", "dollars", "round"):
            self._run.define_metric(name, step_metric="labels")
        self._run.define_metric("loss", step_metric="optimiser_step")

    def log_round(self, record: RoundRecord) -> None:
        import wandb

        # Every entry has a number of its own that follows from the round: W&B refuses a number that
        # it has passed, so that a round which was sent before a crash does not count twice.
        number = record.steps + record.round
        for step, loss in enumerate(record.losses, record.steps + 1):
            self._run.log({"optimiser_step": step, "loss": loss}, step=number)
            number += 1
        self._run.log(record.metrics, step=number)
        if record.adapter is not None:
            artifact = wandb.Artifact(f"{self._config.name}-adapter", type="model")
            artifact.add_dir(str(record.adapter))
            self._run.log_artifact(artifact, aliases=["latest", f"round-{record.round:03d}"])

    def close(self, ending: Ending) -> None:
        self._run.finish(exit_code=0 if ending == "finished" else 1)
