"""Answers of a model outside a run: one pass of the engine, kept in a temporary folder."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from atgen_ray.api.configuration import Location
from atgen_ray.core.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from atgen_ray.config import RunConfig
    from atgen_ray.core.records import Progress
    from atgen_ray.core.stored import Stored


@contextmanager
def connected() -> Iterator[None]:
    """Connect to Ray for the block; a mistake that a worker finds is raised as a UserError."""
    from ray.exceptions import RayError

    from atgen_ray.ray_runtime.session import find_mistake, quieten_ray_data, run_session

    with run_session():
        quieten_ray_data()
        try:
            yield
        except RayError as error:
            if (mistake := find_mistake(error)) is None:
                raise
            raise UserError(mistake) from None


def answer(
    config: "RunConfig",
    examples: "pa.Table",
    adapter: "Stored | None",
    progress: "Progress",
    samples: int = 0,
) -> "pa.Table":
    """Generate the answers of the model of `config`, with an adapter, to `examples` (columns id and
    text). Ray is connected.

    Returns:
        FEATURES_SCHEMA, sorted by id; a row that failed has its reason in `error`.

    Raises:
        UserError: the model cannot be loaded.
        GenerationFailed: every row failed.
    """
    from atgen_ray.core.records import GenerationRequest
    from atgen_ray.engines.generation import generate_features
    from atgen_ray.engines.registry import build_engine
    from atgen_ray.store.run_folder import RunFolder

    request = GenerationRequest(config.model.max_new_tokens, samples=samples, seed=config.seed)
    # Replicas of the service belong to its runs: outside one the engine is of this call alone.
    model = config.model.model_copy(update={"host": "batch"})
    with (
        closing(build_engine(model, config.prompt, config.engine)) as engine,
        TemporaryDirectory(prefix="atgen-answers-") as work,
    ):
        return generate_features(
            engine,
            examples,
            request,
            adapter,
            RunFolder(work, "answers"),
            "parts",
            config.engine.batch_size,
            progress,
        )


def find_adapter(adapter: Location) -> "Stored":
    """Return a reference to the folder of an adapter, or of a whole model, as training writes it.

    Raises:
        UserError: it holds neither.
    """
    from atgen_ray.core.stored import at_path

    folder = Path(adapter)
    if not (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise UserError(
            f"adapter is {str(folder)[:200]!r}, expected a folder made by peft, with an "
            f"adapter_config.json"
        )
    return at_path(folder.absolute())


def check_model(config: "RunConfig") -> None:
    """Check that engine and checkpoint are there, as far as this process can tell.

    Raises:
        UserError: with a line for everything that is wrong.
    """
    from atgen_ray.preflight import raise_problems, run_checks
    from atgen_ray.preflight.check import Setting
    from atgen_ray.preflight.checkpoints import check_models
    from atgen_ray.preflight.packages import check_engines
    from atgen_ray.ray_runtime.private_api import count_visible_gpus
    from atgen_ray.ray_runtime.session import is_private

    if is_private():  # else the machines that count are elsewhere
        setting = Setting(config, "select", float(count_visible_gpus()))
        raise_problems(run_checks((check_engines, check_models), setting))
