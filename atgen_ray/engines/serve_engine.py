"""Engine for `model.host: serve`: Ray Data streams the prompts through the replicas of the service.

The replicas are shared with outside callers, whose requests go first.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.records import GenerationRequest
from atgen_ray.core.stored import Stored
from atgen_ray.engines.base import OUTPUT_SCHEMA, Engine, TokenRequest, TokenStep
from atgen_ray.engines.output_rows import (
    Prompt,
    Row,
    encode_rows,
    generate_or_halve,
    output_row,
)
from atgen_ray.models.loading import digest_adapter, load_tokenizer
from atgen_ray.models.prompts import PromptBuilder
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
            ReplicaCaller,
            (self._model, self._prompt, request, name, digest, self._app),
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


class ReplicaCaller:
    """Turns batches of rows into requests to replicas, and their tokens into output rows."""

    def __init__(
        self,
        model: ModelConfig,
        prompt: PromptConfig,
        request: GenerationRequest,
        adapter: str | None,
        digest: str | None,
        app: str = APP,
    ) -> None:

        self._prompts = PromptBuilder(load_tokenizer(model), prompt, model.max_prompt_tokens)
        self._request = request
        self._adapter = adapter
        self._digest = digest
        self._replicas = find_model(app)

    def __call__(self, batch: pa.Table) -> pa.Table:

        prompts, outputs = encode_rows(self._prompts, batch.to_pylist())
        outputs += generate_or_halve(prompts, self._generate, _last_line)
        return pa.Table.from_pylist(outputs, schema=OUTPUT_SCHEMA)

    def _generate(self, prompts: list[Prompt]) -> list[Row]:
        requests = [self._build_request(prompt) for prompt in prompts]
        answers = call_again(
            lambda: self._replicas.generate.remote(requests, self._digest).result()
        )
        return [self._row(prompt, steps) for prompt, steps in zip(prompts, answers, strict=True)]

    def _build_request(self, prompt: Prompt) -> TokenRequest:
        request = self._request
        drawn = prompt.sample > 0
        return TokenRequest(
            prompt.token_ids,
            request.max_new_tokens,
            temperature=request.temperature if drawn else 0.0,
            top_p=request.top_p if drawn else 1.0,
            seed=mix_seed(request.seed, prompt.id, prompt.sample) % 2**31,
            top_logprobs=request.top_logprobs,
            adapter=self._adapter,
        )

    def _row(self, prompt: Prompt, steps: Sequence[TokenStep]) -> Row:
        tokens = [step.token for step in steps]
        return output_row(
            id=prompt.id,
            sample=prompt.sample,
            prompt_tokens=len(prompt.token_ids),
            text=self._prompts.decode(tokens),
            token_ids=tokens,
            logprobs=[step.logprob for step in steps],
            entropies=[step.entropy for step in steps],
            top_logprobs=[[logprob for _, logprob in step.top] for step in steps],
            finish_reason=steps[-1].finish or "length",
        )


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


def _last_line(error: Exception) -> str:
    """Return the last line of an error, which is the one that names its cause."""
    return str(error).strip().rpartition("\n")[2] or type(error).__name__
