"""Engine for `model.host: serve`: Ray Data streams the prompts through the replicas of the service.

The replicas are shared with outside callers, whose requests go first.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.records import GenerationRequest
from atgen_ray.core.stored import Stored
from atgen_ray.engines.base import Engine
from atgen_ray.engines.token_calls import Ask, TokenCaller
from atgen_ray.models.loading import digest_adapter
from atgen_ray.ray_runtime.workers import map_batches
from atgen_ray.store.run_folder import RunFolder

if TYPE_CHECKING:
    from ray.data import Dataset

APP = "atgen"  # name of the Serve application
MODEL = "model"  # name of its deployment
ATTEMPTS = 8  # calls of a replica before its error is raised
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class ServeEngine(Engine):
    """Generates in Serve replicas; the service decides how many there are and which models they
    hold.
    """

    name = "serve"

    def __init__(
        self,
        model: ModelConfig,
        prompt: PromptConfig,
        engine: EngineConfig,
        folder: RunFolder,
        app: str = APP,
    ) -> None:
        """`app` is the name of the service among Serve's applications."""
        self._model = model
        self._prompt = prompt
        self._engine = engine
        self._folder = folder
        self._app = app

    def generate(
        self, rows: "Dataset", request: GenerationRequest, adapter: Stored | None
    ) -> "Dataset":

        # Look before workers start, so that a missing service is one clear line.
        model = find_model(self._app)
        # Replicas still sleep for this run if its controller died during training.
        _call_replicas(model, "wake", self._folder.name)
        name = self._name_adapter(adapter)
        digest = digest_adapter(adapter.local()) if adapter else None
        return map_batches(
            rows,
            TokenCaller,
            (
                self._model,
                self._prompt,
                request,
                name,
                partial(connect_replicas, self._app, digest),
            ),
            # Callers only wait: with two of them a replica is busy while the next batch arrives.
            workers=2 * self._engine.workers,
            cpus=0.1,
            gpus=0,
        )

    @contextmanager
    def released(self, run: str) -> Iterator[None]:
        """Let the replicas that can do so sleep; callers wait meanwhile."""
        model = find_model(self._app)
        try:
            _call_replicas(model, "sleep", run)
            yield
        finally:
            _call_replicas(model, "wake", run)

    def _name_adapter(self, adapter: Stored | None) -> str | None:
        """Return `<run>-<round>`, the name under which replicas know the adapter."""
        if adapter is None:
            return None
        for folder in reversed(self._folder.list("rounds")):
            path = f"{folder}/adapter"
            if self._folder.exists(path) and self._folder.refer(path) == adapter:
                return f"{self._folder.name}-{int(folder.rpartition('/')[2])}"
        raise ValueError(f"{adapter} is no adapter of run '{self._folder.name}'")


def connect_replicas(app: str, digest: str | None) -> Ask:
    """Return a function that asks the replicas of the service `app`; `digest` is that of the
    adapter which they must answer with.
    """
    replicas = find_model(app)
    return lambda requests: call_again(lambda: replicas.generate.remote(requests, digest).result())


def find_model(app: str = APP) -> Any:
    """Return a handle of the service's model replicas.

    Raises:
        UserError: this Ray cluster runs no service with a model.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        if MODEL in serve.status().applications[app].deployments:
            return serve.get_deployment_handle(MODEL, app_name=app)
    except (KeyError, RayServeException):
        pass
    raise UserError(
        "model.host is 'serve', but this Ray cluster runs no service with a model: start one with "
        "`atgen-ray serve --config FILE` and set RAY_ADDRESS, or set model.host=batch"
    )


def _call_replicas(model: Any, method: str, run: str) -> None:
    """Call a method of every live replica, and wait for all of them."""
    call_again(lambda: model.broadcast(method, run).results())


def call_again(call: Callable[[], Result], attempts: int = ATTEMPTS, pause: float = 0.5) -> Result:
    """Return the result of `call`, repeated while its replica is gone or its queue is full. Only
    for calls that may be done twice.

    Serve does not repeat requests that were in flight when their replica died. Pauses double from
    `pause` seconds, with jitter. Any other exception, and the last one, is raised.
    """
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    for attempt in range(attempts):
        try:
            return call()
        except (RayActorError, BackPressureError, DeploymentUnavailableError) as error:
            if attempt == attempts - 1:
                raise
            logger.warning(
                "a model replica did not answer (%s): trying again", type(error).__name__
            )
            time.sleep(pause * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
    raise AssertionError("unreachable")
