"""Runs on behalf of callers over HTTP: start, resume, watch, stop and export.

Storage and journal are the service's own, and data must lie below its `data_roots`. All methods use
the journal that the replica holds open.
"""

import asyncio
import re
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError

from atgen_ray.annotation.llm.retry import reopen_requests
from atgen_ray.config import (
    RunConfig,
    ServiceConfig,
)
from atgen_ray.config.loading import parse_config
from atgen_ray.config.messages import find_mistakes
from atgen_ray.core.errors import StorageUnavailableError, UserError
from atgen_ray.core.request_ids import find_id
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
from atgen_ray.runs.additions import NothingNewError, add_rows
from atgen_ray.runs.driver import (
    enter_run,
    find_activity,
    has_controller,
    start_controller,
    stop_controller,
)
from atgen_ray.runs.estimate import plan_within_ray
from atgen_ray.runs.exporting.archive import stream_zip
from atgen_ray.runs.exporting.export import open_source, write_part
from atgen_ray.runs.promotion import ShownWorseError, promote_round, take_promotion_back
from atgen_ray.runs.queries import ask_to_stop, describe_run, summarize_runs, write_labels
from atgen_ray.runs.retention import watch_retention
from atgen_ray.serving.drain import is_ending
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.resumption import Resumption
from atgen_ray.serving.run_restrictions import (
    add_storage,
    check_addition,
    check_names,
    restrict_run,
)
from atgen_ray.serving.scores import Scores
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.tokens import Tokens
from atgen_ray.store.changes import audited
from atgen_ray.store.channel import CHANNEL
from atgen_ray.store.events import Event
from atgen_ray.store.exports import REPORT, note_export
from atgen_ray.store.housekeeping import remove_run, set_archived, set_served, set_title
from atgen_ray.store.journal import Journal
from atgen_ray.store.run_records import INTERRUPTED, UNDER_WAY

OVER = ("finished", "stopped", "failed")
POLL_SECONDS = 0.5
ROOM_SECONDS = 10.0  # how long a plan waits for free resources of the cluster
CLIENT_GONE = 499  # the status that proxies log for a caller that left
EVENTS = 200  # of a stream, that are read at once
QUIET_SECONDS = 15.0  # after which a silent stream sends a comment


