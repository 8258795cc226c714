"""Runs of fine-tuning jobs: what a request to fine-tune is as a run's configuration."""

from typing import Any

from atgen_ray.config import ServiceConfig
from atgen_ray.serving.active_jobs import configure_active
from atgen_ray.serving.api_files import FINE_TUNE, FileDesk
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.schemas.fine_tuning import TuningBody
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.tuned_names import ROUND
from atgen_ray.serving.tuning_rows import TuningRows, read_rows
from atgen_ray.store.api_files import ApiFile

SEED = 42
EPOCHS = 3
BATCH = 8
LEARNING_RATE = 2e-4
CHARS = 4  # bytes of a file for a token, where the tokens are not known yet


class TuningRuns:
    """Makes the configurations of one service's jobs."""

    def __init__(self, service: ServiceConfig, base: str | None, files: FileDesk) -> None:
        """Prepare for the model that is called `base`; None: the service has none."""
        self._service = service
        self._base = base
        self._files = files

    def configure(self, body: TuningBody, run: str, caller: Caller) -> dict[str, Any]:
        """Return the configuration of the run that trains on a job's file.

        Args:
            run: name of the run.

        Raises:
            ApiError: 400, the model or a file cannot be used; 404, there is no such file.
        """
        base = self._base
        if base is None or body.model != base:
            raise ApiError(
                400,
                f"model is {body.model[:80]!r}, expected {base or 'a service with a model'}",
                param="model",
            )
        training = self._find_file("training_file", body.training_file, caller)
        rows = self._read(training)
        if rows.labelled != (body.active is None):
            kinds = "without answers", "with answers"
            raise ApiError(
                400,
                f"training_file has rows {kinds[rows.labelled]}, expected rows "
                f"{kinds[not rows.labelled]} for the method "
                f"{'supervised' if body.active is None else 'active'}",
                param="training_file",
            )
        data: dict[str, Any] = {"pool": self._files.store.locate(training), "input": "messages"}
        if body.active is None:
            # Whoever repeats a row wants it to count twice.
            data |= {"references": "messages", "duplicates": {"action": "off"}}
        if body.validation_file is not None:
            validation = self._find_file("validation_file", body.validation_file, caller)
            measured = self._read(validation)
            if not measured.labelled:
                raise ApiError(
                    400,
                    "validation_file has rows without answers, expected rows with answers",
                    param="validation_file",
                )
            if rows.plain and (not measured.plain or measured.system != rows.system):
                rows.plain, rows.system = False, None
            data["test"] = self._files.store.locate(validation)
            data["test_references"] = "messages"
        prompt: dict[str, Any] = {}
        if rows.plain:
            turn = 0 if rows.system is None else 1
            template = f"{{{{ messages[{turn}].content }}}}"
            prompt = {"system": rows.system, "template": template}
        turns = "all" if rows.labelled and rows.answers_before else "last"
        tree = self._settings() | {
            "name": run,
            "data": data,
            "prompt": prompt,
            "training": _name_training(body) | {"turns": turns},
            "seed": SEED if body.seed is None else body.seed,
        }
        if body.active is not None:
            return tree | configure_active(body, rows.rows, self._service)
        return tree | {
            "selection": {"strategy": "random", "count": rows.rows},
            "annotator": {"type": "dataset", "price_per_label": 0.0},
            "stopping": {"rounds": ROUND},
        }

    def _settings(self) -> dict[str, Any]:
        """Return what the run has of the service: its replicas answer the validation file."""
        service = self._service
        model = service.target_model.model_dump(mode="json", exclude_defaults=True)
        engine = service.engine.model_dump(mode="json", exclude_defaults=True, exclude={"options"})
        return {
            "model": model | {"host": "serve"},
            "engine": engine,
            "embedding": {"model": service.embedding.model},
        }

    def _find_file(self, param: str, id: str, caller: Caller) -> ApiFile:
        try:
            return self._files.find(id, caller, FINE_TUNE)
        except ApiError as error:
            raise ApiError(error.status, error.message, param=param) from None

    def _read(self, file: ApiFile) -> TuningRows:
        try:
            with self._files.store.open(file) as lines:
                return read_rows(lines)
        except FileNotFoundError:
            raise ApiError(404, f"the content of file '{file.id}' is gone") from None

    def count_expected(self, body: TuningBody, tree: dict[str, Any]) -> int:
        """Return about how many tokens a job trains on."""
        file = self._files.store.find(body.training_file, None)
        if file is None:
            return 0
        labels = tree["stopping"].get("labels") or file.rows
        # Each round of an active job trains on all labels until then.
        rounds = (tree["stopping"]["rounds"] + 1) / 2
        share = min(1.0, labels / max(1, file.rows))
        return int(file.bytes / CHARS * share * rounds * tree["training"]["epochs"])


def _name_training(body: TuningBody) -> dict[str, Any]:
    chosen = body.chosen
    rate = chosen.learning_rate_multiplier
    return {
        "epochs": EPOCHS if chosen.n_epochs == "auto" else chosen.n_epochs,
        "batch_size": BATCH if chosen.batch_size == "auto" else chosen.batch_size,
        "learning_rate": LEARNING_RATE * (1.0 if rate == "auto" else rate),
    }
