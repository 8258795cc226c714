"""Private APIs of Ray and vLLM: every use of one in atgen-ray, one function each.

Neither project promises to keep these names, so an upgrade of Ray or vLLM is checked here first:
`make test` runs every function. Each function says why no public API does the same. Ray and vLLM
are imported inside the functions, since importing them takes seconds.
"""

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.data import Dataset


def requires_token() -> bool:
    """Return whether Ray's ports refuse callers without a token.

    The setting may come from the environment or from a file of Ray; the public API reads neither.
    """
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return bool(is_token_auth_enabled())


@contextmanager
def stay_on_loopback() -> Iterator[None]:
    """Let a Ray that is started in the block listen on loopback alone, but for one port of each
    replica of Serve. No other node can join it.

    Ray does so by itself on macOS and Windows; on Linux it turns a loopback address that it is
    given into one of the network. The variable is read as Ray is imported, which may have
    happened.
    """
    from ray._private import ray_constants

    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(name)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[name] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[0]
        if before[1] is None:
            del os.environ[name]
        else:
            os.environ[name] = before[1]


def find_token_file() -> Path:
    """Return the file that Ray keeps its token in.

    No public API tells it; `RAY_AUTH_TOKEN_PATH` names another.
    """
    from ray._private.authentication.authentication_token_setup import _get_default_token_path

    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(given) if given else Path(_get_default_token_path())


def count_visible_gpus() -> int:
    """Return how many GPUs a Ray that is started on this machine would find.

    Public APIs count GPUs only once Ray runs, and the preflight checks run before that.
    """
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    visible = manager.get_current_process_visible_accelerator_ids()
    found = int(manager.get_current_node_num_accelerators())
    return found if visible is None else min(found, len(visible))


def read_autoscaler_maximum() -> dict[str, float]:
    """Return the resources that the cluster's autoscaler may grow to; empty without one.

    `ray.cluster_resources` counts only the nodes that are up.
    """
    from ray._private.state import state

    return dict(state.get_max_resources_from_cluster_config() or {})


@contextmanager
def start_needed_processes(log_monitor: bool) -> Iterator[None]:
    """Let a Ray that `ray.init` starts in the block do without processes that nobody here needs.

    They are the monitor, which is an autoscaler for one machine; the API server, which without
    dashboard only reports usage; and, unless `log_monitor`, the process that reads the logs of
    workers for a driver that does not print them. Together they take a third of the CPU time of a
    start, 250 MB, and the wait for the API server. `ray.init` has no setting for them.
    """
    from ray._private.node import Node

    def leave_out_api_server(node: Any, **_: Any) -> None:
        node._webui_url = ""

    changed: dict[str, Callable[..., None]] = {
        "start_monitor": lambda _: None,
        "start_api_server": leave_out_api_server,
    }
    if not log_monitor:
        changed["start_log_monitor"] = lambda _: None
    kept = {name: getattr(Node, name) for name in changed}
    for name, method in changed.items():
        setattr(Node, name, method)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Node, name, method)


def silence_progress_bars() -> None:
    """Keep Ray Data from logging that its progress bars are off.

    The logger has no public name, and the message would come with every pass over the data.
    """
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def map_blocks_with_actors(
    rows: "Dataset", worker: Callable[..., Any], **options: Any
) -> "Dataset":
    """Return `rows` with each block mapped by an actor of `worker`.

    The public `map_batches` refuses GPUs without a batch size. With one, it would join blocks into
    batches of its own, which differ from attempt to attempt.
    """
    return rows.map_batches_internal(worker, **options)


def read_with_datasource(
    datasource: type[Any], options: dict[str, Any], paths: Sequence[str], filesystem: Any = None
) -> Iterator[Any]:
    """Yield the blocks of files as `datasource`, a FileBasedDatasource, reads them; those of this
    machine, or of `filesystem` of fsspec.

    The constructor puts the paths into Ray's object store, which would start a cluster; so the
    object is made without it and given the attributes that reading needs.
    """
    from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem
    from ray.data import DataContext

    source: Any = object.__new__(datasource)
    source._filesystem = (
        LocalFileSystem() if filesystem is None else PyFileSystem(FSSpecHandler(filesystem))
    )
    source._data_context = DataContext.get_current()
    for name, value in options.items():
        setattr(source, f"_{name}", value)
    for path in paths:
        with source._open_input_source(source._filesystem, path) as file:
            yield from source._read_stream(file, path)


def file_size(datasource: Any, path: str) -> int | None:
    """Return the bytes of a file as stored; None when its server does not tell.

    A FileBasedDatasource hands its file system to nobody.
    """
    size: int | None = datasource._filesystem.get_file_info(path).size
    return size


def deploy_in_background(schema: Any, proxy_location: Any) -> None:
    """Start Serve with the HTTP options of `schema` and deploy its applications without waiting.

    The public `serve.run` takes one application and waits for it; we show progress meanwhile.
    """
    from ray.serve._private.api import serve_start

    client = serve_start(
        http_options=schema.http_options.model_dump(), proxy_location=proxy_location
    )
    client.deploy_apps(schema, _blocking=False)


@cache
def vllm_engine_class() -> type[Any]:
    """Return Ray's vLLM engine, changed so that one CPU worker runs in the engine's process.

    Ray gives such a worker a process of its own, which polls for every step and takes a fifth of
    the cores. Ray has no public setting for that.
    """
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

    class LeanVLLMEngine(VLLMEngine):
        """Ray's engine with the executor `uni` on one CPU worker."""

        def _prepare_engine_config(self, callback_ctx: Any) -> tuple[Any, Any, Any]:
            arguments, frontend, config = super()._prepare_engine_config(callback_ctx)
            parallel = config.parallel_config
            if parallel.world_size == 1 and parallel.distributed_executor_backend == "mp":
                arguments.distributed_executor_backend = "uni"
                parallel.distributed_executor_backend = "uni"
            return arguments, frontend, config

    return LeanVLLMEngine


async def wait_for_engine(engine: Any) -> None:
    """Return once the vLLM engine is idle or between two steps.

    Ray's own health check asks only whether the engine's process lives; one that hangs passes.
    """
    await engine._engine_client.is_sleeping()


def generate_tokens(
    engine: Any, prompt: Any, settings: Any, request_id: str, adapter: str
) -> AsyncIterator[Any]:
    """Yield vLLM's outputs for `prompt` with the adapter that it holds under the name `adapter`.

    The public OpenAI layer would turn the alternatives of every token into text.
    """
    lora = engine._oai_models.lora_requests.get(adapter)
    outputs: AsyncIterator[Any] = engine._engine_client.generate(
        prompt, settings, request_id, lora_request=lora
    )
    return outputs


async def load_lora(engine: Any, name: str, folder: Path) -> None:
    """Load the adapter in `folder` into the vLLM engine under `name`.

    Ray's public way, `dynamic_lora_loading_path`, takes object stores only.
    """
    from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig

    # vLLM gives every name a number of its own, which it never uses twice; it does not read the
    # number given here.
    await engine.resolve_lora(
        DiskMultiplexConfig(
            model_id=name, max_total_tokens=None, local_path=str(folder), lora_assigned_int_id=0
        )
    )


async def unload_lora(engine: Any, name: str) -> None:
    """Unload the adapter `name` from the vLLM engine; Ray only ever loads adapters."""
    from vllm.entrypoints.serve.lora.protocol import UnloadLoRAAdapterRequest

    await engine._oai_models.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=name))
