"""Starting, resuming and watching runs on behalf of callers over HTTP."""

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError

from atgen_ray.config import (
    EvaluationConfig,
    MetricModelsConfig,
    ModelAnnotatorConfig,
    RunConfig,
    ServiceConfig,
)
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.config.messages import find_mistakes
from atgen_ray.core.errors import StorageUnavailableError, UserError
from atgen_ray.core.strict_json import encode_json
from atgen_ray.preflight import (
    find_cluster_problems,
    find_problems,
    find_quick_problems,
    raise_problems,
)
from atgen_ray.ray_runtime.placement import describe_waiting
from atgen_ray.ray_runtime.session import start_ray
from atgen_ray.reporting.page import render_page
from atgen_ray.reporting.publish import view_run
from atgen_ray.run.driver import enter_run, find_activity, has_controller, start_controller
from atgen_ray.run.estimate import plan_within_ray
from atgen_ray.run.queries import export_labels, show_run, stop_run, summarize_runs
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.security.restrictions import check_hosts, check_location, restrict_config
from atgen_ray.serving.uploads import upload_folder
from atgen_ray.store.journal import Event, Journal

OVER = ("finished", "stopped", "failed")
POLL_SECONDS = 0.5
ROOM_SECONDS = 10.0  # how long a plan waits for room in the cluster
CLIENT_GONE = 499  # as proxies log it; nobody is there to read it
QUIET_SECONDS = 15.0  # after which a silent stream shows that it lives


class RunManager:
    """The runs of one service's storage."""

    def __init__(self, service: ServiceConfig, journal: Journal) -> None:
        self._service = service
        self._journal = journal

    def start(self, tree: dict[str, Any], author: str | None = None) -> str:
        """Starts the run that `tree` describes, or resumes it, in an actor that outlives its
        caller; its name.

        What it changes of a run that is there stands in the journal with `author`.

        Storage and journal are the service's own, and data must lie below its data_roots.

        Raises:
            UserError: a mistake in the configuration.
            ApiError: 409, a run of that name has another configuration.
        """
        config = self._confine(parse_config(self._place(tree)))
        start_ray()
        if not self._journal.has_live_controller(config.name):
            raise_problems(find_problems(config, cluster=True) + find_cluster_problems(config))
        try:
            config = enter_run(config, self._journal, author)
        except StorageUnavailableError:
            raise
        except UserError as error:
            raise ApiError(409, str(error)) from None
        start_controller(config)
        return config.name

    def find_mistakes(self, tree: dict[str, Any]) -> dict[str, str]:
        """A line for each key of a new run's configuration that is wrong; a mistake of no one key
        has the key "".
        """
        try:
            config = RunConfig.model_validate(self._place(tree))
            self._confine(config)
        except ValidationError as error:
            return find_mistakes(error, RunConfig)
        except UserError as error:
            return {_name_key(str(error)): str(error)}
        if problems := find_quick_problems(config):
            return {_name_key(line): line for line in problems}
        if self._journal.has_run(config.name):
            return {
                "name": f"name is '{config.name}', a run that exists already; expected another one"
            }
        return {}

    async def plan(
        self, tree: dict[str, Any], gone: Callable[[], Awaitable[bool]]
    ) -> dict[str, Any]:
        """What the run would come to, as `atgen-ray plan`; worked out in a process that ends with
        it.

        Args:
            gone: whether nobody waits for the plan any more, which then ends.

        Raises:
            UserError: a mistake in the configuration, or data that cannot be read.
            ApiError: 503, the cluster has no room to read the data; says what is free.
        """
        import ray

        config = await run_in_threadpool(lambda: self._confine(parse_config(self._place(tree))))
        await run_in_threadpool(start_ray)
        problems = await run_in_threadpool(
            lambda: find_problems(config, cluster=True) + find_cluster_problems(config)
        )
        planned = ray.remote(num_cpus=0, max_retries=0)(plan_within_ray).remote(config, problems)
        try:
            return await _await_plan(planned, gone)
        finally:
            ray.cancel(planned, force=True)  # one that has ended is left as it is

    def resume(self, name: str) -> None:
        """Goes on with a run as it was given. Nothing happens when it runs already."""
        tree = dict(self._find(name).config)
        config = parse_config(tree | {"database_url": self._service.database_url})
        start_ray()
        start_controller(self._confine(config))

    def check(self) -> None:
        """Nothing, where the journal answers and its tables are ours; at a cost that no run
        changes.

        Raises:
            StorageUnavailableError: the database cannot be used, or was changed by another version.
        """
        self._journal.database.check()

    def list(self) -> list[dict[str, Any]]:
        """As `atgen-ray runs list`."""
        return summarize_runs(self._journal)

    def show(self, name: str) -> dict[str, Any]:
        """As `atgen-ray runs show`."""
        self._find(name)
        return show_run(name, self._service.storage, self._service.database_url)

    def stop(self, name: str) -> str:
        """Asks the run's controller to stop; says what will happen."""
        self._find(name)
        return stop_run(name, self._service.storage, self._service.database_url)

    def export(self, name: str, format: str) -> bytes:
        """The labelled set as a file; a folder is packed as zip."""
        self._find(name)
        with tempfile.TemporaryDirectory(prefix="atgen-export-") as folder:
            output = Path(folder, f"labels.{format}")
            export_labels(name, self._service.storage, self._service.database_url, format, output)
            if output.is_dir():
                output = Path(shutil.make_archive(str(Path(folder, name)), "zip", output))
            return output.read_bytes()

    def report(self, names: Sequence[str]) -> str:
        """The report on one run, or on several compared."""
        for name in names:
            self._find(name)
        return render_page([view_run(name, self._journal, self._service.storage) for name in names])

    def events(self, name: str, after: int) -> AsyncGenerator[str, None]:
        """The run's events from `after` on as server-sent events, until the run is over; then one
        called `end`.

        Between them `activity`, without a number, tells of the step under way: round, step, done,
        total, started, and what is waited for while Ray cannot place its workers.
        """
        self._find(name)
        return self._stream(name, after)

    async def _stream(self, name: str, after: int) -> AsyncGenerator[str, None]:
        told = time.monotonic()
        activity = None
        while True:
            status, events = await run_in_threadpool(self._look, name, after)
            for event in events:
                after = event.sequence
                told = time.monotonic()
                yield f"id: {after}\nevent: {event.kind}\ndata: {encode_json(asdict(event))}\n\n"
            if status in OVER and not await run_in_threadpool(self._goes_on, name):
                yield f"event: end\ndata: {encode_json({'status': status})}\n\n"
                return
            if (
                now := await run_in_threadpool(find_activity, name)
            ) is not None and now != activity:
                activity = now
                told = time.monotonic()
                yield f"event: activity\ndata: {encode_json(now)}\n\n"
            if time.monotonic() - told > QUIET_SECONDS:
                told = time.monotonic()
                yield ": still here\n\n"
            await asyncio.sleep(POLL_SECONDS)

    def _goes_on(self, name: str) -> bool:
        """Whether the run was taken up again, though its journal has the end of the attempt
        before.
        """
        return has_controller(name) or self._journal.has_live_controller(name)

    def _look(self, name: str, after: int) -> tuple[str, Sequence[Event]]:
        status = self._journal.run(
            name
        ).status  # before the events, so that an ended run has all of them
        return status, self._journal.events(name, after)

    def _find(self, name: str) -> Any:
        try:
            return self._journal.run(name)
        except StorageUnavailableError:
            raise
        except UserError as error:
            raise ApiError(404, str(error)) from None

    def _place(self, tree: dict[str, Any]) -> dict[str, Any]:
        """The tree with the service's own storage and journal.

        Raises:
            UserError: it names others.
        """
        for key in ("storage", "database_url", "cache"):
            if key in tree:
                raise UserError(
                    f"{key} is given, but a run of the service is kept in the service's own storage"
                )
        return tree | {"storage": self._service.storage, "database_url": self._service.database_url}

    def _confine(self, config: RunConfig) -> RunConfig:
        """The same run with its files resolved; callers over HTTP read nothing else of this
        machine.
        """
        data = config.data
        model = config.model
        roots = [*self._service.data_roots, upload_folder(self._service.storage)]
        restrict_config(dump_config(config), self._service)
        check_hosts(config, self._service.notice_hosts)
        same_model = self._service.model is not None and model.id == self._service.model.id
        moved = {"pool": check_location(data.pool, roots, "data.pool")}
        if data.test is not None:
            moved["test"] = check_location(data.test, roots, "data.test")
        if data.path is not None:
            moved["path"] = check_location(data.path, roots, "data.path")
        for key, location in list_locations(config.evaluation):
            check_location(location, roots, key)
        if not same_model:
            check_location(model.id, roots, "model.id")
        if config.embedding.model != self._service.embedding.model:
            check_location(config.embedding.model, roots, "embedding.model")
        return config.model_copy(update={"data": data.model_copy(update=moved)})