class RunManager:
    """The runs of one service's storage."""

    def __init__(self, service: ServiceConfig, journal: Journal) -> None:
        self._service = service
        self._journal = journal
        self._scores = Scores(service.storage, journal)
        self._tokens = Tokens(journal.database)
        self._resumption: Resumption | None = None

    def keep_going(self) -> threading.Event:
        """Go on, in a thread of this process, with runs of the service whose controller died; the
        event that is returned ends it.
        """
        stop = threading.Event()
        self._resumption = Resumption(self._journal, self._go_on, has_controller, is_ending)
        threading.Thread(
            target=self._resumption.watch, args=(stop,), name="resumption", daemon=True
        ).start()
        return stop

    def check_resumption(self) -> None:
        """Check that the thread of `keep_going`, if there is one, still looks.

        Raises:
            StorageUnavailableError: it hangs, or has ended.
        """
        if self._resumption is not None:
            self._resumption.check()

    def keep_tidy(self) -> threading.Event:
        """Remove what is older than `retention` says, and files that have expired, in a thread of
        this process; the event that is returned ends it.
        """
        stop = threading.Event()
        service = self._service
        arguments = (self._journal, service.storage, service.retention, stop)
        threading.Thread(
            target=watch_retention, args=arguments, name="retention", daemon=True
        ).start()
        return stop

    def _go_on(self, name: str) -> None:
        """Continue a run by the service's own decision."""
        CHANNEL.set("service")  # of this thread
        with audited(self._journal.database, "resume run", run=name):
            self.resume(name)

    def start(self, tree: dict[str, Any], caller: Caller | None = None) -> str:
        """Start or resume the run that `tree` describes, in an actor that outlives its caller;
        return the run's name.

        Settings that differ from those of an existing run go to the journal with the name of the
        caller.

        Raises:
            UserError: a mistake in the configuration.
            ApiError: 403, the token is for runs of other names.
            ApiError: 409, a run of that name has another configuration.
        """
        config = restrict_run(parse_config(add_storage(tree, self._service)), self._service)
        check_names(config, caller)
        start_ray()
        driven = self._journal.has_live_controller(config.name)
        if not driven:
            self._check_room(config.name)
            raise_problems(find_problems(config, cluster=True) + find_cluster_problems(config))
        try:
            config = enter_run(config, self._journal, caller.name if caller else None)
        except StorageUnavailableError:
            raise
        except UserError as error:
            raise ApiError(409, str(error)) from None
        if not driven:
            set_served(self._journal, config.name, True)
        self._drive(config)
        return config.name

    def _drive(self, config: RunConfig) -> None:
        """Start the controller, and enter by whose request, if it was one over HTTP."""
        request = find_id()
        if request is not None and not self._journal.has_live_controller(config.name):
            self._journal.note_requested(config.name, request)
        start_controller(config, request=request)

    def find_mistakes(self, tree: dict[str, Any]) -> dict[str, str]:
        """Return a line for each wrong key of a new run's configuration; a mistake that belongs to
        no single key has the key "".
        """
        try:
            config = RunConfig.model_validate(add_storage(tree, self._service))
            restrict_run(config, self._service)
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
        """Return the estimate that `atgen-ray plan` prints, computed in a process of its own.

        Args:
            gone: returns whether the caller has left; the plan then ends.

        Raises:
            UserError: a mistake in the configuration, or data that cannot be read.
            ApiError: 503, the cluster has no free resources to read the data; says what is free.
        """
        import ray

        config = await run_in_threadpool(
            lambda: restrict_run(parse_config(add_storage(tree, self._service)), self._service)
        )
        await run_in_threadpool(start_ray)
        problems = await run_in_threadpool(
            lambda: find_problems(config, cluster=True) + find_cluster_problems(config)
        )
        planned = ray.remote(num_cpus=0, max_retries=0)(plan_within_ray).remote(config, problems)
        try:
            return await _await_plan(planned, gone)
        finally:
            ray.cancel(planned, force=True)  # has no effect on a task that has ended

    def resume(self, name: str) -> None:
        """Continue a run with the configuration it was given; nothing happens if it runs
        already.
        """
        tree = dict(self._find(name).config)
        config = parse_config(tree | {"database_url": self._service.database_url})
        start_ray()
        config = restrict_run(config, self._service)
        if not self._journal.has_live_controller(name):
            set_served(self._journal, name, True)
        self._drive(config)

    def check(self) -> None:
        """Check that the journal answers and has the tables of this version; the cost does not
        grow with the runs.

        Raises:
            StorageUnavailableError: the database cannot be used, or was changed by another version.
        """
        self._journal.database.check()

    def list(self, caller: Caller | None = None) -> list[dict[str, Any]]:
        """Return the rows of `atgen-ray runs list` with the `metric` that steers each run and its
        last `score`; for a `caller` only those of runs that the caller may see. An annotator gets
        no dollars.
        """
        rows = [
            row | self._scores.find(row["name"], row["updated"])
            for row in summarize_runs(self._journal)
            if caller is None or caller.may_see(row["name"])
        ]
        if caller is not None and not caller.sees_money:
            rows = [row | {"dollars": None} for row in rows]
        return rows

    def show(self, name: str, caller: Caller | None = None) -> dict[str, Any]:
        """Return what `atgen-ray runs show --json` prints. An annotator gets no dollars, no
        settings, and no texts of steps.
        """
        self._find(name)
        view = describe_run(self._journal, self._service.storage, name)
        return hide_from_annotators(view) if caller and not caller.sees_money else view

    def stop(self, name: str) -> str:
        """Ask the run's controller to stop, or end a run that has none at once; return a sentence
        that says what will happen.
        """
        self._find(name)
        if not self._journal.has_live_controller(name):
            stop_controller(name)  # one that has not got its lease yet
        return ask_to_stop(self._journal, name)

    def rename(self, name: str, title: str | None) -> None:
        """Give the run a title, or take it away; its name stays."""
        self._find(name)
        set_title(self._journal, name, title)

    def archive(self, name: str, archived: bool) -> None:
        """Leave the run out of the list, or show it there again."""
        self._find(name)
        set_archived(self._journal, name, archived)

    def remove(self, name: str, confirmation: str) -> None:
        """Remove the run for ever, with its labels, its folder and its adapters.

        Raises:
            ApiError: 409, `confirmation` is not the name, or a controller drives the run.
        """
        self._find(name)
        if confirmation != name:
            raise ApiError(
                409, f"confirm is {confirmation[:80]!r}, expected the name of the run, {name!r}"
            )
        if has_controller(name):
            raise ApiError(409, f"run '{name}' goes on; expected one that was stopped or has ended")
        remove_run(self._journal, self._service.storage, name)

    def promote(self, name: str, round: int, metric: str | None, force: bool) -> str:
        """Let the run's name stand for the adapter of `round`; return a sentence that says so.

        Raises:
            ApiError: 409, its score is shown to be worse.
            UserError: the run has not trained in that round, or has no such metric.
        """
        self._find(name)
        try:
            return promote_round(self._journal, self._service.storage, name, round, metric, force)
        except ShownWorseError as error:
            raise ApiError(
                409, str(error).replace("--force promotes", "force=true promotes")
            ) from None

    def take_promotion_back(self, name: str) -> str:
        """Go back to the adapter that was promoted before; return a sentence that says so.

        Raises:
            ApiError: 409, nothing is promoted.
        """
        self._find(name)
        try:
            return take_promotion_back(self._journal, name)
        except StorageUnavailableError:
            raise
        except UserError as error:
            raise ApiError(409, str(error)) from None

    def add(self, name: str, source: str, caller: Caller) -> str:
        """Add the rows of `source` to the run's pool for `caller`; return a sentence that says
        what was added.

        Raises:
            ApiError: 409, no row of it is new.
            UserError: it is not below the service's data_roots, too large, or cannot be used.
        """
        self._find(name)
        service = self._service
        place = check_addition(source, service)
        try:
            return str(add_rows(self._journal, service.storage, name, place, caller.name))
        except NothingNewError as error:
            raise ApiError(409, str(error)) from None

    def retry(self, name: str, only: str | None) -> str:
        """Open what ended without a label, so that it is asked again, and continue the run; return
        a sentence that says what will happen.

        Raises:
            RunBusyError: a controller drives the run.
        """
        self._find(name)
        said = str(reopen_requests(self._journal, name, only))
        self.resume(name)
        return said

    def export(self, name: str, format: str, by: str) -> bytes:
        """Return the labelled set as a file for `by`; a folder is packed as zip."""
        self._find(name)
        with tempfile.TemporaryDirectory(prefix="atgen-export-") as folder:
            output = Path(folder, f"labels.{format}")
            count = write_labels(self._journal, self._service.storage, name, format, output)
            note_export(self._journal, name, "labels", format, count, by)
            if output.is_dir():
                output = Path(shutil.make_archive(str(Path(folder, name)), "zip", output))
            return output.read_bytes()

    def pack(self, name: str, what: str, round: int | None, by: str) -> Iterator[bytes]:
        """Return a data set or an adapter with its card for `by`, as a zip archive that is made
        while it is read; of a card the text alone.

        Args:
            what: dataset, adapter or card.
            round: of a model; default: the last one that was trained.

        Raises:
            UserError: the round has no adapter.
        """
        self._find(name)
        service = self._service
        source = open_source(self._journal, name, service.storage, service.database_url)
        place = tempfile.TemporaryDirectory(prefix="atgen-export-")
        try:
            path = Path(place.name, what)
            write_part(source, what, path, round, by, None)
        except BaseException:
            place.cleanup()
            raise

        def read() -> Iterator[bytes]:
            with place:
                yield from stream_zip(path) if path.is_dir() else [path.read_bytes()]

        return read()

    def report(self, names: Sequence[str], by: str) -> str:
        """Return the report on one run, or on several compared, for `by`."""
        for name in names:
            self._find(name)
            note_export(self._journal, name, REPORT, "html", 1, by)
        return render_page([view_run(name, self._journal, self._service.storage) for name in names])

    def events(
        self, name: str, after: int, caller: Caller | None = None
    ) -> AsyncGenerator[str, None]:
        """Return the run's events after number `after` as server-sent events until the run is over
        or its controller is gone, and then one called `end`; where the service ends before that,
        one called `closing`. An annotator gets no payloads, which hold settings, dollars and texts.

        Between them events called `activity`, which have no number, describe the step under way:
        round, step, done, total, started, and the resources that Ray waits for, if any.
        """
        self._find(name)
        return self._stream(name, after, caller)

    async def _stream(
        self, name: str, after: int, caller: Caller | None
    ) -> AsyncGenerator[str, None]:
        sent = time.monotonic()
        activity = None
        bare = caller is not None and not caller.sees_money
        while True:
            # A stream outlives neither its token, nor its session, nor its person's place here.
            if caller is not None and not await run_in_threadpool(
                self._tokens.is_active, caller, name
            ):
                return
            status, events = await run_in_threadpool(self._look, name, after)
            # A page of them: a run may have many, and whoever reads slowly holds what is here.
            for event in events:
                after = event.sequence
                sent = time.monotonic()
                told = asdict(event) | ({"payload": {}} if bare else {})
                yield f"id: {after}\nevent: {event.kind}\ndata: {encode_json(told)}\n\n"
            if len(events) == EVENTS:
                continue
            if status in (*OVER, INTERRUPTED) and not await run_in_threadpool(self.goes_on, name):
                yield f"event: end\ndata: {encode_json({'status': status})}\n\n"
                return
            if await run_in_threadpool(is_ending):  # a client that comes again finds the next one
                yield f"event: closing\ndata: {encode_json({'status': status})}\n\n"
                return
            now = await run_in_threadpool(find_activity, name)
            if now is not None and now != activity:
                activity = now
                sent = time.monotonic()
                yield f"event: activity\ndata: {encode_json(now)}\n\n"
            if time.monotonic() - sent > QUIET_SECONDS:  # proxies cut a connection that is silent
                sent = time.monotonic()
                yield ": still here\n\n"
            await asyncio.sleep(POLL_SECONDS)

    def goes_on(self, name: str) -> bool:
        """Return whether the run was resumed, although its journal holds the end of the attempt
        before.
        """
        return has_controller(name) or self._journal.has_live_controller(name)

    def _look(self, name: str, after: int) -> tuple[str, Sequence[Event]]:
        # The status is read before the events, so that those of an ended run are complete.
        status = self._journal.describe_status(self._journal.run(name))
        return status, self._journal.events(name, after, limit=EVENTS)

    def _check_room(self, name: str) -> None:
        """Raise ApiError 429 where so many runs are under way that no other may be started."""
        under_way = [run.name for run in self._journal.totals() if run.status in UNDER_WAY]
        if name in under_way or len(under_way) < self._service.limits.runs:
            return
        # Of these, some have a controller that died.
        going = sum(map(self._journal.has_live_controller, under_way))
        if going >= self._service.limits.runs:
            raise ApiError(
                429,
                f"{going} runs are under way, expected at most {self._service.limits.runs} "
                f"(limits.runs): wait for one of them, or stop it",
            )

    def _find(self, name: str) -> Any:
        try:
            return self._journal.run(name)
        except StorageUnavailableError:
            raise
        except UserError as error:
            raise ApiError(404, str(error)) from None


HIDDEN = ("dollars", "inherited_dollars")  # of a round


def hide_from_annotators(view: dict[str, Any]) -> dict[str, Any]:
    """Return a run as of `describe_run` without money, settings, messages and dead letters."""
    metrics = [
        {key: value for key, value in row.items() if key not in HIDDEN} for row in view["metrics"]
    ]
    hidden: dict[str, Any] = {
        "dollars": None,
        "message": "",
        "annotation": {},
        "changes": [],
        "added": [],
        "growths": [],
        "dead_letters": [],
        "dead_letter_count": 0,
    }
    return view | hidden | {"metrics": metrics}


async def _await_plan(planned: Any, gone: Callable[[], Awaitable[bool]]) -> dict[str, Any]:
    """Return the result of the task; raise ApiError if the caller left, or if Ray has found no
    resources for the task's own work in `ROOM_SECONDS`.
    """
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


def _name_key(message: str) -> str:
    """Return the key at the beginning of a message such as `data.pool is ...`."""
    match = re.match(r"[a-z_]+(\.[a-z_]+)*(?= is )", message)
    return match[0] if match else ""
