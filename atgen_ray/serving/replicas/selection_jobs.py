"""Background jobs for selections that are too large to wait for. A job is a folder with the request
and later the result, and a detached actor that computes it.

The folder is the only state: asking for a job whose actor died starts it again, with the same
result.
"""

import threading
import traceback
from typing import Any
from uuid import uuid4

import ray

from atgen_ray.config import ServiceConfig
from atgen_ray.core.names import NAME_PATTERN
from atgen_ray.ray_runtime.hardware import fit_cpus
from atgen_ray.ray_runtime.session import NAMESPACE, start_ray
from atgen_ray.serving.errors import ApiError, explain
from atgen_ray.serving.replicas.selector import Selector
from atgen_ray.serving.schemas.select import SelectBody
from atgen_ray.store.run_folder import RunFolder

REQUEST = "request.json"
RESULT = "result.json"
PREFIX = "selection-"


class SelectionJobs:
    """Jobs of one service, kept under `<storage>/selections`."""

    def __init__(self, service: ServiceConfig) -> None:
        self._service = service

    def start(self, body: SelectBody) -> str:
        """Start a job and return its handle.

        Raises:
            ApiError: 429, the service runs as many jobs as it allows.
        """
        start_ray()
        limit = self._service.limits.background_selects
        if _count_jobs() >= limit:
            raise ApiError(429, f"{limit} selections are under way in the background already")
        job = f"{PREFIX}{uuid4().hex}"
        self._folder(job).write_json(REQUEST, body.model_dump(mode="json"))
        self._start_actor(job)
        return job

    def find(self, job: str) -> dict[str, Any]:
        """Return the fields of SelectionBody for the job as it is now.

        Raises:
            ApiError: 404, there is no such job.
        """
        folder = self._folder(job)
        if not folder.exists(REQUEST):
            raise ApiError(404, f"job '{job}' is unknown")
        if folder.exists(RESULT):
            return {"job": job} | dict(folder.read_json(RESULT))
        start_ray()
        self._start_actor(job)
        return {"status": "running", "job": job}

    def _folder(self, job: str) -> RunFolder:
        if not (NAME_PATTERN.fullmatch(job) and job.startswith(PREFIX)):
            raise ApiError(404, "expected the handle of a job, selection-...")
        return RunFolder(f"{self._service.storage.rstrip('/')}/selections", job)

    def _start_actor(self, job: str) -> None:
        SelectionActor.options(  # type: ignore[attr-defined]
            name=job,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=fit_cpus(1, 0.1),
            max_restarts=-1,
        ).remote(self._service, self._folder(job))


def _count_jobs() -> int:
    """Return the number of jobs that an actor works on; each is a process of its own."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    return sum(
        actor["namespace"] == NAMESPACE and actor["name"].startswith(PREFIX) for actor in actors
    )


@ray.remote
class SelectionActor:
    """Actor that computes one selection and ends."""

    def __init__(self, service: ServiceConfig, folder: RunFolder) -> None:
        self._service = service
        self._folder = folder
        threading.Thread(target=self._select, name="selection", daemon=True).start()

    def _select(self) -> None:
        try:
            body = SelectBody.model_validate(self._folder.read_json(REQUEST))
            selected = Selector(self._service, ready=False).select_now(body)
            result = {"status": "finished", "selected": selected}
        except Exception as error:  # the boundary of the actor: the error becomes the job's result
            meaning = explain(error)
            if meaning is None:
                traceback.print_exc()
            message = meaning[1] if meaning else traceback.format_exc().strip().splitlines()[-1]
            result = {"status": "failed", "message": message}
        try:
            self._folder.write_json(RESULT, result)
        finally:  # without a result the next question for the job starts it again
            ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