async def _await_plan(planned: Any, gone: Callable[[], Awaitable[bool]]) -> dict[str, Any]:
    """The result of a task, unless nobody waits for it, or Ray finds no room for what it does."""
    result: asyncio.Future[dict[str, Any]] = asyncio.wrap_future(planned.future())
    began = time.monotonic()
    placed = time.monotonic()
    while not (await asyncio.wait([result], timeout=POLL_SECONDS))[0]:
        if await gone():
            raise ApiError(CLIENT_GONE, "nobody waits for the plan any more")
        waiting = await run_in_threadpool(describe_waiting, gpus=False)
        placed = placed if waiting else time.monotonic()
        if time.monotonic() - placed > ROOM_SECONDS:
            passed = time.monotonic() - began
            raise ApiError(
                503,
                f"the plan was given up after {passed:.0f} s. {waiting}. Try again when runs have "
                f"ended",
            )
    return result.result()


def list_locations(evaluation: EvaluationConfig) -> Iterator[tuple[str, str]]:
    """What metrics and judge load, with its key; published checkpoints apart."""
    published = MetricModelsConfig().model_dump()
    for metric, models in evaluation.models.model_dump().items():
        for name, value in models.items():
            if isinstance(value, str) and value != published[metric][name]:
                yield f"evaluation.models.{metric}.{name}", value
    if isinstance(evaluation.judge, ModelAnnotatorConfig):
        yield "evaluation.judge.model.id", evaluation.judge.model.id


def _name_key(message: str) -> str:
    """The key that a message begins with, as in `data.pool is ...`."""
    match = re.match(r"[a-z_]+(\.[a-z_]+)*(?= is )", message)
    return match[0] if match else ""
